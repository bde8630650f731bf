"""Minimum-norm attack: closed forms on linear nets, boxes, plateaus, independence of the batch size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.common.random import Draws
from snnrobust.data.batch import Batch
from snnrobust.errors import InputError
from snnrobust.objectives.logits import CrossEntropy, Margin, margin
from snnrobust.plugin import Objective, Perturbation
from snnrobust.search.batch_queries import BatchQueries
from snnrobust.search.queries import ModelQueries
from snnrobust.spike_gradients.swap import Own
from snnrobust.testing import check_plugin
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.threat_models.threat_model import Norm, ThreatModel
from snnrobust.threat_models.verify import verify
from snnrobust_attacks.minimum_norm.fmn import MinimumNorm, _project
from snnrobust_attacks.minimum_norm.shared import length, wrong

WIDE = (-100.0, 100.0)


NORMS: list[Norm] = ["linf", "l2", "l1"]


def linear(features: int, bounds: tuple[float, float]) -> sr.SpikingModel:
    generator = torch.Generator().manual_seed(3)
    layer = nn.Linear(features, 2).double()
    with torch.no_grad():
        layer.weight.copy_(torch.randn(2, features, generator=generator))
        layer.bias.zero_()
    return sr.wrap(nn.Sequential(nn.Flatten(), layer), layout="N", bounds=bounds, name="linear")


def setting(features: int, bounds: tuple[float, float] = WIDE) -> tuple[sr.SpikingModel, Tensor, Tensor, Tensor]:
    """A linear model, inputs [N, D] right by a margin, their labels, and the margin's gradient at each, [N, D]."""
    model, (low, high) = linear(features, bounds), bounds
    x = torch.randn(24, features, generator=torch.Generator().manual_seed(1)).double()
    x = x if bounds == WIDE else low + (high - low) * torch.special.ndtr(3 * x)  # most entries near a bound
    y = model.logits(x).argmax(dim=1).detach()
    weight = model.net.get_submodule("1").weight
    assert isinstance(weight, Tensor)
    return model, x, y, (weight[y] - weight[1 - y]).detach()


def least(norm: Norm, size: Tensor, slope: Tensor, room: Tensor) -> float:
    """The least norm of a change that costs a linear margin of `size`, each entry moving against the slope by at most
    `room`; by a scalar search for each norm, independent of the attack. Infinite if none is enough."""
    steep = slope.abs()
    if float((steep * room).sum()) < float(size):
        return float("inf")
    if norm == "l1":  # fill up the steepest entries first
        total, left = 0.0, float(size)
        for i in steep.argsort(descending=True).tolist():
            take = min(float(room[i]), left / float(steep[i]))
            total, left = total + take, left - take * float(steep[i])
        return total

    def change(m: float) -> Tensor:
        return torch.minimum(room, torch.full_like(room, m) if norm == "linf" else m * steep)

    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if float((steep * change(middle)).sum()) >= float(size) else (middle, high)
    return float(length(change(high)[None], norm))


def find(
    model: sr.SpikingModel,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    plugin: Perturbation,
    *,
    pool: int = 64,
    objective: Objective | None = None,
) -> tuple[Tensor, ModelQueries]:
    """Examples for x [N, *], in chunks of `pool`, and the queries."""
    rng, index = Draws(0, "closest"), torch.arange(len(x))
    queries = ModelQueries(model, objective or Margin(), Own(), first_draw=rng.number())
    samples = Batch(x, y, index)
    with model.session():
        found = [
            plugin.perturb(BatchQueries(queries, samples), x[rows], y[rows], threat, rng.on(x), index[rows])
            for rows in torch.split(index, pool)
        ]
    return torch.cat(found), queries


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("features", [12, 150])
@pytest.mark.parametrize("objective", [Margin(), CrossEntropy()])
def test_linear_distance_is_margin_over_dual_norm(norm: Norm, features: int, objective: Objective) -> None:
    model, x, y, slope = setting(features)
    dual = slope.norm(p={"linf": 1.0, "l2": 2.0, "l1": float("inf")}[norm], dim=1)
    expected = margin(model.logits(x), y).detach() / dual
    threat = ThreatModel(norm, 10 * float(expected.max()), WIDE)
    found, _ = find(model, x, y, threat, MinimumNorm(steps=50), objective=objective)
    ratio = length(found - x, norm) / expected
    assert bool(wrong(model.logits(found), y).all())
    assert 1 - 1e-6 <= float(ratio.min()) <= float(ratio.max()) < 1.01, ratio


