"""Findings about curvature: whether an operator predicts the measured loss, is symmetric, and its numbers converged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from snnrobust.analysis.curvature_results import curvature_results
from snnrobust.analysis.outcomes import Outcomes
from snnrobust.results.curvature import (
    DIRECTIONS,
    MIN_CEILING,
    SIZE_WRONG,
    VALID_CORRELATION,
    CurvatureResult,
    Validity,
    nan_max,
    remedy_for,
)
from snnrobust.results.records import Finding

#: Relative asymmetry that rounding in float32 stays under.
SYMMETRIC = 1e-3
#: Error over the largest eigenvalue above which an eigenvalue has not converged.
CONVERGED = 1e-2


def curvature_findings(outcomes: Outcomes, model: str) -> list[Finding]:
    """Findings about every curvature measurement of a model; no robustness verdict depends on them."""
    return [
        finding
        for each in curvature_results(outcomes, model)
        for finding in (_validity(each), *_symmetric(each), *_converged(each, outcomes.task(each.label)["parameters"]))
    ]


def _validity(found: CurvatureResult) -> Finding:
    words = [_in_words(found.validity(each), each) for each in DIRECTIONS]
    seen = "; ".join(each for each in words if each) or "no loss was measured in any direction, or none changed"
    advice = remedy_for(found.operator)
    remedy = f"{advice[0].upper()}{advice[1:]}."
    if found.noisy:
        remedy = "Pass larger samples= and draws=: the measured curvature is noise."
    elif found.predicts is None:
        remedy = "Measure with sr.load('eigenvalues'), which compares its operator with the measured loss."
    elif found.predicts and found.size_factor > 1:
        seen += f"; the order of directions is right, but the size is off by a factor {found.size_factor:.2g}"
    elif found.size_factor > SIZE_WRONG:
        seen += "; by the slope, the size or sign is wrong"
    return Finding(
        "curvature-validity",
        found.predicts,
        found.lowest_validity.correlation,
        VALID_CORRELATION,
        f"Lowest rank correlation of predicted with measured curvature of the training loss, for {found.text}: {seen} "
        f"(medians over the radii with a noise ceiling of {MIN_CEILING:g} or more, or over all). Below the threshold "
        f"the numbers do not describe this loss.",
        remedy,
        required=False,
        model=found.model,
        label=found.label,
    )


def _symmetric(found: CurvatureResult) -> list[Finding]:
    """For operators that are symmetric by construction."""
    values = [each.value for each in found.of("asymmetry")]
    if not values or not found.symmetric:
        return []
    value = nan_max(values)
    return [
        Finding(
            "curvature-symmetric",
            None if np.isnan(value) else value <= SYMMETRIC,
            value,
            SYMMETRIC,
            f"|M - M^T| over |M| (Frobenius) of {found.text}, symmetric by construction. Above the threshold, a "
            "backward pass drops terms or does not match its forward pass.",
            "Use neurons of backend 'torch', and surrogates whose backward pass can be differentiated again.",
            required=False,
            model=found.model,
            label=found.label,
        )
    ]


def _converged(found: CurvatureResult, parameters: Mapping[str, Any]) -> list[Finding]:
    value, noise = found.relative_error, found.draw_noise
    if np.isnan(value) and not noise:
        return []
    why = (
        f"Largest error of an eigenvalue (its residual |M v - value v|; for a smoothed loss also the spread over "
        f"draws) over the largest eigenvalue, for {found.text}. Above the threshold the eigenvalues have not converged."
    )
    remedy = "Pass a larger products=, a larger draws= of the operator (smoothed loss), or a smaller k=."
    if "iterations" in parameters:  # PyHessian's
        remedy = "Pass a larger iterations=, or a smaller top=."
    if noise:
        why += " The operator was estimated from fewer draws than it has rows, and the error of that is not known"
        why += " (NaN: evidence that they have converged is missing)." if np.isnan(value) else "."
        remedy = (
            "Measure its trace, sr.load('trace', operator='smoothed'), or use more draws than it has rows: "
            "operator={'name': 'smoothed', 'draws': ...}."
        )
    return [
        Finding(
            "curvature-converged",
            not noise and value <= CONVERGED,
            value,
            CONVERGED,
            why,
            remedy,
            required=False,
            model=found.model,
            label=found.label,
        )
    ]


def _in_words(validity: Validity, directions: str) -> str:
    if np.isnan(validity.correlation):
        return ""
    ceiling = "" if np.isnan(validity.ceiling) else f" (noise ceiling {validity.ceiling:.2f})"
    return f"{validity.count} {directions} directions {validity.correlation:.2f}{ceiling}, slope {validity.slope:.2g}"
