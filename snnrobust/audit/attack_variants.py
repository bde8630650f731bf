"""Findings from variants of an attack: more steps, other radii, another order, more draws."""

from __future__ import annotations

from typing import Any

import numpy as np

from snnrobust.analysis.curves import accuracy_curve
from snnrobust.audit.audited_attack import Audited
from snnrobust.audit.gaps import Gap, conclude
from snnrobust.results.records import NAN, Finding

#: Points that 100 steps may break beyond 50.
STEPS_GAP = 0.01
#: Share of samples that may stand at a radius although they broke at a smaller one.
MONOTONE = 0.01
#: Share of samples that an attack alone may leave standing when every input is allowed.
FULL_RANGE = 0.05
#: Points that twice the draws may break beyond the attack's own number.
PLATEAU = 0.02
#: Findings that hold outcomes on a part of the data against those on all of it.
PART_OF_ALL = frozenset({"epsilon-zero", "full-range", "attack-order"})
#: Points between any-iterate and last-iterate robust accuracy.
LAST_ITERATE = 0.05


def about_claim(audited: Audited, strength: float) -> list[Finding]:
    """Findings about the robust accuracy under an attack at one radius."""
    found = [
        _epsilon_zero(audited, strength),
        _steps(audited, strength),
        _monotone(audited, strength),
        _full_range(audited, strength),
        _full_range_attack(audited, strength),
        _order(audited, strength),
        _last_iterate(audited, strength),
    ]
    if audited.stochastic:
        found.append(_plateau(audited, strength))
    return [*found, *_resolution(audited, strength)]


def _finding(audited: Audited, strength: float, name: str, value: float, threshold: float, **more: Any) -> Finding:
    """A finding that passes at or below its threshold, and is missing where there is no value."""
    if np.isnan(value):
        more["remedy"] = "evaluate with evidence='full'"
    if name in PART_OF_ALL and not audited.comparable:
        more |= {"passed": None, "required": False, "remedy": "none: this net's randomness can't be keyed by sample"}
    passed = more.pop("passed", None if np.isnan(value) else bool(value <= threshold))
    return Finding(
        name,
        passed,
        value,
        threshold,
        **more,
        model=audited.model,
        label=audited.label,
        strength=strength,
    )


def _epsilon_zero(audited: Audited, strength: float) -> Finding:
    apart = NAN
    if 0.0 in audited.task["strengths"]:
        tried = ~audited.assumed[audited.task["strengths"].index(0.0)]  # what was assumed right shows nothing
        apart = float((audited.standing(0.0) != audited.clean)[tried].mean()) if tried.any() else NAN
    if np.isnan(apart) and (exhibit := audited.exhibit("epsilon-zero")) is not None:
        standing = exhibit.standing(0.0)
        apart = NAN if standing is None else float((standing != exhibit.clean).mean())
    return _finding(
        audited,
        strength,
        "epsilon-zero",
        apart,
        0.0,
        why="share of samples whose outcome at epsilon 0 differs from the clean one, through the full attack path",
        remedy="look for state or randomness that leaks into the attack",
        fatal=True,
    )


def _steps(audited: Audited, strength: float) -> Finding:
    shorter, longer = audited.exhibit("steps-50"), audited.exhibit("steps-100")
    gaps = []
    few = None if shorter is None else shorter.under_gradients(strength)
    many = None if longer is None else longer.under_gradients(strength, like=shorter)
    if longer is not None and few is not None and many is not None:
        gap, back = Gap.between(few, many), Gap.between(many, few)
        gaps.append(max(gap, back, key=lambda each: each.value))
        # Variants that agree don't speak for a number that was made with fewer steps than either.
        gaps.append(Gap.between(audited.standing(strength)[longer.rows], many, "the attack with its own steps"))
    end = conclude(gaps, STEPS_GAP, "the attack takes no steps along a gradient, or its variants were not run")
    return _finding(
        audited,
        strength,
        "steps-converged",
        end.value,
        STEPS_GAP,
        passed=end.passed,
        why="difference of robust accuracy between 50 and 100 steps, or its own and 100" + end.words,
        remedy="evaluate more samples" if end.passed is None else "take more steps, and more restarts",
    )


