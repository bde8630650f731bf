"""Attacks that must be caught: invalid examples are errors, and attacks that do nothing are flagged."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

import snnrobust as sr
from snnrobust.common.random import Draws
from snnrobust.plugin import Queries
from snnrobust.plugin.task import Task
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.threat_models.threat_model import ThreatModel

How = Literal["nan", "budget", "bounds", "shape", "input"]


def wrong(how: How, x0: Tensor, threat: ThreatModel) -> Tensor:
    """The examples of an attack with this defect."""
    found: Tensor = {
        "nan": lambda: x0 * torch.nan,
        "budget": lambda: (x0 + 2 * threat.epsilon * (0.5 - x0).sign()).clamp(0, 1),
        "bounds": lambda: x0 - 0.99 * threat.epsilon,
        "shape": lambda: x0.flatten(1),
        "input": lambda: x0,
    }[how]()
    return found


@dataclass(frozen=True)
class CheatingLoop:
    """A cheating attack with its own loop."""

    how: How

    def perturb(self, queries: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> Tensor:
        return wrong(self.how, x, threat)


@dataclass(frozen=True)
class Selective:
    """Breaks every other sample and returns the rest unchanged, as a minimum-norm attack does."""

    def perturb(self, queries: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> Tensor:
        gradient, _, _ = queries.gradient(x, y, index)
        moved = threat.project(x + threat.epsilon * gradient.sign(), x)
        return torch.where((index % 2 == 0).reshape(-1, 1, 1, 1), moved, x)


@pytest.fixture
def cheat(optimiser: Callable[..., Any], attack_task: Callable[..., Task]) -> Callable[[str, How], Task]:
    """Makes the task of a cheating attack: an optimiser, or an attack with its own loop."""

    def make(kind: str, how: How) -> Task:
        stepwise = optimiser(how, lambda at: wrong(how, at.x0, at.threat), steps=1, needs="loss")
        return attack_task("cheat", stepwise if kind == "optimiser" else CheatingLoop(how), 0.1)

    return make


@pytest.mark.parametrize("kind", ["optimiser", "loop"])
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nan", r"finite values from 'cheat', got NaN or infinity for sample \d+"),
        ("budget", r"linf distance <= 0.1 from 'cheat', got 0\.[12]\d* for sample \d+"),
        ("bounds", r"values within \[0, 1\] from 'cheat', got values from -0\.\d+ .* for sample \d+"),
    ],
)
def test_attacks_that_cheat_are_errors(cheat: Callable[[str, How], Task], kind: str, how: How, message: str) -> None:
    model, data = tiny_model(), tiny_data()
    before = copy.deepcopy(model.net.state_dict())
    with pytest.raises(sr.ViolationError, match=message):
        sr.evaluate(model, data, [cheat(kind, how)])
    assert all(torch.equal(before[name], value) for name, value in model.net.state_dict().items())


def test_a_wrong_shape_is_an_error(cheat: Callable[[str, How], Task]) -> None:
    with pytest.raises(sr.PluginError, match="names and shapes"):
        sr.evaluate(tiny_model(), tiny_data(), [cheat("optimiser", "shape")])
    with pytest.raises(sr.ViolationError, match="examples of shape"):
        sr.evaluate(tiny_model(), tiny_data(), [cheat("loop", "shape")])


@pytest.mark.parametrize("kind", ["optimiser", "loop"])
def test_an_attack_that_returns_its_input_is_flagged(cheat: Callable[[str, How], Task], kind: str) -> None:
    report = sr.evaluate(tiny_model(), tiny_data(), [cheat(kind, "input")])
    flagged = {finding.name: finding for finding in report.findings}["attack-moves"]
    assert flagged.passed is False
    assert flagged.value == 1.0
    assert report.verdict == "untrustworthy"


def test_an_attack_weaker_than_noise_is_flagged() -> None:
    lazy = sr.load("pgd", label="lazy", epsilon=0.5, steps=1, step_size=1e-6, random_start=False)
    strong = sr.load("pgd", label="strong", epsilon=0.5, steps=20)
    report = sr.evaluate(tiny_model(), tiny_data(count=60), [lazy, strong, sr.load("uniform", severity=0.5)])
    beaten = {finding.label: finding.passed for finding in report.findings if finding.name == "noise-not-stronger"}
    assert beaten == {"lazy": False, "strong": True}


def test_unchanged_inputs_are_advice_if_the_attack_breaks_other_samples(attack_task: Callable[..., Task]) -> None:
    report = sr.evaluate(tiny_model(), tiny_data(count=60), [attack_task("cheat", Selective(), 0.4)])
    flagged = {finding.name: finding for finding in report.findings}["attack-moves"]
    assert 0 < report.robust("cheat").mean() < 1
    assert flagged.passed is False
    assert not flagged.required
    assert not flagged.fatal