@pytest.mark.parametrize("norm", NORMS)
def test_linear_distance_in_a_box_that_is_in_the_way(norm: Norm) -> None:
    bounds = (0.0, 1.0)
    model, x, y, slope = setting(40, bounds)
    size = margin(model.logits(x), y).detach()
    room = torch.where(slope > 0, x, 1 - x)
    boxed = torch.tensor([least(norm, *each) for each in zip(size, slope, room, strict=True)])
    free = torch.tensor([least(norm, s, w, torch.full_like(w, 1e9)) for s, w in zip(size, slope, strict=True)])
    assert float((boxed > 1.05 * free).float().mean()) > 0.3  # the box matters, or the test is void
    assert bool(torch.isfinite(boxed).all())
    threat = ThreatModel(norm, 2 * float(boxed.max()), bounds)
    found, _ = find(model, x, y, threat, MinimumNorm())
    ratio = length(found - x, norm) / boxed
    assert bool(wrong(model.logits(found), y).all())
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert 1 - 1e-5 <= float(ratio.min()) <= float(ratio.max()) < 1.02, ratio


@pytest.mark.parametrize("norm", NORMS)
def test_out_of_reach_it_ends_where_the_margin_is_least(norm: Norm) -> None:
    model, x, y, slope = setting(12)
    dual = slope.norm(p={"linf": 1.0, "l2": 2.0, "l1": float("inf")}[norm], dim=1)
    clean = margin(model.logits(x), y).detach()
    threat = ThreatModel(norm, 0.5 * float((clean / dual).min()), WIDE)
    found, _ = find(model, x, y, threat, MinimumNorm(steps=20))
    verify(found, x, threat, range(len(x)), "minimum-norm")
    gain = (clean - margin(model.logits(found), y).detach()) / (threat.epsilon * dual)
    assert 0.98 < float(gain.min()) <= float(gain.max()) < 1 + 1e-4, gain


@pytest.mark.parametrize("norm", NORMS)
def test_on_a_spiking_net_it_is_at_least_as_close_as_pgd_finds(norm: Norm) -> None:
    """The curve of one run, against a run of PGD at each radius."""
    model, data = tiny_model(), tiny_data(count=40)
    radii = {"linf": [0.02, 0.05, 0.1, 0.2], "l2": [0.05, 0.15, 0.3, 0.6], "l1": [0.1, 0.4, 0.8, 1.6]}[norm]
    threat = ThreatModel(norm, 2 * radii[-1])
    found, _ = find(model, data.x, data.y, threat, MinimumNorm(steps=40))
    verify(found, data.x, threat, range(40), "minimum-norm")
    distance = length(found - data.x, norm).masked_fill(~wrong(model.logits(found), data.y), torch.inf)
    report = sr.evaluate(model, data, [sr.load("pgd", norm=norm, epsilon=radii, steps=40)], evidence="none")
    ours = torch.stack([(distance > radius).float().mean() for radius in radii])
    theirs = torch.tensor(report.curve("pgd").value)
    assert bool((ours <= theirs + 0.03).all()), (ours, theirs)
    assert float(ours[0]) > float(ours[-1]) + 0.2


