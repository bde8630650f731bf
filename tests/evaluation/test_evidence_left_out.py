"""What evidence leaves out changes no finding: equal searches are taken over, broken samples are not attacked again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from spikingjelly.activation_based import surrogate
from torch import nn

import snnrobust as sr
from snnrobust.evaluation import evidence_tasks
from snnrobust.evaluation.settings import EXHAUSTIVE, FACTORIAL
from snnrobust.results.records import Finding
from snnrobust.results.store import EVIDENCE
from snnrobust.testing.tiny import tiny_data, tiny_model

#: Each test runs full evidence twice.
pytestmark = pytest.mark.slow

RADII = [0.05, 0.15]
MEMBERS: list[dict[str, Any]] = [
    {"name": "pgd", "label": "own", "steps": 100},
    {"name": "apgd", "label": "own margin", "objective": "margin", "steps": 100, "restarts": 2},
    {"name": "random-search", "label": "random search", "objective": "margin", "steps": 80},
    {"name": "pgd", "label": "user's", "gradient": "triangle", "steps": 100},
]


def evaluated(
    model: sr.SpikingModel, *others: sr.Task, members: list[dict[str, Any]] = MEMBERS, seed: int = 0
) -> sr.Report:
    task = sr.load("union", epsilon=RADII, adaptive=members)
    return sr.evaluate(model, tiny_data(count=90), [task, *others], evidence="full", seed=seed)


def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left out: each member meets each sample, and nothing is taken over."""
    for name in ("EACH_RADIUS", "COMPARED"):
        monkeypatch.setattr(evidence_tasks, name, FACTORIAL)
    monkeypatch.setattr(evidence_tasks, "LAST_ITERATES", EXHAUSTIVE)
    found = evidence_tasks.evidence_tasks

    def none_taken_over(*arguments: Any) -> list[evidence_tasks.EvidenceTask]:
        return [replace(each, takes_over=False) for each in found(*arguments)]

    monkeypatch.setattr("snnrobust.evaluation.make_plan.evidence_tasks", none_taken_over)


def verdicts(report: sr.Report) -> dict[tuple[str, float], tuple[bool | None, float]]:
    """Which findings about the attack passed, and their values where these are no bounds."""

    def value(each: Finding) -> float:
        return 0.0 if each.name in ("surrogate-gap", "black-box-not-stronger") else each.value

    return {(each.name, str(each.strength)): (each.passed, value(each)) for each in report.findings if each.label}


@pytest.mark.parametrize("function", [surrogate.ATan(), surrogate.Rect(alpha=20.0), surrogate.Sigmoid(alpha=40.0)])
def test_findings_are_those_of_all_searches(function: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """A healthy net and two with masked gradients, on which the black-box member is the stronger one."""
    short = evaluated(tiny_model(surrogate_function=function))
    everything(monkeypatch)
    whole = evaluated(tiny_model(surrogate_function=function))
    assert verdicts(short) == verdicts(whole)
    for kind in ("steps-50", "steps-100"):
        for k in range(len(RADII)):
            cells = [each.cell("tiny", f"{EVIDENCE}union/{kind}", k) for each in (short, whole)]
            right = short.clean("tiny")["correct"][np.array(short.run["rows"])]
            for name in ("correct",) if kind == "steps-100" else ("correct", "last_correct"):
                assert np.array_equal(*(each[name][right] != 0 for each in cells))
    spent = [sum(_passes(each)) for each in (short, whole)]
    assert spent[0] < spent[1]


@pytest.mark.parametrize("function", [surrogate.ATan(), surrogate.Rect(alpha=20.0)])
def test_attacks_that_are_not_quoted_are_compared_with_black_box_members_too(
    function: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples that the ensemble's gradient members break and a weak attack does not."""
    weak = sr.load("fgsm", epsilon=RADII)
    short = evaluated(tiny_model(surrogate_function=function), weak)
    everything(monkeypatch)
    whole = evaluated(tiny_model(surrogate_function=function), weak)
    assert [each.verdict for each in short.claims] == [each.verdict for each in whole.claims]
    passed = [
        {(each.name, each.label, str(each.strength)): each.passed for each in report.findings}
        for report in (short, whole)
    ]
    assert passed[0] == passed[1]


def _passes(report: sr.Report) -> list[int]:
    """Passes of the evidence that were not taken over."""
    return [
        int(report.cell("tiny", f"{EVIDENCE}union/{kind}", k)["forwards"].sum())
        - (int(report.cell("tiny", "union", k)["forwards"].sum()) if kind == "steps-100" else 0)
        for kind in ("steps-50", "steps-100")
        for k in range(len(RADII))
    ]


@pytest.mark.parametrize("seed", range(4))
def test_a_stronger_black_box_member_still_fails_the_finding(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of zero: only random search finds anything."""
    dead = tiny_model(surrogate_function=surrogate.Rect(alpha=1e9))

    def passed() -> dict[float, bool | None]:
        found = evaluated(dead, members=MEMBERS[:-1], seed=seed).findings
        return {each.strength: each.passed for each in found if each.name == "black-box-not-stronger"}

    short = passed()
    assert short[RADII[-1]] is False
    everything(monkeypatch)
    assert short == passed()