def _monotone(audited: Audited, strength: float) -> Finding:
    """Searched anew at each radius: what broke at a smaller one can break at a larger one by the same example."""
    exhibit, widest = audited.exhibit("steps-100"), audited.exhibit("full-range")
    share = NAN
    here = None if exhibit is None else exhibit.standing(strength)
    if exhibit is not None and here is not None:
        broken_before = np.zeros_like(here)
        for radius in exhibit.strengths:
            standing = exhibit.standing(radius)
            if radius < strength and standing is not None:
                broken_before |= ~standing & exhibit.clean
        lapses = int((here & broken_before).sum())
        if widest is not None:
            count = len(widest.rows)  # the audit's first samples
            all_of_it = widest.standing(widest.strengths[0])
            if all_of_it is not None:
                lapses += int((all_of_it & ~here[:count] & widest.clean).sum())
        share = lapses / len(here)
    return _finding(
        audited,
        strength,
        "monotone",
        share,
        MONOTONE,
        why="share of samples that stand at a radius although a search at a smaller one broke them",
        remedy="take more steps or restarts: the search misses examples that it could reach",
    )


def _full_range(audited: Audited, strength: float) -> Finding:
    share = NAN
    if audited.exhibit("full-range") is not None:
        rows, swapped = audited.swapped
        tried = swapped["correct"][audited.clean[rows] & (swapped["correct"] >= 0)]
        share = float((tried == 1).mean()) if len(tried) else NAN
    return _finding(
        audited,
        strength,
        "full-range",
        share,
        0.0,
        why="share of samples that keep their class when swapped for one of another class, as the full range of the "
        "inputs allows; robust accuracy has to reach 0 there",
        remedy="check labels, decision rule and scoring: nothing can be broken",
        fatal=True,
    )


def _full_range_attack(audited: Audited, strength: float) -> Finding:
    exhibit = audited.exhibit("full-range")
    standing = None if exhibit is None else exhibit.standing(exhibit.strengths[0])
    return _finding(
        audited,
        strength,
        "full-range-attack",
        NAN if standing is None else float(standing.mean()),
        FULL_RANGE,
        why="robust accuracy under the attack (20 steps) when every input is allowed; what it leaves, it can't reach",
        remedy="use another estimator or an ensemble: the search gets stuck",
    )


def _order(audited: Audited, strength: float) -> Finding:
    one, other = audited.exhibit("order", label=f"{audited.label}/order"), None
    if one is not None:
        other = audited.exhibit("order", label=f"{audited.label}/reversed")
    share = NAN
    if one is not None and other is not None:
        share = float((one.cells[0]["correct"] != other.cells[0]["correct"][::-1]).mean())
    return _finding(
        audited,
        strength,
        "attack-order",
        share,
        0.0,
        why="share of samples whose outcome changes with batch size and order",
        remedy="look for state or normalisation that couples samples; key randomness by sample",
    )


def _last_iterate(audited: Audited, strength: float) -> Finding:
    exhibit = audited.exhibit("steps-50")
    cell = None if exhibit is None else exhibit.at(strength)
    gap = NAN
    if exhibit is not None and cell is not None:
        last, kept = (cell[name][exhibit.clean] == 1 for name in ("last_correct", "correct"))
        gap = float(last.sum() - kept.sum()) / len(exhibit.clean)
    return _finding(
        audited,
        strength,
        "last-iterate",
        gap,
        LAST_ITERATE,
        why="robust accuracy by last iterates minus that by any iterate; a gap means a search that oscillates",
        remedy="quote any-iterate robust accuracy; reduce the step size",
        required=False,
    )


def _plateau(audited: Audited, strength: float) -> Finding:
    exhibit = audited.exhibit("eot")
    standing = None if exhibit is None else exhibit.standing(strength)
    gaps = []
    if exhibit is not None and standing is not None:
        gaps.append(Gap.between(audited.standing(strength)[exhibit.rows], standing))
    end = conclude(gaps, PLATEAU, "the attack was not run with twice the draws")
    return _finding(
        audited,
        strength,
        "eot-plateau",
        end.value,
        PLATEAU,
        passed=end.passed,
        why="robust accuracy minus that under the attack with twice the draws to each gradient" + end.words,
        remedy="evaluate more samples" if end.passed is None else "raise eot= until the number stands still",
    )


def _resolution(audited: Audited, strength: float) -> list[Finding]:
    """Whether the intervals are narrower than the differences between models that they would have to carry."""
    outcomes = audited.outcomes
    if len(outcomes.models) < 2:
        return []
    curves = {model: accuracy_curve(outcomes, audited.label, model) for model in outcomes.models}
    k = curves[audited.model].strength.index(strength)
    here = curves[audited.model]
    apart = [abs(here.value[k] - other.value[k]) for model, other in curves.items() if model != audited.model]
    least, width = min(apart), (here.high[k] - here.low[k]) / 2
    return [
        _finding(
            audited,
            strength,
            "resolution",
            width,
            least,
            why="half the width of the 95 % interval, against the least difference from another model of this report",
            remedy="evaluate more samples before calling the two different, or compare them with report.compare",
            required=False,
        )
    ]
