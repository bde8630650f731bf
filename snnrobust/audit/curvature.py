"""Findings about curvature: whether a second-order number predicts the measured loss, is symmetric, and converged."""

from __future__ import annotations

import numpy as np

from snnrobust.analysis.curvatures import curvatures
from snnrobust.analysis.outcomes import Outcomes
from snnrobust.results.curvature import (
    ASYMMETRIC,
    DIRECTIONS,
    HOPELESS,
    NOISE,
    ROOM,
    VALID,
    Curvature,
    Validity,
    cure,
    largest_known,
)
from snnrobust.results.records import Finding

#: Relative asymmetry that rounding in float32 stays under.
SYMMETRIC = 1e-3
#: Error over the largest eigenvalue above which an eigenvalue has not converged.
CONVERGED = 1e-2


def about_model(outcomes: Outcomes, model: str) -> list[Finding]:
    """Findings about every second-order measurement of a model; none of them decides about robustness."""
    return [
        finding
        for each in curvatures(outcomes, model)
        for finding in (_validity(each), *_symmetric(each), *_converged(each))
    ]


def _validity(found: Curvature) -> Finding:
    words = [_told(found.validity(each), each) for each in DIRECTIONS]
    seen = "; ".join(each for each in words if each) or "no loss was measured along any direction, or none moved"
    remedy = cure(found.operator)
    if found.noisy:
        remedy = "measure with more samples and draws: what was measured is noise"
    elif found.predicts is None:
        remedy = "measure with sr.load('eigenvalues'), which holds its operator against measured losses"
    elif found.predicts and found.off > 1:
        seen += f"; it orders directions as the loss does; its size is off by a factor {found.off:.2g}"
    elif found.off > HOPELESS:
        seen += "; by the slope, its size or sign is not that of the loss"
    return Finding(
        "curvature-validity",
        found.predicts,
        found.deciding.correlation,
        VALID,
        f"least rank correlation of the predicted with the measured change of the training loss, for {found.operator}: "
        f"{seen} (medians over the radii at which noise leaves room for {ROOM:g}, or over all)",
        remedy,
        required=False,
        model=found.model,
        label=found.label,
    )


def _symmetric(found: Curvature) -> list[Finding]:
    """Asked of operators that are symmetric by construction."""
    values = [each.value for each in found.of("asymmetry")]
    if not values or ASYMMETRIC in found.operator:
        return []
    value = largest_known(values)
    return [
        Finding(
            "curvature-symmetric",
            None if np.isnan(value) else value <= SYMMETRIC,
            value,
            SYMMETRIC,
            f"|M - M^T| over |M| (Frobenius) of {found.operator}, which is symmetric by construction; where it is "
            "not, a backward pass drops terms or does not belong to its forward pass",
            "use neurons of backend 'torch', and surrogates whose backward pass can be differentiated again",
            required=False,
            model=found.model,
            label=found.label,
        )
    ]


def _converged(found: Curvature) -> list[Finding]:
    value, noise = found.residual, NOISE in found.operator
    if np.isnan(value) and not noise:
        return []
    why = (
        f"largest error of an eigenvalue (its residual |M v - value v|; for a smoothed loss the spread over draws too) "
        f"over the largest eigenvalue, for {found.operator}"
    )
    remedy = "allow more products, and of a smoothed loss more draws, or ask for fewer eigenvalues"
    if noise:
        why += "; it was estimated from fewer draws than it has rows, and nothing says how far that is off"
        remedy = "ask for its trace, or give it more draws than it has rows"
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


def _told(validity: Validity, directions: str) -> str:
    if np.isnan(validity.correlation):
        return ""
    room = "" if np.isnan(validity.ceiling) else f" (noise leaves room for {validity.ceiling:.2f})"
    return f"{validity.count} {directions} directions {validity.correlation:.2f}{room}, slope {validity.slope:.2g}"
