"""`load`: every argument is checked, strengths are sorted, factors come by name, mapping or instance."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import snnrobust as sr
from snnrobust.errors import InputError, InputTypeError, SnnRobustError
from snnrobust.objectives.logits import CrossEntropy, Margin
from snnrobust.spike_gradients.swap import Own
from snnrobust_attacks.estimators.atan import ATan
from snnrobust_attacks.optimisers.pgd import PGD


def test_strengths_are_sorted_and_occur_once() -> None:
    assert sr.load("pgd", epsilon=[0.3, 0.1, 0.3, 0.0, 0.1]).strengths == (0.0, 0.1, 0.3)
    assert sr.load("pgd", epsilon=1).strengths == (1.0,)
    assert sr.load("gaussian", severity=(0.2, 0.1)).strengths == (0.1, 0.2)
    assert all(type(s) is float for s in sr.load("pgd", epsilon=[1, np.float64(0.5)]).strengths)


@pytest.mark.parametrize(
    "value",
    [np.float32(0.5), np.float64(0.5), np.array(0.5), np.array([0.5]), np.array([0.5], np.float32), (0.5,), {0.5}],
)
def test_numpy_numbers_are_numbers(value: Any) -> None:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        with pytest.raises(InputTypeError, match="epsilon to be a number"):
            sr.load("pgd", epsilon=value)
    else:
        assert sr.load("pgd", epsilon=value).strengths == (0.5,)


@pytest.mark.parametrize("name", ["pgd", "gaussian"])
@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (-0.1, InputError, ">= 0 and finite, got -0.1"),
        ([0.1, -1], InputError, ">= 0 and finite, got -1"),
        (math.nan, InputError, ">= 0 and finite, got nan"),
        (math.inf, InputError, ">= 0 and finite, got inf"),
        ([], InputError, "got an empty list"),
        (None, InputError, "got none"),
        (True, InputTypeError, "to be a number or a list"),
        ([0.1, False], InputTypeError, "to be a number or a list"),
        ("0.1", InputTypeError, "to be a number or a list"),
        (["0.1"], InputTypeError, "to be a number or a list"),
        ([[0.1]], InputTypeError, "to be a number or a list"),
        (1j, InputTypeError, "to be a number or a list"),
        (object(), InputTypeError, "to be a number or a list"),
        (torch.tensor(0.1), InputTypeError, "to be a number or a list"),
    ],
)
def test_bad_strengths_are_refused(name: str, value: Any, kind: type[Exception], message: str) -> None:
    what = "epsilon" if name == "pgd" else "severity"
    with pytest.raises(kind, match=f"expected .*{what}.*") as caught:
        sr.load(name, **{what: value})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"norm": "l3"}, InputError, r"norm in \['linf', 'l2'.*got 'l3'"),
        ({"norm": None}, InputError, "norm in"),
        ({"norm": ["l2"]}, InputError, "norm in"),
        ({"restarts": 0}, InputError, "restarts to be a whole number >= 1, got 0"),
        ({"restarts": True}, InputError, "restarts"),
        ({"restarts": 1.0}, InputError, "restarts"),
        ({"eot": -1}, InputError, "eot"),
        ({"objective": "cross-entropy"}, InputError, "did you mean 'cross_entropy'"),
        ({"objective": "pgd"}, InputError, "one of the objectives, got 'pgd' of kind 'optimisers'"),
        ({"objective": 3}, InputTypeError, "instance of one of the objectives, got int"),
        ({"objective": CrossEntropy}, InputTypeError, "got the class CrossEntropy"),
        ({"gradient": "margin"}, InputError, "one of the estimators, got 'margin'"),
        ({"gradient": "atn"}, InputError, "did you mean 'atan'"),
        ({"gradient": ATan}, InputTypeError, "got the class ATan"),
        ({"gradient": {"alpha": 2.0}}, InputError, "expected 'name' in"),
        ({"gradient": {"name": "atan", "sharpness": 2.0}}, InputError, "parameters of 'atan'.*got 'sharpness'"),
        ({"gradient": {"name": "atan", "alpha": -2.0}}, InputError, "alpha > 0"),
        ({"gradient": {"name": 3}}, InputTypeError, "name of a plugin as text"),
        ({"step": 3}, InputError, "got 'step'; did you mean 'steps'"),
        ({"severity": 3}, InputError, "parameters of 'pgd'.*got 'severity'"),
        ({"epsilonn": 3}, InputError, "did you mean 'epsilon'"),
        ({"steps": 0}, InputError, "steps"),
        ({"label": 3}, InputTypeError, "label to be text, got 3"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        sr.load("pgd", **{"epsilon": 0.1, **arguments})
    assert isinstance(caught.value, SnnRobustError)
    assert "expected " in str(caught.value)
    assert "got " in str(caught.value)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("pgdd", {"epsilon": 0.1}, "did you mean 'pgd'"),
        ("atan", {}, "gradient='atan'"),
        ("clean", {"epsilon": 0.1}, "parameters of 'clean'"),
        ("gaussian", {"severity": 0.1, "epsilon": 0.1}, "got 'epsilon'"),
        ("gaussian", {"severity": 0.1, "draws": 0}, "draws to be a whole number"),
        ("activity", {"epsilon": 0.1}, "got 'epsilon'"),
    ],
)
def test_bad_tasks_are_refused(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sr.load(name, **arguments)
    with pytest.raises(InputTypeError):
        sr.load(None)


@dataclass(frozen=True)
class Mine:
    """A user's estimator without an entry point."""

    def backward(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        return torch.ones_like(u)


def test_factors_come_by_name_mapping_or_instance() -> None:
    by_name = sr.load("pgd", epsilon=0.1, gradient="atan", objective="margin").attack
    by_mapping = sr.load("pgd", epsilon=0.1, gradient={"name": "atan", "alpha": 5.0}, objective=Margin()).attack
    by_instance = sr.load("pgd", epsilon=0.1, gradient=Mine()).attack
    assert by_name is not None
    assert by_mapping is not None
    assert by_instance is not None
    assert by_name.gradient == ATan()
    assert by_name.objective == Margin() == by_mapping.objective
    assert by_mapping.gradient == ATan(alpha=5.0)
    assert by_instance.gradient == Mine()
    assert by_instance.objective == CrossEntropy()


def test_a_mapping_is_not_emptied() -> None:
    gradient = {"name": "atan", "alpha": 5.0}
    sr.load("pgd", epsilon=0.1, gradient=gradient)
    assert gradient == {"name": "atan", "alpha": 5.0}


def test_defaults_and_labels() -> None:
    task = sr.load("pgd", epsilon=0.1, steps=7)
    assert (task.name, task.label, task.kind, task.unit) == ("pgd", "pgd", "attack", "epsilon")
    assert task.plugin == PGD(steps=7)
    assert task.attack is not None
    assert (task.attack.norm, task.attack.restarts, task.attack.eot) == ("linf", 1, 1)
    assert task.attack.gradient == Own()
    assert task.origin.startswith("snnrobust")
    noise = sr.load("gaussian", "fog", severity=0.1)
    assert (noise.label, noise.kind, noise.unit, noise.draws, noise.attack) == ("fog", "noise", "severity", 10, None)
    assert sr.load("clean").strengths == ()
    with pytest.raises(sr.InputError, match="label 'clean'"):
        sr.load("clean", "plain")
    assert sr.load("activity").kind == "measurement"


def test_settings_are_plain_and_tell_tasks_apart() -> None:
    def text(**arguments: Any) -> str:
        return json.dumps(sr.load("pgd", **{"epsilon": 0.1, **arguments}).settings(), sort_keys=True)

    variants: list[dict[str, Any]] = [
        {},
        {"epsilon": 0.2},
        {"norm": "l2"},
        {"steps": 3},
        {"restarts": 2},
        {"eot": 2},
        {"objective": "margin"},
        {"gradient": "atan"},
        {"gradient": {"name": "atan", "alpha": 3.0}},
        {"label": "other"},
    ]
    assert len({text(**each) for each in variants}) == len(variants)
    assert text() == text(epsilon=[0.1, 0.1], restarts=1)
