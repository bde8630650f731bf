"""Eigenvalues that are noise of the draws that their operator was estimated from."""

from __future__ import annotations

import warnings

from snnrobust.results.curvature import NOISE
from snnrobust_landscapes.operators.operator import Operator
from snnrobust_landscapes.operators.smoothed import SmoothedHessian
from snnrobust_landscapes.validity.evidence import CurvatureWarning


def draw_noise(operator: Operator) -> str:
    """What is to be said of an operator's eigenvalues where it was estimated from fewer draws than it has rows.

    The eigenvalues of a smoothed Hessian are then those of its draws, whatever the loss is (see `Smoothed`), and no
    residual of a solver is an error of theirs. Warns once in a session of the model.

    Returns:
        The words; "" for other operators, and for draws enough.
    """
    landscape = operator.landscape
    if not isinstance(operator, SmoothedHessian) or (draws := operator.differences.shape[1]) >= landscape.size:
        return ""
    what = "weights" if landscape.space == "weights" else "values of an input"
    found = f"{NOISE} {draws:,} draws in {landscape.size:,} {what}"
    key = ("draw noise", operator.name, landscape.space)
    if key not in landscape.model.kept:
        landscape.model.kept[key] = True
        warnings.warn(
            f"expected at least as many draws as rows of the {operator.name} of model '{landscape.model.name}', got "
            f"{found}; use more draws, or its trace, which needs few",
            CurvatureWarning,
            stacklevel=2,
        )
    return found
