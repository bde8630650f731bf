"""Findings that compare attacks with each other, sample by sample.

Attacks of one evaluation start from the same keyed random points and meet the same samples, so they are compared in
pairs: a gap counts against the model if it is above its threshold and an exact McNemar test finds that chance alone
does not explain it. A gap that may be chance is missing evidence, for which more samples are the remedy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from snnrobust.results import NAN, Finding

if TYPE_CHECKING:
    from snnrobust.report import Report

#: Points of robust accuracy by which another gradient estimator may beat the model's own surrogate.
SURROGATE_GAP = 0.02
#: Points that doubling an attack's steps may cost.
STEPS_GAP = 0.01
#: Points by which an attack without gradients may beat the best one with.
BLACK_BOX_GAP = 0.0
#: A gap with a larger p-value may be chance.
CHANCE = 0.05


@dataclass(frozen=True)
class Gap:
    """How much more one attack leaves standing than another at one radius.

    Attributes:
        value: Difference of robust accuracies.
        chance: One-sided p-value of the exact McNemar test (McNemar 1947) that the first leaves no more standing.
    """

    value: float
    chance: float

    @classmethod
    def between(cls, first: np.ndarray, second: np.ndarray) -> Gap:
        """The gap between what two attacks leave standing, [sample] each."""
        more, less = int((first & ~second).sum()), int((second & ~first).sum())
        chance = float(stats.binomtest(more, more + less, alternative="greater").pvalue) if more + less else 1.0
        return cls((more - less) / len(first), chance)


def judge(report: Report, model: str) -> list[Finding]:
    """What the comparisons between a model's attacks say."""
    attacks = report.labels("attack")
    return [check(report, model, attacks) for check in (_surrogate_gap, _steps_converged, _black_box)]


def conclude(gaps: Iterable[Gap], threshold: float) -> tuple[bool | None, float]:
    """Whether gaps pass a threshold (None: none to judge, or perhaps chance), and the gap that decides it."""
    above = [gap for gap in gaps if gap.value > threshold]
    proven = [gap.value for gap in above if gap.chance < CHANCE]
    if proven:
        return False, max(proven)
    if above:
        return None, max(gap.value for gap in above)
    largest = max((gap.value for gap in gaps), default=NAN)
    return (None if np.isnan(largest) else True), largest


def _surrogate_gap(report: Report, model: str, attacks: list[str]) -> Finding:
    """Whether the same attack with another estimator breaks what the own surrogate's gradient leaves standing."""
    gaps = []
    for group in _alike(report, attacks, "gradient"):
        own = [label for label in group if report.task(label)["attack"]["gradient"] == "Own()"]
        others = [label for label in group if label not in own]
        pairs = [(a, b) for a in own for b in others if not _identical(report, model, a, b)]
        gaps += [gap for a, b in pairs for gap in _gaps(report, model, a, b)]
    passed, value = conclude(gaps, SURROGATE_GAP)
    return Finding(
        "surrogate-gap",
        passed,
        value,
        SURROGATE_GAP,
        "robust accuracy with the model's own surrogate minus that with another estimator, at its largest; a gap means "
        "that the own surrogate masks the gradient"
        + _missing(passed, gaps, "no attack was run with both, or both gave the very same result"),
        _remedy(
            passed,
            gaps,
            "quote the worst case over estimators",
            "add the same attack with another estimator or sharpness, e.g. sr.load('pgd', label='pgd-atan4', "
            "gradient={'name': 'atan', 'alpha': 4.0}, ...)",
        ),
        fatal=True,
        model=model,
    )


def _steps_converged(report: Report, model: str, attacks: list[str]) -> Finding:
    """Whether each attack's longest run finds much more than one of at most half its steps."""
    gaps = []
    for group in _alike(report, attacks, "steps"):
        by_steps = {steps: label for label in group if (steps := _steps(report.task(label))) is not None}
        longest = max(by_steps, default=0)
        if shorter := [steps for steps in by_steps if 2 * steps <= longest]:
            gaps += _gaps(report, model, by_steps[max(shorter)], by_steps[longest])
    passed, value = conclude(gaps, STEPS_GAP)
    return Finding(
        "steps-converged",
        passed,
        value,
        STEPS_GAP,
        "robust accuracy that an attack loses when its steps are at least doubled, at its largest"
        + _missing(passed, gaps, "no attack was run with two numbers of steps"),
        _remedy(
            passed,
            gaps,
            "quote the longer attack, and double its steps once more",
            "add the same attack with twice the steps under another label",
        ),
        model=model,
    )