@pytest.mark.parametrize("pool", [1, 7])
@pytest.mark.parametrize("norm", NORMS)
def test_pool_size_does_not_matter(pool: int, norm: Norm) -> None:
    model, data = tiny_model(), tiny_data(count=12)
    threat = ThreatModel(norm, {"linf": 0.3, "l2": 1.0, "l1": 3.0}[norm])
    (whole, _), (small, _) = (find(model, data.x, data.y, threat, MinimumNorm(steps=10), pool=p) for p in (64, pool))
    assert torch.allclose(whole, small, atol=1e-5)
    assert not torch.equal(whole, data.x)


class Staircase(nn.Module):
    """Right on a plateau around 0.5 on which the gradient is zero; wrong beyond it in any direction that sums up."""

    def forward(self, x: Tensor) -> Tensor:
        away = (x - 0.5).abs().amax(dim=1) > 0.2
        other = away.to(x) * 2 + 0 * x.sum(dim=1)
        return torch.stack([torch.ones_like(other), other], dim=1)


def test_it_leaves_a_plateau_without_gradient() -> None:
    model = sr.wrap(Staircase(), layout="N", name="stairs")
    x = torch.full((6, 5), 0.5)
    found, _ = find(model, x, torch.zeros(6, dtype=torch.long), ThreatModel("linf", 0.5), MinimumNorm(steps=10))
    distance = length(found - x, "linf")
    assert bool(((distance > 0.2) & (distance < 0.21)).all()), distance
    assert len({tuple(row) for row in found.tolist()}) == 6  # each sample has its own random direction


def test_wrong_from_the_start_means_no_distance() -> None:
    model, x, y, _ = setting(12)
    found, _ = find(model, x, 1 - y, ThreatModel("l2", 1.0, WIDE), MinimumNorm(steps=5))
    assert torch.equal(found, x)


def test_silence_is_wrong_and_nan_is_not() -> None:
    logits = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [torch.nan, 1.0], [-torch.inf, 1.0]])
    assert wrong(logits, torch.zeros(5, dtype=torch.long)).tolist() == [True, False, True, False, True]


def test_radius_zero_allows_the_original_alone() -> None:
    model, x, y, _ = setting(12)
    found, queries = find(model, x, 1 - y, ThreatModel("l2", 0.0, WIDE), MinimumNorm(steps=5))
    assert torch.equal(found, x)
    assert queries.spent.forwards == 0


@given(st.integers(0, 10_000), st.sampled_from(NORMS))
@settings(max_examples=60, deadline=None)
def test_projection_is_the_threat_models_for_each_radius(seed: int, norm: Norm) -> None:
    generator = torch.Generator().manual_seed(seed)
    x0, step = torch.rand(5, 8, generator=generator).double(), torch.randn(5, 8, generator=generator).double()
    radius = torch.rand(5, generator=generator).double() + 0.01
    ours = x0 + _project(step, -x0, 1 - x0, radius, norm)
    for i in range(5):
        theirs = ThreatModel(norm, float(radius[i])).project((x0 + step)[i : i + 1], x0[i : i + 1])
        assert torch.allclose(ours[i : i + 1], theirs, atol=1e-5)


def test_it_conforms() -> None:
    check_plugin("minimum-norm", steps=8)


def test_domain_and_norm_are_refused_early() -> None:
    data = tiny_data(temporal=True)
    with pytest.raises(InputError, match="domain 'real'"):
        sr.evaluate(tiny_model(temporal=True), data, [sr.load("minimum-norm", epsilon=1.0)])
    with pytest.raises(InputError, match="expected norm in"):
        sr.evaluate(tiny_model(), tiny_data(), [sr.load("minimum-norm", epsilon=1.0, norm="l0")])


@pytest.mark.parametrize(
    "parameters", [{"steps": 0}, {"steps": 2.0}, {"step": 0.0}, {"shrink": 0.0}, {"shrink": 1.0}], ids=repr
)
def test_settings_out_of_range(parameters: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(parameters))):
        MinimumNorm(**parameters)
