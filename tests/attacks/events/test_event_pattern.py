"""Patterns of added events: on their mask alone, within domain and budget, stronger by gradient than by chance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import snnrobust as sr
from snnrobust.common.random import Draws
from snnrobust.errors import InputError
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.threat_models.threat_model import Domain, Norm, ThreatModel
from snnrobust.threat_models.verify import verify
from snnrobust_attacks.events.event_pattern import EventPattern

BOUNDS: dict[Domain, tuple[float, float]] = {"integer": (0.0, 3.0), "binary": (0.0, 1.0)}
PATTERNS = ("frame", "corner", "dash")


def on_pattern(changed: Tensor, pattern: str, width: int) -> bool:
    """Whether all changes [N, T, C, H, W] lie on a pattern of that width, written entry by entry."""
    steps, height, wide = changed.shape[1], changed.shape[3], changed.shape[4]
    for sample in changed:
        rows, begins = set(), set(range(wide))
        for t, _, row, column in sample.nonzero().tolist():
            near = min(row, height - 1 - row), min(column, wide - 1 - column)
            if pattern == "frame" and min(near) >= width:
                return False
            if pattern == "corner" and max(near) >= width:
                return False
            rows.add(row)
            begins &= {(column - pixel - t * width) % wide for pixel in range(width)}
        if pattern == "dash" and (len(rows) > 1 or not begins):
            return False
    return steps > 0


def check_allowed(
    oracle: type[Any], seed: int, domain: Domain, norm: Norm, epsilon: int, plugin: EventPattern, dead: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    low, high = BOUNDS[domain]
    x = (high * torch.rand(3, 4, 2, 5, 6, generator=generator) ** 3).round()
    limits: tuple[tuple[Norm, float], ...] = (("l0-step", 2),) if norm == "l0" and seed % 2 else ()
    threat = ThreatModel(norm, epsilon, (low, high), domain, limits)
    y, index, rng = torch.tensor([0, 1, 2]), torch.arange(3), Draws(seed, "pattern")
    found = plugin.perturb(oracle(x, threat, seed, dead=dead), x, y, threat, rng, index)
    verify(found, x, threat, index.tolist(), "event-pattern")
    assert bool((found >= x).all())  # events are added, none is removed
    width = plugin.width or {"dash": 2}.get(plugin.pattern, 9)
    assert on_pattern(found != x, plugin.pattern, width)
    alone = plugin.perturb(oracle(x, threat, seed, dead=dead), x[1:2], y[1:2], threat, rng, index[1:2])
    if plugin.chosen == "random":
        assert torch.equal(alone, found[1:2])


ANY: dict[str, Any] = {
    "seed": st.integers(0, 10**6),
    "domain": st.sampled_from(["integer", "binary"]),
    "norm": st.sampled_from(EventPattern.norms),
    "epsilon": st.sampled_from([0, 1, 3, 10, 500]),
    "plugin": st.builds(
        EventPattern,
        pattern=st.sampled_from(PATTERNS),
        chosen=st.sampled_from(["random", "gradient"]),
        width=st.integers(0, 5),
        steps=st.integers(1, 3),
    ),
    "dead": st.booleans(),
}


@given(**ANY)
@settings(max_examples=120)
def test_examples_are_allowed_and_on_the_pattern(random_oracle: type[Any], **case: Any) -> None:
    check_allowed(random_oracle, **case)


@pytest.mark.slow
@given(**ANY)
@settings(max_examples=3000)  # 1000 a pattern
def test_thousands_of_examples_are_allowed(random_oracle: type[Any], **case: Any) -> None:
    check_allowed(random_oracle, **case)


@pytest.mark.parametrize(("pattern", "entries"), [("frame", 18), ("corner", 16), ("dash", 3)])
def test_a_large_budget_fills_the_published_pattern_without_values_of_two(pattern: Any, entries: int) -> None:
    x = (torch.rand(2, 3, 2, 5, 6, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    threat = ThreatModel("l0", 10_000, domain="binary")
    plugin = EventPattern(pattern, "random", {"frame": 1, "corner": 2, "dash": 3}[pattern])
    found = plugin.perturb(None, x, torch.zeros(2), threat, Draws(0, "x"), torch.arange(2))  # type: ignore[arg-type]
    assert found.max() == 1
    empty = plugin.perturb(None, 0 * x, torch.zeros(2), threat, Draws(0, "x"), torch.arange(2))  # type: ignore[arg-type]
    assert (empty.sum(dim=(3, 4)) == entries).all()  # at each step, in both polarities
    assert torch.equal(found, torch.maximum(x, empty))


def test_corners_grow_with_the_budget() -> None:
    x = torch.zeros(1, 3, 2, 8, 8)
    for budget, side in ((1, 1), (24, 1), (25, 2), (96, 2), (97, 3)):
        plugin = EventPattern("corner", "random")
        threat = ThreatModel("l0", budget, domain="binary")
        mask = plugin._mask(x.shape, threat, torch.zeros(1, 2, dtype=torch.long))
        assert int(mask.sum()) == 4 * side**2 * 6


def test_the_dash_moves_by_its_length() -> None:
    x = torch.zeros(20, 4, 2, 6, 7)
    threat = ThreatModel("l0", 100, domain="binary")
    found = EventPattern("dash", "random").perturb(None, x, torch.zeros(20), threat, Draws(0, "x"), torch.arange(20))  # type: ignore[arg-type]
    for sample in found:
        row, column = (int(each) for each in sample[0, 0].nonzero()[:, 0:2].unbind(1)[0][:1]), sample[0, 0].any(dim=0)
        assert len(set(row)) == 1
        for t in range(4):
            assert torch.equal(sample[t, 0].any(dim=0), column.roll(2 * t))
            assert torch.equal(sample[t, 0], sample[t, 1])
    assert len({tuple(each.flatten().tolist()) for each in found}) > 5


@pytest.mark.parametrize(("pattern", "epsilon"), [("frame", 12), ("corner", 16), ("dash", 12)])
def test_by_gradient_beats_random_entries_of_the_pattern(
    bars: Any, beats: Callable[[np.ndarray, np.ndarray], bool], pattern: Any, epsilon: int
) -> None:
    """The control may spend as much on each sample, and in all spends more."""
    found = bars.attack(EventPattern(pattern, "gradient", steps=5), epsilon)
    control = bars.attack(EventPattern(pattern, "random"), epsilon)
    spent = [(each.x != each.original).flatten(1).sum(1) for each in (found, control)]
    assert int(spent[0].max()) <= epsilon
    assert beats(found.success.numpy(), control.success.numpy())
    random = EventPattern(pattern, "random")
    threat = ThreatModel("l0", epsilon, domain="binary")
    at = random.perturb(None, found.original, found.y, threat, Draws(0, "x"), found.index)  # type: ignore[arg-type]
    assert int((at != found.original).sum()) >= int(spent[0].sum())


def test_batches_do_not_matter(bars: Any) -> None:
    for chosen in ("random", "gradient"):
        plugin = EventPattern("dash", chosen, steps=2)  # type: ignore[arg-type]
        first = bars.attack(plugin, 6)
        factors = sr.plugin.task.AttackSettings("l0", sr.create("margin"), sr.create("own"), 1, 1)
        task = sr.Task("attack", "attack", "attack", "test", plugin, (6.0,), factors)
        test = bars.splits["test"].select(range(99, -1, -1))
        other = sr.attack(bars.model, test, task, batch_size=7, progress=False)
        assert torch.equal(first.x, other.x.flip(0))


@pytest.mark.parametrize("temporal", [True, False])
def test_other_inputs_are_refused_with_a_way_out(temporal: bool) -> None:
    factors = sr.plugin.task.AttackSettings("l0", sr.create("margin"), sr.create("own"), 1, 1)
    task = sr.Task("pattern", "pattern", "attack", "test", EventPattern(), (4.0,), factors)
    with pytest.raises(InputError, match=r"expected inputs .* of an event camera.*use 'patch' or 'universal'"):
        sr.evaluate(tiny_model(temporal), tiny_data(temporal), [task], evidence="none")


def test_bad_settings_are_refused(bars: Any) -> None:
    for wrong in ({"pattern": "star"}, {"chosen": "best"}, {"width": -1}, {"steps": 0}):
        with pytest.raises(InputError, match="expected"):
            EventPattern(**wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected width of 'attack' up to 10"):
        bars.attack(EventPattern(width=11), 4)
