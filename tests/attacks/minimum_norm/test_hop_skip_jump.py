"""Decision-based attack: closed forms on linear nets, no gradients, independence of the batch size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.common.random import Draws
from snnrobust.data.batch import Batch
from snnrobust.errors import InputError
from snnrobust.objectives.logits import Margin, margin
from snnrobust.search.batch_queries import BatchQueries
from snnrobust.search.queries import ModelQueries
from snnrobust.spike_gradients.swap import Own
from snnrobust.testing import check_plugin
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.threat_models.threat_model import Norm, ThreatModel
from snnrobust.threat_models.verify import verify
from snnrobust_attacks.minimum_norm.hop_skip_jump import HopSkipJump
from snnrobust_attacks.minimum_norm.shared import bisect_to_boundary, length, shorten, wrong

BOX = (-4.0, 4.0)
NORMS: list[Norm] = ["linf", "l2"]


def find(
    model: sr.SpikingModel, x: Tensor, y: Tensor, threat: ThreatModel, plugin: HopSkipJump, pool: int = 64
) -> tuple[Tensor, ModelQueries]:
    """Examples for x [N, *], in chunks of `pool`, and the queries."""
    rng, index = Draws(0, "decisions"), torch.arange(len(x))
    queries = ModelQueries(model, Margin(), Own(), first_draw=rng.number())
    samples = Batch(x, y, index)
    with model.session():
        found = [
            plugin.perturb(BatchQueries(queries, samples), x[rows], y[rows], threat, rng.on(x), index[rows])
            for rows in torch.split(index, pool)
        ]
    return torch.cat(found), queries


def linear(shape: tuple[int, ...]) -> tuple[sr.SpikingModel, Tensor, Tensor, Tensor]:
    """A linear model in a box without effect, inputs, labels, and the gradient of each margin [N, D]."""
    generator = torch.Generator().manual_seed(3)
    entries = torch.Size(shape).numel()
    layer = nn.Linear(entries, 2).double()
    with torch.no_grad():
        layer.weight.copy_(torch.randn(2, entries, generator=generator))
        layer.bias.zero_()
    model = sr.wrap(nn.Sequential(nn.Flatten(), layer), layout="N", bounds=BOX, name="linear")
    x = torch.randn(12, *shape, generator=generator).double().clamp(-2, 2)
    y = model.logits(x).argmax(dim=1).detach()
    return model, x, y, (layer.weight[y] - layer.weight[1 - y]).detach()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(12,), (2, 3, 4)])
def test_it_approaches_the_linear_distance_without_gradients(norm: Norm, shape: tuple[int, ...]) -> None:
    model, x, y, slope = linear(shape)
    expected = margin(model.logits(x), y).detach() / slope.norm(p={"linf": 1.0, "l2": 2.0}[norm], dim=1)
    found, queries = find(model, x, y, ThreatModel(norm, 100.0, BOX), HopSkipJump(steps=15, queries=50))
    ratio = length(found - x, norm) / expected
    assert bool(wrong(model.logits(found), y).all())
    assert 1 - 1e-9 <= float(ratio.min()) <= float(ratio.max()) < 1.1, ratio
    assert queries.spent.backwards == 0
    assert queries.spent.forwards < 4000 * len(x)


def test_more_queries_come_closer() -> None:
    model, x, y, _ = linear((24,))
    threat = ThreatModel("linf", 100.0, BOX)
    few, many = (find(model, x, y, threat, HopSkipJump(steps=s, queries=30))[0] for s in (1, 12))
    assert float(length(many - x, "linf").mean()) < 0.8 * float(length(few - x, "linf").mean())


@pytest.mark.parametrize("norm", NORMS)
def test_out_of_reach_it_returns_the_projection(norm: Norm) -> None:
    model, x, y, slope = linear((12,))
    expected = margin(model.logits(x), y).detach() / slope.norm(p={"linf": 1.0, "l2": 2.0}[norm], dim=1)
    threat = ThreatModel(norm, 0.5 * float(expected.min()), BOX)
    found, _ = find(model, x, y, threat, HopSkipJump(steps=3, queries=20))
    verify(found, x, threat, range(len(x)), "hop-skip-jump")
    assert not wrong(model.logits(found), y).any()
    assert torch.allclose(length(found - x, norm), torch.full((len(x),), threat.epsilon).double())


@pytest.mark.parametrize("pool", [1, 5])
@pytest.mark.parametrize("norm", NORMS)
def test_pool_size_does_not_matter(pool: int, norm: Norm) -> None:
    model, data = tiny_model(), tiny_data(count=8)
    threat, plugin = ThreatModel(norm, 4.0), HopSkipJump(steps=2, queries=12, starts=3)
    (whole, asked), (small, also) = (find(model, data.x, data.y, threat, plugin, pool=p) for p in (64, pool))
    assert torch.allclose(whole, small, atol=1e-5)
    assert asked.spent.forwards == also.spent.forwards
    assert bool(wrong(model.logits(whole), data.y).all())


def test_nothing_is_changed_where_no_image_is_wrong() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([1.0, 0.0]).expand(len(x), 2)

    model = sr.wrap(Constant(), layout="N", name="constant")
    x, y = torch.rand(3, 4), torch.tensor([0, 0, 1])
    found, _ = find(model, x, y, ThreatModel("l2", 1.0), HopSkipJump(steps=2, queries=4))
    assert torch.equal(found, x)  # the last is wrong as it is, the others can't be made so


def test_the_furthest_image_is_the_last_resort() -> None:
    class Corner(nn.Module):
        """Wrong in a corner too small for random images."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([torch.ones(len(x)), 2 * (x.amin(dim=1) > 0.99).to(x)], dim=1)

    model = sr.wrap(Corner(), layout="N", name="corner")
    x, y = torch.full((2, 8), 0.4), torch.zeros(2, dtype=torch.long)
    found, _ = find(model, x, y, ThreatModel("linf", 1.0), HopSkipJump(steps=1, queries=4, starts=3))
    assert bool(((length(found - x, "linf") - 0.59).abs() < 1e-3).all())


