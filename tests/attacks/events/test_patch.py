"""Patches: one rectangle, counted changes, the best content in small cases, stronger than random content."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.common.random import Draws
from snnrobust.errors import InputError
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.threat_models.threat_model import Domain, Norm, ThreatModel
from snnrobust.threat_models.verify import verify
from snnrobust_attacks.events.patch import Patch

BOUNDS: dict[Domain, tuple[float, float]] = {"real": (0.0, 1.0), "integer": (0.0, 3.0), "binary": (0.0, 1.0)}
REAL: tuple[Norm, ...] = ("linf", "l2", "l1", "l0")
WHOLE: tuple[Norm, ...] = ("linf", "l1", "l0", "l0-step", "additions", "deletions", "events")


def box(changed: Tensor) -> tuple[int, ...]:
    """The extent of the changes [T, C, H, W] over steps, rows and columns; zeros where there are none."""
    at = changed.nonzero()[:, [0, 2, 3]]
    return tuple((at.amax(0) - at.amin(0) + 1).tolist()) if len(at) else (0, 0, 0)


def check_allowed(
    oracle: type[Any],
    seed: int,
    case: tuple[Domain, Norm],
    epsilon: int,
    plugin: Patch,
    shape: tuple[int, ...],
    dead: bool,
) -> None:
    domain, norm = case
    generator, (low, high) = torch.Generator().manual_seed(seed), BOUNDS[domain]
    held_out, x = (low + (high - low) * torch.rand(4, *shape, generator=generator) ** 3 for _ in range(2))
    if domain != "real":
        held_out, x = held_out.round(), x.round()
    limits: tuple[tuple[Norm, float], ...] = (
        (("additions", 2),) if norm == "l0" and domain != "real" and seed % 2 else ()
    )
    threat = ThreatModel(
        norm, 0.1 * epsilon if domain == "real" and norm != "l0" else epsilon, (low, high), domain, limits
    )
    y, index, rng = torch.tensor([0, 1, 2, 0]), torch.arange(4), Draws(seed, "patch")
    asked = oracle(held_out, threat, seed, dead=dead)
    fitted = plugin.fit(asked, held_out, y, threat, rng, index)
    before = asked.asked
    found = plugin.perturb(asked, x, y, threat, rng, index, fitted)
    assert asked.asked == before  # test samples are not asked about
    verify(found, x, threat, index.tolist(), "patch")
    assert epsilon or torch.equal(found, x)
    grid = (len(x), shape[0], 1, 1, shape[1]) if len(shape) == 2 else tuple(x.shape)
    for sample in (found != x).reshape(grid):
        extent = box(sample)
        assert not plugin.side or max(extent[1:]) <= plugin.side
        assert not plugin.duration or extent[0] <= plugin.duration
    if plugin.place == "fixed":
        assert not plugin.side or max(box((found != x).reshape(grid).any(dim=0))[1:]) <= plugin.side
    shorter = plugin.perturb(asked, x[1:2, :2], y[1:2], threat, rng, index[1:2], fitted)
    verify(shorter, x[1:2, :2], threat, [1], "patch")


ANY: dict[str, Any] = {
    "seed": st.integers(0, 10**6),
    "case": st.sampled_from(
        [("real", norm) for norm in REAL] + [(domain, norm) for domain in ("integer", "binary") for norm in WHOLE]
    ),
    "epsilon": st.sampled_from([0, 1, 3, 10, 500]),
    "plugin": st.builds(
        Patch,
        side=st.integers(0, 4),
        duration=st.integers(0, 3),
        place=st.sampled_from(["fixed", "random"]),
        steps=st.integers(1, 3),
        samples=st.integers(1, 5),
    ),
    "shape": st.sampled_from([(3, 2, 4, 5), (4, 6)]),
    "dead": st.booleans(),
}


@given(**ANY)
@settings(max_examples=80)
def test_examples_are_allowed_and_inside_a_rectangle(random_oracle: type[Any], **case: Any) -> None:
    check_allowed(random_oracle, **case)


@pytest.mark.slow
@given(**ANY)
@settings(max_examples=1000)
def test_thousand_examples_are_allowed(random_oracle: type[Any], **case: Any) -> None:
    check_allowed(random_oracle, **case)


def test_the_best_patch_is_found() -> None:
    """Against all 9 places x 16 contents of 2 x 2 pixels: as few validation samples stay right."""
    layer, generator = nn.Linear(16, 3, bias=False), torch.Generator().manual_seed(5)
    layer.weight.data = torch.randn(3, 16, generator=generator)
    model = sr.wrap(nn.Sequential(nn.Flatten(), layer), layout="N", domain="binary", name="linear")
    x = (torch.rand(80, 1, 4, 4, generator=generator) < 0.5).float()
    y = model.logits(x).argmax(dim=1)
    held_out = x[:40]

    def right(changed: Tensor) -> int:
        return int((model.logits(changed).argmax(dim=1) == y[:40]).sum())

    each = []
    for top, left, *content in itertools.product(range(3), range(3), *[(0.0, 1.0)] * 4):
        changed = held_out.clone()
        changed[:, 0, top : top + 2, left : left + 2] = torch.tensor(content).reshape(2, 2)
        each.append(right(changed))
    fitted: list[dict[str, Tensor]] = []
    original = Patch.fit

    def watched(self: Patch, *arguments: Any) -> Any:
        fitted.append(original(self, *arguments))
        return fitted[-1]

    factors = sr.plugin.task.AttackSettings("l0", sr.create("margin"), sr.create("own"), 1, 1)
    task = sr.Task("patch", "patch", "attack", "test", Patch(side=2, steps=40), (4.0,), factors)
    with pytest.MonkeyPatch.context() as watching:
        watching.setattr(Patch, "fit", watched)
        sr.attack(model, {"test": (x[40:], y[40:]), "validation": (held_out, y[:40])}, task, progress=False)
    _, top, left = fitted[0]["place"].tolist()
    changed = held_out.clone()
    changed[:, 0, top : top + 2, left : left + 2] = fitted[0]["content"][0, 0]
    assert right(changed) <= min(each) + 1
    assert min(each) < 25 < np.median(each)


@pytest.mark.parametrize("place", ["fixed", "random"])
def test_it_beats_random_content_of_the_same_rectangle(
    bars: Any,
    random_control: Callable[..., Tensor],
    beats: Callable[[np.ndarray, np.ndarray], bool],
    place: Any,
) -> None:
    side, epsilon = (3, 40) if place == "fixed" else (4, 60)
    found = bars.attack(Patch(side=side, place=place, steps=60), epsilon)
    changed = found.x != found.original
    inside = torch.zeros_like(changed)
    for sample, extent in zip(
        changed if place == "random" else [changed.any(dim=0)] * len(changed), inside, strict=True
    ):
        rows, columns = sample.any(dim=(0, 1, 3)).nonzero()[:, 0], sample.any(dim=(0, 1, 2)).nonzero()[:, 0]
        assert int(rows.max() - rows.min()) < side
        assert int(columns.max() - columns.min()) < side
        extent[:, :, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    control = random_control(found.original, found.x, inside)
    spent = [(each != found.original).flatten(1).sum(1) for each in (found.x, control)]
    assert torch.equal(*spent)
    assert beats(found.success.numpy(), bars.broken(control, found.y))


def test_the_place_is_the_same_for_all_samples_or_keyed_by_each() -> None:
    x, threat = torch.zeros(30, 2, 1, 6, 6), ThreatModel("l0", 1000, domain="binary")
    ones = {"content": torch.ones(2, 1, 2, 2), "place": torch.tensor([0, 3, 1])}
    index, y = torch.arange(30), torch.zeros(30)
    oracle: Any = type("Temporal", (), {"static": False})()
    fixed = Patch(side=2).perturb(oracle, x, y, threat, Draws(0, "a"), index, ones)
    assert torch.equal(fixed, fixed[:1].expand(30, -1, -1, -1, -1))
    assert fixed[0, :, 0, 3:5, 1:3].sum() == fixed[0].sum() == 8
    random = Patch(side=2, place="random")
    moved = random.perturb(oracle, x, y, threat, Draws(0, "a"), index, ones)
    assert (moved.flatten(1).sum(dim=1) == 8).all()
    assert len({tuple(each.flatten().tolist()) for each in moved}) > 12  # of 25 places
    assert torch.equal(moved.flip(0), random.perturb(oracle, x, y, threat, Draws(0, "a"), index.flip(0), ones))


@pytest.mark.parametrize(("budget", "norm", "extent"), [(16, "l0", 1), (31, "l0", 1), (32, "l0", 2), (4, "l0-step", 2)])
def test_the_side_comes_from_the_budget(budget: int, norm: Norm, extent: int) -> None:
    """Half of T C side^2 entries fit into the budget, here of 8 x 2 x side^2, or of 2 x side^2 a step."""
    threat = ThreatModel(norm, budget, domain="binary")
    assert Patch()._box(threat, (8, 2, 10, 10)) == (8, extent, extent)


def test_inputs_without_a_sensor_and_bad_settings_are_refused(bars: Any) -> None:
    flat = sr.wrap(nn.Linear(6, 2), layout="N", name="flat")
    factors = sr.plugin.task.AttackSettings("l0", sr.create("margin"), sr.create("own"), 1, 1)
    task = sr.Task("patch", "patch", "attack", "test", Patch(), (2.0,), factors)
    x, y = torch.rand(9, 6), torch.zeros(9, dtype=torch.long)
    with pytest.raises(InputError, match=r"expected inputs .*use 'universal'"):
        sr.evaluate(flat, {"test": (x[:4], y[:4]), "validation": (x[4:], y[4:])}, [task], evidence="none")
    for wrong in ({"side": -1}, {"place": "anywhere"}, {"steps": 0}, {"duration": -1}, {"samples": 0}):
        with pytest.raises(InputError, match="expected"):
            Patch(**wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected a patch within 10 x 10 entries and 8 steps"):
        bars.attack(Patch(side=11), 4)


def test_channels_of_sequences_are_a_row() -> None:
    """On [N, T, F] it covers channels next to each other for its duration."""
    data = tiny_data(temporal=True, count=24)
    splits = {"test": data.select(range(12)), "validation": data.select(range(12, 24))}
    factors = sr.plugin.task.AttackSettings("l0", sr.create("margin"), sr.create("own"), 1, 1)
    task = sr.Task("patch", "patch", "attack", "test", Patch(side=2, duration=3, steps=10), (6.0,), factors)
    found = sr.attack(tiny_model(temporal=True), splits, task, progress=False)
    at = (found.x != found.original).any(dim=0).nonzero()
    assert (at.amax(0) - at.amin(0) + 1 <= torch.tensor([3, 2])).all()
    assert int((found.x != found.original).flatten(1).sum(1).max()) > 2
