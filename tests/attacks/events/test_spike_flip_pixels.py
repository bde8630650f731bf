"""Pixels behind an encoder: the gradient at each spike, one step by hand, the distance, random pixels beaten."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.common.batching import BatchSizer
from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.data.batch import Batch
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.errors import InputError
from snnrobust.objectives.logits import Margin
from snnrobust.search.attack_context import AttackContext, SearchResult
from snnrobust.search.batch_queries import BatchQueries
from snnrobust.search.loop import perturb
from snnrobust.search.queries import ModelQueries
from snnrobust.search.scoring import Scorer
from snnrobust.spike_gradients.swap import Own
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust.threat_models.verify import verify
from snnrobust_attacks.estimators.raised_threshold import RaisedThreshold
from snnrobust_attacks.events.spike_flip_pixels import SpikeFlipPixels

STEPS = 5


def linear() -> tuple[sr.SpikingModel, Tensor]:
    """A net without spikes behind a Poisson encoder: logits are linear in the rate; and its weights [2, 16]."""
    layer = nn.Linear(16, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(2, 16, generator=torch.Generator().manual_seed(0)))
    net = nn.Sequential(nn.Flatten(2), layer)
    return sr.wrap(net, steps=STEPS, encoder="poisson", name="linear"), layer.weight.detach()


def poisson() -> sr.SpikingModel:
    return sr.wrap(tiny_model().net, steps=STEPS, encoder="poisson", name="poisson")


def queries(model: sr.SpikingModel, estimator: Any = None) -> ModelQueries:
    return ModelQueries(model, Margin(), estimator or Own(), first_draw=3)


@pytest.mark.parametrize("estimator", [Own(), RaisedThreshold(by=0.2)], ids=repr)
def test_the_gradient_at_the_spikes_adds_up_to_that_at_the_pixels(estimator: Any) -> None:
    model, data = poisson(), tiny_data()
    batch = Batch(data.x, data.y, data.index)
    asked = queries(model, estimator)
    with model.session():
        spikes, by_step = asked.encoded_gradient(batch, 4)
        assert asked.spent.backwards == len(data)
        pixels, _, _ = asked.gradient(batch, 4)
        silent = model.without_encoder().logits(spikes)
    assert spikes.shape == by_step.shape == (len(data), STEPS, 1, 4, 4)
    assert set(spikes.flatten().tolist()) == {0.0, 1.0}
    assert torch.allclose(by_step.sum(dim=1), pixels, atol=1e-6)
    assert not torch.allclose(by_step[:, 0], by_step[:, 1])
    assert torch.allclose(silent, asked.logits(batch, 4), atol=1e-6)  # the spikes are those of the query
    assert not torch.equal(spikes, asked.encoded_gradient(batch, 5)[0])


def test_the_model_without_its_encoder_shares_the_net_alone() -> None:
    model = poisson()
    other = model.without_encoder()
    assert other.net is model.net
    assert (other.encoder, other.static, other.stochastic) == (None, False, False)
    assert (model.encoder, model.static, model.stochastic) == ("poisson", True, True)
    sequence = (torch.rand(2, STEPS, 1, 4, 4) < 0.5).float()
    with model.session(), other.session():
        assert torch.equal(other.logits(sequence), other.logits(sequence))


def test_a_step_by_hand() -> None:
    """On a linear net, where the gradient is known at every spike."""
    model, weight = linear()
    x, y = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 0, 1])
    index, plugin, rng = torch.arange(4), SpikeFlipPixels(steps=1), Draws(0, "x")
    threat = ThreatModel("l2", 100.0)
    asked = BatchQueries(queries(model), Batch(x, y, index))
    slope = (weight[1 - y] - weight[y]).reshape(4, 1, 1, 4, 4)  # of the margin, but for 1 / T
    spikes = asked.encoded_gradient(x, y, index, 1)[0]
    drawn = rng.sub("spike-flip").uniform(index, spikes.shape[1:], 0) < slope.abs() / slope.abs().amax(
        dim=(2, 3, 4), keepdim=True
    )
    set_to = torch.where(drawn, (slope > 0).float().expand_as(spikes), spikes)
    expected = (x + (set_to - spikes).mean(dim=1)).clamp(0, 1)
    # The image of least margin is returned: the step, on the draw that compares the two.
    before, after = (asked.logits(each, index, 2 * k) for k, each in enumerate((x, expected)))
    lead = [(each.gather(1, y[:, None]) - each.gather(1, 1 - y[:, None]))[:, 0] for each in (before, after)]
    found = plugin.perturb(asked, x, y, threat, rng, index)
    assert torch.allclose(found, torch.where((lead[1] < lead[0])[:, None, None, None], expected, x), atol=1e-6)
    assert int((lead[1] < lead[0]).sum()) >= 2


def run(model: sr.SpikingModel, data: Dataset, plugin: Any, threat: ThreatModel, pool: int = 64) -> SearchResult:
    rng = Draws(0, "pixels")
    context = AttackContext(Scorer(model, 0, 20), queries(model), data, threat, rng, BatchSizer(pool), True, "pixels")
    found: list[SearchResult] = []
    with model.session():
        perturb(context, plugin, torch.arange(len(data)), found.append)
    if len(found) == 1:
        return found[0]
    found[0].x = torch.cat([each.x for each in found])
    return found[0]


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_images_within_the_radius_that_beat_random_ones(norm: Any) -> None:
    model, data = poisson(), tiny_data()
    threat = ThreatModel(norm, 1.2 if norm == "l2" else 0.3)
    attacked = run(model, data, SpikeFlipPixels(), threat)
    verify(attacked.x, data.x, threat, data.index.tolist(), "spike-flip-pixels")
    scorer, leads = Scorer(model, 0, 20), []
    for draw in range(10):
        x = threat.start(data.x, Draws(0, "random"), data.index, draw)
        logits = scorer.score(Batch(x, data.y, data.index)).logits
        leads.append(-Margin()(logits, data.y))
    assert float(attacked.margin.mean()) < float(torch.stack(leads).mean(dim=1).min())


def test_batch_size_and_radius_zero() -> None:
    model, data = poisson(), tiny_data()
    threat = ThreatModel("l2", 1.0)
    whole, small = (run(model, data, SpikeFlipPixels(steps=4), threat, pool).x for pool in (64, 5))
    assert torch.equal(whole, small)
    assert torch.equal(run(model, data, SpikeFlipPixels(steps=4), ThreatModel("l2", 0.0)).x, data.x)


def test_a_silent_net_flips_a_share_of_the_spikes() -> None:
    net = nn.Sequential(nn.Flatten(2), nn.Linear(16, 2))
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    model = sr.wrap(net, steps=STEPS, encoder="poisson", name="dead")
    plugin, x = SpikeFlipPixels(share=0.2), torch.full((50, STEPS, 1, 4, 4), 0.0)
    flipped = plugin._flipped(x, torch.zeros_like(x), Draws(0, "x"), torch.arange(50), 0)
    assert float(flipped.mean()) == pytest.approx(0.2, abs=0.03)
    data = Dataset.of(torch.rand(3, 1, 4, 4), torch.zeros(3, dtype=torch.long))
    verify(run(model, data, plugin, ThreatModel("l2", 0.5)).x, data.x, ThreatModel("l2", 0.5), [0, 1, 2], "pixels")


def test_models_and_norms_that_do_not_fit() -> None:
    plugin, static, temporal = SpikeFlipPixels(), tiny_data(), tiny_data(temporal=True)

    def check(model: sr.SpikingModel, data: Dataset, norm: str = "l2") -> None:
        task = sr.load("pgd", norm=norm, epsilon=1, label="mine")
        plugin.check(model, EvaluationData(data, data, data, 4), task)

    check(poisson(), static)
    with pytest.raises(InputError, match="expected images that an encoder of model 'tiny' makes spikes for 'mine'"):
        check(tiny_model(temporal=True), temporal)
    with pytest.raises(InputError, match=r"expected norm in \['l2', 'linf', 'l1'\] for 'mine', got 'l0'"):
        check(poisson(), static, "l0")

    def doubled(x: Tensor, steps: int) -> Tensor:
        return torch.cat([x, 1 - x], dim=1).unsqueeze(1).repeat(1, steps, 1, 1, 1)

    with pytest.raises(InputError, match=r"expected an encoder that keeps the shape \(1, 4, 4\)"):
        check(sr.wrap(tiny_model().net, steps=STEPS, encoder=doubled, name="two"), static)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"share": 0.0}, {"pull": 1.5}], ids=repr)
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"expected {next(iter(wrong))}"):
        SpikeFlipPixels(**wrong)