def test_radius_zero_allows_the_original_alone() -> None:
    model, x, y, _ = linear((12,))
    found, queries = find(model, x, 1 - y, ThreatModel("l2", 0.0, BOX), HopSkipJump())
    assert torch.equal(found, x)
    assert queries.spent.forwards == 0


def test_bisection_keeps_to_points_that_were_asked_about() -> None:
    """The wrong region has a hole; the result is wrong and no further than the start."""

    def decide(x: Tensor) -> Tensor:
        size = x.abs().amax(dim=1)
        return (size > 0.3) & ~((size > 0.45) & (size < 0.6))

    x0, x = torch.zeros(3, 2), torch.tensor([[1.0, 0.5], [0.2, 0.1], [0.0, 0.8]])
    found = bisect_to_boundary(x, x0, decide(x), "l2", decide, bisections=20)
    assert decide(found).tolist() == [True, False, True]
    assert torch.equal(found[1], x[1])
    size = found.abs().amax(dim=1)
    assert all(min(abs(float(s) - 0.3), abs(float(s) - 0.6)) < 1e-5 for s in size[[0, 2]])


def test_changes_are_cut_under_linf_and_scaled_otherwise() -> None:
    delta, half = torch.tensor([[1.0, -0.4, 0.2]]), torch.tensor([0.5])
    assert torch.equal(shorten(delta, half, "linf"), torch.tensor([[0.5, -0.4, 0.2]]))
    assert torch.equal(shorten(delta, half, "l2"), delta / 2)


def test_it_conforms() -> None:
    check_plugin("hop-skip-jump", steps=2, queries=8, starts=2)


def test_domain_and_norm_are_refused_early() -> None:
    with pytest.raises(InputError, match="domain 'real'"):
        sr.evaluate(tiny_model(temporal=True), tiny_data(temporal=True), [sr.load("hop-skip-jump", epsilon=1.0)])
    with pytest.raises(InputError, match="expected norm in"):
        sr.evaluate(tiny_model(), tiny_data(), [sr.load("hop-skip-jump", epsilon=1.0, norm="l1")])


@pytest.mark.parametrize("parameters", [{"steps": 0}, {"queries": 1}, {"starts": True}, {"probe": 0.0}], ids=repr)
def test_settings_out_of_range(parameters: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(parameters))):
        HopSkipJump(**parameters)
