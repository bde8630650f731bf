"""The estimated duration of an evaluation: from timed steps and the share of samples that stay robust."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.evaluation import duration, execute
from snnrobust.evaluation.duration import DurationEstimate, Part, StepTime, parts_of
from snnrobust.evaluation.make_plan import make_plan
from snnrobust.evaluation.run_description import describe
from snnrobust.evaluation.settings import EACH_RADIUS, EXHAUSTIVE, NESTED, EvaluationSettings
from snnrobust.results.store import EVIDENCE, Store
from snnrobust.testing.tiny import tiny_data, tiny_model


def pgd(**settings: Any) -> sr.Task:
    return sr.load("pgd", **{"epsilon": [0.1, 0.2], "steps": 40, **settings})


def estimate(*parts: Part, robust: float = 0.25) -> DurationEstimate:
    """One whose kinds of search take 1 s a step and .1 s a sample, and half of whose samples are right."""
    made = DurationEstimate(parts, batch=100)
    for part in parts:
        made._times |= {duration._kind(each, attack): StepTime(1.0, 0.1) for each, attack, _ in part.searches}
    made._robust = {("linf", 0.1): robust, ("linf", 0.2): robust / 2}
    made._right = 0.5
    return made


def test_a_step_takes_longer_in_several_batches_and_less_with_no_sample_left() -> None:
    step = StepTime(2.0, 0.5)
    assert [step.of(count, 10) for count in (10, 20, 0.5, 0)] == [7.0, 14.0, 1.25, 0.0]


@pytest.mark.parametrize(
    ("change", "seconds"),
    [
        ({}, 40 * (1 + 0.1 * 5) + 8 * (1 + 0.1 * 15)),  # 20 right, 5 of them robust
        ({"position": 1}, 40 * (1 + 0.1 * 2.5) + 8 * (1 + 0.1 * 17.5)),
        ({"effort": EXHAUSTIVE}, 40 * (1 + 0.1 * 40)),
        ({"takes_over": True}, 0.0),
        ({"takes_over": True, "position": 1, "effort": EACH_RADIUS}, 8 * (1 + 0.1 * 15)),
        ({"share": 0.5}, 40 * (1 + 0.1 * 2.5) + 8 * (1 + 0.1 * 7.5)),
    ],
)
def test_the_time_of_an_attack_is_that_of_the_samples_that_stay_robust(change: dict[str, Any], seconds: float) -> None:
    part = replace(Part("m", "pgd", pgd(), 0, 40, NESTED), **change)
    assert estimate(part).expected(part) == pytest.approx(seconds)


def test_an_ensemble_takes_its_members_time_for_the_robust_samples() -> None:
    members = [{"name": "pgd", "label": name, "steps": 10, "restarts": 2} for name in ("a", "b")]
    part = Part("m", "union", sr.load("union", epsilon=0.1, adaptive=members), 0, 40, NESTED)
    assert estimate(part).expected(part) == pytest.approx(4 * 10 * (1 + 0.1 * 5) + 8 * (1 + 0.1 * 15))


def test_what_was_found_replaces_what_was_guessed() -> None:
    first, second = (Part("m", "pgd", pgd(), k, 40, NESTED) for k in range(2))
    made = estimate(first, second)
    made.start("m", "pgd", [0])
    made.finish([np.repeat([1, 0, -1], [2, 18, 20])])
    assert made._robust["linf", 0.1] == pytest.approx(0.1)
    assert first.seconds is not None


def test_time_left_follows_the_parts_that_took_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(duration.time, "monotonic", lambda: now[0])
    parts = [Part("m", f"pgd {k}", pgd(label=f"pgd {k}"), 0, 40, NESTED) for k in range(4)]
    made = estimate(*parts)
    each = made.expected(parts[0])
    assert made.seconds_left() == pytest.approx(4 * each)
    made.start("m", "pgd 0", [0])
    now[0] = each / 2
    assert made.seconds_left() == pytest.approx(3.5 * each)
    now[0] = 3 * each
    made.finish([np.repeat([1, 0, -1], [5, 15, 20])])
    left = made.seconds_left()
    assert left is not None
    assert 7 * each < left < 9 * each


def test_a_measurement_takes_as_long_as_on_another_model() -> None:
    first, second = (Part(name, "activity", sr.load("activity"), 0, 40, NESTED) for name in ("a", "b"))
    made = estimate(first, second)
    assert made.expected(second) == 0.0
    first.seconds = 12.0
    assert made.expected(second) == 12.0


@pytest.mark.slow
def test_parts_are_the_cells_that_are_not_stored() -> None:
    settings = EvaluationSettings(evidence="full")
    plan = make_plan(
        tiny_model(), tiny_data(count=20), [pgd(), sr.load("gaussian", severity=0.1), "activity"], settings
    )
    store = Store(None, describe(plan))
    found = parts_of(plan, store)
    assert len({(each.label, each.position) for each in found}) == len(found)
    assert {each.label for each in found if not each.label.startswith(EVIDENCE)} == {
        "clean", "pgd", "gaussian", "activity",
    }  # fmt: skip
    assert len([each for each in found if each.label == f"{EVIDENCE}pgd/steps-100"]) == 2
    execute.execute(plan, store, progress=False)
    assert all(each.seconds == 0 for each in parts_of(plan, store))


class Clock:
    """A clock that goes on with each pass alone."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    monotonic = perf_counter


class Timed(nn.Module):
    """The tiny net; a pass takes 4 ms, and .1 ms for each sample."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.net, self.clock = tiny_model().net, clock

    def forward(self, x: Tensor) -> Tensor:
        self.clock.now += 0.004 + 0.0001 * len(x)
        out: Tensor = self.net(x)
        return out


@pytest.mark.parametrize("epsilon", [[0.02, 0.04], [0.1, 0.2]])
def test_an_estimate_is_within_a_factor_of_two(epsilon: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    first: list[float | None] = []

    class Watched(DurationEstimate):
        def measure(self, *arguments: Any) -> None:
            super().measure(*arguments)
            first.extend([self.seconds_left(), clock.now])

    clock = Clock()
    monkeypatch.setattr(execute, "DurationEstimate", Watched)
    monkeypatch.setattr(duration, "time", clock)
    model = sr.wrap(Timed(clock), steps=4, accelerate=False)
    clock.now = 0.0
    sr.evaluate(model, tiny_data(count=200), [pgd(steps=200, epsilon=epsilon)], evidence="none", batch_size=200)
    expected, before = first
    assert expected is not None
    assert before is not None
    left = clock.now - before
    assert left / 2 < expected < 2 * left


@pytest.mark.parametrize("progress", [None, False])
def test_outcomes_do_not_depend_on_the_estimate(progress: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The timed searches are not stored, and change nothing."""
    monkeypatch.setattr(duration, "SHARE", 1e9)
    found = sr.evaluate(tiny_model(), tiny_data(), [pgd(steps=4)], evidence="none", progress=progress)
    again = sr.evaluate(tiny_model(), tiny_data(), [pgd(steps=4)], evidence="none", progress=False)
    for k in range(2):
        one, other = (each.cell("tiny", "pgd", k) for each in (found, again))
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name], equal_nan=one[name].dtype.kind == "f") for name in one)
    assert torch.is_grad_enabled()