def _black_box(report: Report, model: str, attacks: list[str]) -> Finding:
    """Whether an attack without gradients breaks more than the best attack with them, at some radius."""
    gaps = []
    blind = [label for label in attacks if _spent(report, model, label) == (True, False)]
    for label in blind:
        for radius in report.task(label)["strengths"]:
            others = [other for other in attacks if other not in blind and radius in _shared(report, label, other)]
            if others:
                rivals = [_at(report, model, other, radius) for other in others]
                strongest = min(rivals, key=lambda standing: standing.mean())
                gaps.append(Gap.between(strongest, _at(report, model, label, radius)))
    passed, value = conclude(gaps, BLACK_BOX_GAP)
    return Finding(
        "black-box-not-stronger",
        passed,
        value,
        BLACK_BOX_GAP,
        "robust accuracy under the strongest gradient attack minus that under an attack without gradients, at its "
        "largest" + _missing(passed, gaps, "no attack without gradients was run at a shared radius"),
        _remedy(
            passed,
            gaps,
            "gradients are masked: use other estimators",
            "add an attack that needs no gradient at the same epsilons, e.g. sr.load('random-search', ...)",
        ),
        fatal=True,
        model=model,
    )


def _missing(passed: bool | None, gaps: list[Gap], why: str) -> str:
    if passed is not None:
        return ""
    return " (above the threshold, but chance may explain it)" if gaps else f" ({why})"


def _remedy(passed: bool | None, gaps: list[Gap], cure: str, evidence: str) -> str:
    if not gaps:
        return evidence
    return "evaluate more samples" if passed is None else cure


def _spent(report: Report, model: str, label: str) -> tuple[bool, bool]:
    """Whether an attack made any forward pass, and any backward pass."""
    cells = [report.cell(model, label, k) for k in range(len(report.task(label)["strengths"]))]
    return any(cell["forwards"].any() for cell in cells), any(cell["backwards"].any() for cell in cells)


def _shared(report: Report, a: str, b: str) -> list[float]:
    """Positive radii that two attacks of one norm have in common."""
    first, second = report.task(a), report.task(b)
    if first["attack"]["norm"] != second["attack"]["norm"]:
        return []
    return [radius for radius in first["strengths"] if radius > 0 and radius in second["strengths"]]


def _at(report: Report, model: str, label: str, radius: float) -> np.ndarray:
    """Which samples an attack leaves standing at a radius, [sample]."""
    standing: np.ndarray = report.robust(label, model)[report.task(label)["strengths"].index(radius)]
    return standing


def _gaps(report: Report, model: str, a: str, b: str) -> list[Gap]:
    """What `a` leaves standing beyond `b`, at each radius in common."""
    return [Gap.between(_at(report, model, a, r), _at(report, model, b, r)) for r in _shared(report, a, b)]


def _identical(report: Report, model: str, a: str, b: str) -> bool:
    """Whether two attacks ended at the same margins: an estimator that is the model's own surrogate tells nothing."""
    first, second = report.margins(a, model), report.margins(b, model)
    return first.shape == second.shape and np.allclose(first, second, rtol=1e-4, atol=1e-6, equal_nan=True)


def _alike(report: Report, attacks: list[str], but: str) -> list[list[str]]:
    """Groups of attacks that are the same `but` for their gradient estimator or their number of steps."""
    groups: dict[str, list[str]] = {}
    for label in attacks:
        task = report.task(label)
        factors = {name: value for name, value in task["attack"].items() if name != but}
        plugin = re.sub(r"\bsteps=\d+", "", task["plugin"]) if but == "steps" else task["plugin"]
        groups.setdefault(repr((task["name"], plugin, factors)), []).append(label)
    return [group for group in groups.values() if len(group) > 1]


def _steps(task: dict[str, Any]) -> int | None:
    found = re.search(r"\bsteps=(\d+)", task["plugin"])
    return int(found[1]) if found else None
