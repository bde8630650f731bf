"""Findings from variants of an attack: more steps, other radii, another sample order, more draws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from snnrobust.analysis.curves import accuracy_curve
from snnrobust.audit.audited_attack import AuditedAttack
from snnrobust.audit.gaps import Gap, compare_gaps
from snnrobust.audit.remedies import MORE_SAMPLES, adaptive, another_estimator, load_call, missing_evidence, more_steps
from snnrobust.results.records import NAN, Finding
from snnrobust.threat_models.threat_model import ALLOW_EVERYTHING

#: Allowed difference of robust accuracy between 50 and 100 steps.
STEPS_GAP = 0.01
#: Allowed share of samples that are robust at a radius although they were broken at a smaller one.
MONOTONE = 0.01
#: Allowed robust accuracy under the attack when every input is allowed.
FULL_RANGE = 0.05
#: Allowed gap between robust accuracy and that with twice the draws.
PLATEAU = 0.02
#: Findings that compare outcomes on a subset of the data with those on all of it.
COMPARES_SUBSET = frozenset({"epsilon-zero", "full-range", "attack-order"})
#: Allowed difference between last-iterate and any-iterate robust accuracy.
LAST_ITERATE = 0.05


def attack_variant_findings(audited: AuditedAttack, strength: float) -> list[Finding]:
    """Findings about the robust accuracy under an attack at one radius."""
    found = [
        _epsilon_zero(audited, strength),
        _steps_converged(audited, strength),
        _monotone(audited, strength),
        _attack_order(audited, strength),
        _last_iterate(audited, strength),
    ]
    if audited.norm in ALLOW_EVERYTHING and not audited.limits:
        found += [_full_range(audited, strength), _full_range_attack(audited, strength)]
    if audited.stochastic:
        found.append(_eot_plateau(audited, strength))
    return [*found, *_resolution(audited, strength)]


def _finding(
    audited: AuditedAttack,
    strength: float,
    name: str,
    value: float,
    threshold: float,
    *,
    missing: str = "",
    **more: Any,
) -> Finding:
    """A finding that passes at or below its threshold; its evidence is missing where the value is NaN.

    Args:
        audited: The attack.
        strength: The radius.
        name: The finding's name.
        value: What was measured.
        threshold: The largest value that passes.
        missing: What to do if the value of a quoted attack is NaN although the run has evidence="full".
        **more: Further fields of `Finding`.
    """
    if np.isnan(value):
        more["remedy"] = missing_evidence(audited, missing)
    if name in COMPARES_SUBSET and not audited.comparable:
        remedy = "None: this net uses a global random generator, so outcomes of a sample depend on its batch."
        more |= {"passed": None, "required": False, "remedy": remedy}
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


def _epsilon_zero(audited: AuditedAttack, strength: float) -> Finding:
    share = NAN
    if 0.0 in audited.task["strengths"]:
        tried = ~audited.assumed[audited.task["strengths"].index(0.0)]  # assumed outcomes are no evidence
        share = float((audited.robust(0.0) != audited.clean)[tried].mean()) if tried.any() else NAN
    if np.isnan(share) and (result := audited.evidence("epsilon-zero")) is not None:
        robust = result.robust(0.0)
        share = NAN if robust is None else float((robust != result.clean).mean())
    return _finding(
        audited,
        strength,
        "epsilon-zero",
        share,
        0.0,
        why="Share of samples whose outcome under the attack at epsilon 0 differs from the clean one. Above 0, the "
        "attack's code path changes the model, not only the input.",
        remedy="Look for state that is not reset, or for random numbers that are not keyed by sample.",
        fatal=True,
    )


def _steps_converged(audited: AuditedAttack, strength: float) -> Finding:
    shorter, longer = audited.evidence("steps-50"), audited.evidence("steps-100")
    gaps = []
    few = None if shorter is None else shorter.robust_to_gradient_attacks(strength)
    many = None if longer is None else longer.robust_to_gradient_attacks(strength, like=shorter)
    if longer is not None and few is not None and many is not None:
        gap, reverse = Gap.between(few, many), Gap.between(many, few)
        gaps.append(max(gap, reverse, key=lambda each: each.value))
        # 50 and 100 steps may agree although the claimed number was computed with fewer steps.
        gaps.append(Gap.between(audited.robust(strength)[longer.rows], many, "the attack with its own steps"))
    missing = "the attack takes no gradient steps, or its variants were not run"
    result = compare_gaps(gaps, STEPS_GAP, missing)
    return _finding(
        audited,
        strength,
        "steps-converged",
        result.value,
        STEPS_GAP,
        passed=result.passed,
        why="Robust accuracy with 50 steps minus that with 100, in the direction in which it is larger, or with the "
        "attack's own steps minus that with 100 if this is more. Above the threshold the number of steps still changes "
        "the result." + result.note,
        remedy=MORE_SAMPLES if result.passed is None else more_steps(audited),
        missing=_no_steps(audited),
    )


def _monotone(audited: AuditedAttack, strength: float) -> Finding:
    """Whether samples are robust at a radius although a separate search broke them at a smaller one."""
    longer, full_range = audited.evidence("steps-100"), audited.evidence("full-range")
    share = NAN
    here = None if longer is None else longer.robust(strength)
    if longer is not None and here is not None:
        broken_before = np.zeros_like(here)
        for radius in longer.strengths:
            robust = longer.robust(radius)
            if radius < strength and robust is not None:
                broken_before |= ~robust & longer.clean
        violations = int((here & broken_before).sum())
        if full_range is not None:
            count = len(full_range.rows)  # the audit's first samples
            at_full_range = full_range.robust(full_range.strengths[0])
            if at_full_range is not None:
                violations += int((at_full_range & ~here[:count] & full_range.clean).sum())
        share = violations / len(here)
    return _finding(
        audited,
        strength,
        "monotone",
        share,
        MONOTONE,
        why="Share of samples that are robust at this radius although a search at a smaller radius broke them. The "
        "smaller example is allowed here too, so the search missed it.",
        remedy=more_steps(audited),
        missing=_no_steps(audited),
    )


def _full_range(audited: AuditedAttack, strength: float) -> Finding:
    share = NAN
    if audited.evidence("full-range") is not None:
        rows, swapped = audited.class_swap
        tried = swapped["correct"][audited.clean[rows] & (swapped["correct"] >= 0)]
        share = float((tried == 1).mean()) if len(tried) else NAN
    return _finding(
        audited,
        strength,
        "full-range",
        share,
        0.0,
        why="Share of samples that keep their class when their input is swapped for one of another class; no attack is "
        "run. At the full range of the inputs the swap is allowed, so robust accuracy must be 0. Above 0, the model or "
        "the scoring ignores the input.",
        remedy="Check the labels, decide= and readout= of wrap, and whether the net uses its input.",
        missing=_no_full_range(audited),
        fatal=True,
    )


def _full_range_attack(audited: AuditedAttack, strength: float) -> Finding:
    result = audited.evidence("full-range")
    robust = None if result is None else result.robust(result.strengths[0])
    return _finding(
        audited,
        strength,
        "full-range-attack",
        NAN if robust is None else float(robust.mean()),
        FULL_RANGE,
        why="Robust accuracy under the attack (20 steps) when every input is allowed. It should be near 0. Above the "
        "threshold, the attack can't find examples that exist.",
        remedy=another_estimator(audited),
        missing=_no_full_range(audited),
    )


def _attack_order(audited: AuditedAttack, strength: float) -> Finding:
    forward, reverse = audited.evidence("order", label=f"{audited.label}/order"), None
    if forward is not None:
        reverse = audited.evidence("order", label=f"{audited.label}/reversed")
    share = NAN
    if forward is not None and reverse is not None:
        share = float((forward.cells[0]["correct"] != reverse.cells[0]["correct"][::-1]).mean())
    return _finding(
        audited,
        strength,
        "attack-order",
        share,
        0.0,
        why="Share of samples whose outcome changes with the batch size and the order of the samples. Above 0, a "
        "sample's outcome depends on the other samples of its batch.",
        remedy="Look for state or normalisation shared between samples in the net; in a plugin of your own, draw from "
        "the `rng` that is passed in.",
    )


def _last_iterate(audited: AuditedAttack, strength: float) -> Finding:
    shorter = audited.evidence("steps-50")
    cell = None if shorter is None else shorter.at(strength)
    gap = NAN
    if shorter is not None and cell is not None:
        last, any_iterate = (cell[name][shorter.clean] == 1 for name in ("last_correct", "correct"))
        gap = float(last.sum() - any_iterate.sum()) / len(shorter.clean)
    return _finding(
        audited,
        strength,
        "last-iterate",
        gap,
        LAST_ITERATE,
        why="Last-iterate robust accuracy minus any-iterate robust accuracy. A large value means that the attack "
        "oscillates: it loses examples that it found.",
        remedy="Quote any-iterate robust accuracy (the default)."
        + (" Pass a smaller step_size= to the attack." if "step_size" in audited.task["parameters"] else ""),
        missing=_no_steps(audited),
        required=False,
    )


def _eot_plateau(audited: AuditedAttack, strength: float) -> Finding:
    doubled = audited.evidence("eot")
    robust = None if doubled is None else doubled.robust(strength)
    gaps = []
    if doubled is not None and robust is not None:
        gaps.append(Gap.between(audited.robust(strength)[doubled.rows], robust))
    result = compare_gaps(gaps, PLATEAU, "the attack was not run with twice the draws")
    return _finding(
        audited,
        strength,
        "eot-plateau",
        result.value,
        PLATEAU,
        passed=result.passed,
        why="Robust accuracy minus robust accuracy under the attack with twice the draws for each gradient. Above the "
        "threshold, the gradients are averaged over too few draws." + result.note,
        remedy=MORE_SAMPLES if result.passed is None else "Raise eot= until robust accuracy is constant.",
    )


def _resolution(audited: AuditedAttack, strength: float) -> list[Finding]:
    """Whether confidence intervals are narrower than the differences between the models of a report."""
    outcomes = audited.outcomes
    if len(outcomes.models) < 2:
        return []
    curves = {model: accuracy_curve(outcomes, audited.label, model) for model in outcomes.models}
    k = curves[audited.model].strength.index(strength)
    here = curves[audited.model]
    differences = [abs(here.value[k] - other.value[k]) for model, other in curves.items() if model != audited.model]
    least, width = min(differences), (here.high[k] - here.low[k]) / 2
    return [
        _finding(
            audited,
            strength,
            "resolution",
            width,
            least,
            why="Half the width of the 95 % interval of robust accuracy. The threshold is the smallest difference from "
            "another model of this report. Above it, the interval is too wide to tell the two models apart.",
            remedy="Evaluate more samples, or compare the models with report.compare (a paired test, for models with "
            "equal settings).",
            required=False,
        )
    ]


def _no_steps(audited: AuditedAttack) -> str:
    """What to do where a quoted attack was not run with other numbers of steps, in a run with evidence="full"."""
    reason = "Not measured for this attack, which does not take several gradient steps."
    if audited.task["members"]:
        longer = adaptive(audited, "'steps': 200, 'label': 'long'")
        return f"{reason} Add a member that does: {longer}."
    return f"{reason} Quote {load_call('standard', audited)}."


def _no_full_range(audited: AuditedAttack) -> str:
    """What to do where nothing is known about the full range of the inputs, in a run with evidence="full"."""
    low, high = audited.outcomes.run["models"][audited.model]["bounds"]
    if not math.isfinite(high - low):
        return "Pass finite bounds= to wrap: with infinite ones, no radius allows every input."
    return "Evaluate samples of several classes that the model classifies correctly."
