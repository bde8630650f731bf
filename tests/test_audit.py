"""Findings from stored outcomes: each passes on good evidence, fails on bad, and is missing without."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from snnrobust import audit
from snnrobust.report import Report
from snnrobust.results import Finding
from snnrobust.store import Store

COUNT = 1000


def attack(
    label: str, *, gradient: str = "Own()", steps: int = 20, name: str = "pgd", strengths: Any = (0.1,)
) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "kind": "attack",
        "origin": "test",
        "plugin": f"PGD(steps={steps})" if name == "pgd" else "Square()",
        "strengths": list(strengths),
        "attack": {"norm": "linf", "objective": "CrossEntropy()", "gradient": gradient, "restarts": 1, "eot": 1},
        "draws": 1,
    }


def report(
    tasks: dict[str, tuple[dict[str, Any], float]], *, noise: float | None = None, backwards: bool = True
) -> Report:
    """A report in which each attack leaves the given share of samples standing; clean accuracy is 1."""
    settings = [
        {
            "name": "clean",
            "label": "clean",
            "kind": "clean",
            "origin": "",
            "plugin": "",
            "strengths": [],
            "attack": None,
        }
    ]
    settings += [task for task, _ in tasks.values()]
    if noise is not None:
        settings.append(
            {
                "name": "uniform",
                "label": "uniform",
                "kind": "noise",
                "origin": "",
                "plugin": "Uniform()",
                "strengths": [0.1],
                "attack": None,
            }
        )
    run = {
        "models": {"m": {"bounds": [0.0, 1.0], "domain": "real", "stochastic": False}},
        "tasks": settings,
        "seed": 0,
        "mode": "nested",
        "evidence": "basic",
    }
    store = Store(None, run)
    ones = np.ones(COUNT, dtype=bool)
    store.save_cell("m", "clean", 0, {"correct": ones, "margin": np.ones(COUNT), "tied": ~ones, "silent": ~ones}, 0.0)
    for label, (task, standing) in tasks.items():
        correct = (np.arange(COUNT) < round(standing * COUNT)).astype(np.int8)
        zeros = np.zeros(COUNT, dtype=np.int32)
        cell = {
            "correct": correct,
            "margin": np.where(correct == 1, 0.5, -0.5) + 0.01 * list(tasks).index(label),
            "unchanged": np.zeros(COUNT, dtype=np.int8),
            "forwards": zeros + 20,
            "backwards": zeros + (20 if task["name"] == "pgd" and backwards else 0),
            "disagreements": zeros,
        }
        for k in range(len(task["strengths"])):
            store.save_cell("m", label, k, dict(cell), 0.0)
    if noise is not None:
        store.save_cell(
            "m", "uniform", 0, {"fraction": np.full(COUNT, noise), "forwards": ones, "backwards": ~ones}, 0.0
        )
    return Report(store)


def finding(found: Report, name: str) -> Finding:
    return {each.name: each for each in found.findings}[name]


@pytest.mark.parametrize(("other", "passed"), [(0.50, True), (0.48, True), (0.47, False), (0.60, True)])
def test_surrogate_gap(other: float, passed: bool) -> None:
    found = report({"own": (attack("own"), 0.5), "atan": (attack("atan", gradient="ATan(alpha=2.0)"), other)})
    assert finding(found, "surrogate-gap").passed is passed
    assert finding(found, "surrogate-gap").value == pytest.approx(0.5 - other)


def test_surrogate_gap_compares_like_with_like() -> None:
    different_steps = attack("atan", gradient="ATan(alpha=2.0)", steps=40)
    other_radius = attack("atan", gradient="ATan(alpha=2.0)", strengths=[0.2])
    for other in (different_steps, other_radius):
        found = report({"own": (attack("own"), 0.5), "atan": (other, 0.1)})
        assert finding(found, "surrogate-gap").passed is None


@pytest.mark.parametrize(("longer", "passed"), [(0.50, True), (0.49, True), (0.48, False)])
def test_steps_converged(longer: float, passed: bool) -> None:
    found = report({"short": (attack("short", steps=50), 0.5), "long": (attack("long", steps=100), longer)})
    assert finding(found, "steps-converged").passed is passed


def test_steps_converged_needs_twice_the_steps() -> None:
    found = report({"short": (attack("short", steps=50), 0.5), "long": (attack("long", steps=60), 0.2)})
    assert finding(found, "steps-converged").passed is None


@pytest.mark.parametrize(("blind", "passed"), [(0.5, True), (0.7, True), (0.45, False)])
def test_black_box(blind: float, passed: bool) -> None:
    found = report({"pgd": (attack("pgd"), 0.5), "square": (attack("square", name="torchattacks:Square"), blind)})
    assert finding(found, "black-box-not-stronger").passed is passed


def test_the_strongest_gradient_attack_is_the_black_box_rival() -> None:
    tasks = {
        "weak": (attack("weak", steps=1), 0.9),
        "strong": (attack("strong"), 0.5),
        "square": (attack("square", name="torchattacks:Square"), 0.6),
    }
    assert finding(report(tasks), "black-box-not-stronger").passed is True


@pytest.mark.parametrize(("noise", "passed"), [(0.9, True), (0.4, False)])
def test_noise_not_stronger(noise: float, passed: bool) -> None:
    assert finding(report({"pgd": (attack("pgd"), 0.5)}, noise=noise), "noise-not-stronger:pgd").passed is passed


def test_trusted_needs_every_comparison() -> None:
    tasks = {
        "pgd": (attack("pgd"), 0.5),
        "long": (attack("long", steps=40), 0.5),
        "atan": (attack("atan", gradient="ATan(alpha=2.0)"), 0.5),
        "square": (attack("square", name="torchattacks:Square"), 0.6),
    }
    assert report(tasks).verdict == "trusted"
    for left_out in ("long", "atan", "square"):
        assert report({label: task for label, task in tasks.items() if label != left_out}).verdict == "doubtful"
    assert report(tasks | {"atan": (tasks["atan"][0], 0.3)}).verdict == "untrustworthy"


def test_verdict() -> None:
    good = Finding("a", True, 0.0, 0.0, "", "")
    assert audit.verdict([]) == "doubtful"
    assert audit.verdict([good]) == "trusted"
    assert audit.verdict([good, Finding("b", None, 0.0, 0.0, "", "")]) == "doubtful"
    assert audit.verdict([good, Finding("b", False, 0.0, 0.0, "", "")]) == "doubtful"
    assert audit.verdict([good, Finding("b", False, 0.0, 0.0, "", "", required=False)]) == "trusted"
    assert audit.verdict([good, Finding("b", False, 0.0, 0.0, "", "", required=False, fatal=True)]) == "untrustworthy"


def test_a_gap_that_may_be_chance_is_missing_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "COUNT", 50)
    tasks = {"own": (attack("own"), 0.5), "atan": (attack("atan", gradient="ATan(alpha=2.0)"), 0.44)}
    assert finding(report(tasks), "surrogate-gap").passed is None
    assert "more samples" in finding(report(tasks), "surrogate-gap").remedy


def test_attacks_that_share_no_radius_are_not_compared() -> None:
    """Three alike attacks, of which two share nothing with each other."""
    tasks = {
        "a": (attack("a", steps=5, strengths=[0.1, 0.2]), 0.5),
        "b": (attack("b", steps=10, strengths=[0.1]), 0.5),
        "c": (attack("c", steps=20, strengths=[0.2]), 0.1),
    }
    assert finding(report(tasks), "steps-converged").passed is None
    tasks["c"][0]["strengths"] = [0.1, 0.2]
    assert finding(report(tasks), "steps-converged").passed is False


def test_the_longest_attack_decides_whether_steps_have_converged() -> None:
    tasks = {
        f"s{steps}": (attack(f"s{steps}", steps=steps), standing)
        for steps, standing in ((1, 0.9), (2, 0.9), (100, 0.1))
    }
    assert finding(report(tasks), "steps-converged").passed is False


def test_the_rival_of_a_black_box_is_the_best_at_each_radius() -> None:
    """A is best at the small radius and B at the large one; an attack in between beats neither there."""

    def found(a: Any, b: Any, blind: Any) -> Finding:
        names = {"a": "pgd", "b": "pgd", "blind": "torchattacks:Square"}
        tasks = {label: (attack(label, name=name, strengths=[0.1, 0.2]), a[0]) for label, name in names.items()}
        made = report(tasks)
        for label, standing in (("a", a), ("b", b), ("blind", blind)):
            for k in (0, 1):
                made.cell("m", label, k)["correct"] = (np.arange(COUNT) < standing[k] * COUNT).astype(np.int8)
        made.findings = audit.judge(made)
        return finding(made, "black-box-not-stronger")

    assert found((0.5, 0.4), (0.6, 0.1), (0.55, 0.3)).passed is True
    assert found((0.5, 0.4), (0.6, 0.1), (0.45, 0.3)).passed is False


def test_without_an_attack_nothing_is_trusted() -> None:
    made = report({}, noise=1.0)
    assert finding(made, "attacked").passed is None
    assert made.verdict == "doubtful"


def test_noise_of_equal_strength_is_no_alarm() -> None:
    made = report({"pgd": (attack("pgd"), 0.9)}, noise=np.float32(0.9))
    assert finding(made, "noise-not-stronger:pgd").passed is True
