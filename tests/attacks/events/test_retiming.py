"""Retiming: every iterate is legal, in each norm; padding stays; chance is beaten; other objectives and limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import snnrobust as sr
from snnrobust.common.random import Draws
from snnrobust.common.statistics import mcnemar
from snnrobust.data import Dataset
from snnrobust.errors import InputError
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.threat_models.threat_model import SHIFTS, Norm, ThreatModel
from snnrobust.threat_models.verify import verify
from snnrobust_attacks.events.retiming import Retiming
from snnrobust_attacks.optimisers.random_search import RandomSearch


def check_legal(
    plugin: Retiming | RandomSearch,
    seed: int,
    norm: Norm,
    epsilon: int,
    limits: dict[Norm, float],
    high: int,
    shape: tuple[int, ...],
) -> None:
    """Each iterate under gradients that a test makes up, zero ones among them; and each sample alone."""
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.randint(-2, high + 1, (3, *shape), generator=generator).clamp_min(0).float()
    others = tuple((other, most) for other, most in sorted(limits.items()) if other != norm)
    threat = ThreatModel(norm, epsilon, (0.0, float(high)), "binary" if high == 1 else "integer", others)
    index, rng = torch.tensor([4, 0, 9]), Draws(seed, "test")
    gradients = torch.randn(4, 3, *shape, generator=generator)
    gradients[:, 2] = 0
    losses = torch.randn(4, 3, generator=generator)

    def run(rows: list[int]) -> Tensor:
        at = torch.tensor(rows)
        state = plugin.init(x0[at], threat, rng, index[at])
        for k in range(4):
            verify(state["x"], x0[at], threat, rows, "retiming")
            state = plugin.step(
                state, gradients[k][at], losses[k][at], x0[at], torch.full((len(rows),), k), threat, rng, index[at]
            )
        verify(state["x"], x0[at], threat, rows, "retiming")
        return state["x"]

    together = run([0, 1, 2])
    assert torch.equal(torch.cat([run([row]) for row in range(3)]), together)


ANY: dict[str, Any] = {
    "plugin": st.sampled_from([Retiming(steps=4), Retiming(steps=4, temperature=0.0), RandomSearch(steps=4)]),
    "seed": st.integers(0, 10**6),
    "norm": st.sampled_from(SHIFTS),
    "epsilon": st.integers(0, 6),
    "limits": st.dictionaries(st.sampled_from(SHIFTS), st.integers(0, 5).map(float), max_size=2),
    "high": st.sampled_from([1, 3]),
    "shape": st.sampled_from([(5, 3), (4, 2, 2, 3), (1, 4), (7, 1)]),
}


@settings(max_examples=40, deadline=None)
@given(**ANY)
def test_every_iterate_is_legal_and_no_batch_mate_matters(**case: Any) -> None:
    check_legal(**case)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(**ANY)
def test_a_thousand_random_cases_are_legal(**case: Any) -> None:
    check_legal(**case)


@pytest.mark.parametrize(("norm", "epsilon"), [("shift-linf", 1), ("shift-l1", 30), ("shift-l0", 20)])
def test_random_retimings_of_the_same_budget_are_beaten(norm: Norm, epsilon: float, bars: Any) -> None:
    """Paired, on 100 samples that the net gets right: the attack, and a random retiming that spends as much."""
    found = bars.attack(Retiming(steps=20), epsilon, norm)
    threat = bars.model.threat_model(norm, epsilon)
    x0, y, index = found.original, found.y, found.index
    spent = threat.distance(found.x, x0)
    controls = []
    for draw in range(3):
        control = threat.start(x0, Draws(draw, "control"), index)
        assert bool((threat.distance(control, x0) >= spent).float().mean() > 0.5)  # the control spends no less
        controls.append(bars.broken(control, y))
    broken = bars.broken(found.x, y)
    for control in controls:
        assert broken.sum() > control.sum() + 10
        assert mcnemar(broken, control).two_sided < 0.01


def test_a_targeted_attack_is_legal_and_reaches_its_target(bars: Any) -> None:
    """The published attack ends its targeted mode with illegal grids."""
    task = sr.load("retiming", norm="shift-linf", epsilon=2, objective="targeted-dlr", restarts=3, steps=20)
    found = sr.attack(bars.model, bars.splits, task, progress=False)
    verify(found.x, found.original, bars.model.threat_model("shift-linf", 2), found.index.tolist(), "retiming")
    assert float(found.success.float().mean()) > 0.3


def test_padding_is_no_room_for_events() -> None:
    """A spike at the last valid step can't move later, however far the sequence is padded."""
    model, data = tiny_model(temporal=True), tiny_data(temporal=True)
    lengths = torch.tensor([2, 3, 4] * 4)
    x = data.x * (torch.arange(4) < lengths[:, None])[..., None]
    split = Dataset.of(x, data.y, lengths=lengths)
    found = sr.attack(model, split, sr.load("retiming", norm="shift-linf", epsilon=3, steps=5), progress=False)
    behind = torch.arange(4) >= lengths[:, None]
    assert not bool(found.x[behind].any())
    assert bool((found.x != x).any())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"norm": "l0", "epsilon": 3}, r"expected norm in \['shift-linf'"),
        ({"norm": "shift-linf", "epsilon": 0.5}, "0 or >= 1"),
        ({"norm": "shift-linf", "epsilon": 1, "limits": {"l0": 3}}, "expected limits beside norm 'shift-linf'"),
        ({"norm": "shift-linf", "epsilon": 1, "limits": {"shift-linf": 3}}, "expected limits beside"),
        ({"norm": "shift-linf", "epsilon": 1, "limits": [3]}, "mapping"),
        ({"norm": "shift-linf", "epsilon": 1, "limits": {"shift-l0": "3"}}, "a number as the limit"),
    ],
)
def test_budgets_that_make_no_sense_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises((InputError, sr.InputTypeError), match=words):
        sr.evaluate(tiny_model(temporal=True), tiny_data(temporal=True), [sr.load("retiming", **arguments)])


def test_images_and_real_inputs_have_no_events_to_move() -> None:
    task = sr.load("retiming", norm="shift-linf", epsilon=1)
    with pytest.raises(InputError, match="domain='binary' or 'integer'"):
        sr.evaluate(tiny_model(), tiny_data(), [task])
    static = sr.wrap(tiny_model().net, steps=4, domain="binary")
    with pytest.raises(InputError, match=r"sequences \[N, T, \*\]"):
        sr.evaluate(static, ((tiny_data().x > 0.5).float(), tiny_data().y), [task])


def test_more_flips_than_entries_are_refused() -> None:
    task = sr.load("flips", norm="l0", epsilon=25)
    with pytest.raises(InputError, match=r"at most 24 changes, the entries of an input \[4, 6\]"):
        sr.evaluate(tiny_model(temporal=True), tiny_data(temporal=True), [task])
    assert np.isfinite(sr.load("flips", norm="l0", epsilon=24).strengths[0])
