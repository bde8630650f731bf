"""Eigenvalues that are noise of the draws that their operator was estimated from."""

from __future__ import annotations

import warnings

from snnrobust.common.session_cache import CacheKey
from snnrobust_landscapes.operators.operator import Operator
from snnrobust_landscapes.operators.smoothed import SmoothedHessian
from snnrobust_landscapes.validity.evidence import CurvatureWarning


def draw_noise_note(operator: Operator) -> str:
    """A note on an operator's eigenvalues if it was estimated from fewer draws than it has rows.

    The eigenvalues of a smoothed Hessian are then determined by its draws, not by the loss (see `Smoothed`), and the
    residual of a solver is no error estimate. Warns once in a session of the model.

    Returns:
        The note; "" for other operators, and where there are enough draws.
    """
    landscape = operator.landscape
    if not isinstance(operator, SmoothedHessian) or (draws := operator.differences.shape[1]) >= landscape.size:
        return ""
    what = "weights" if landscape.space == "weights" else "values of an input"
    note = f"eigenvalues noise of {draws:,} draws in {landscape.size:,} {what}"

    def warn() -> None:
        warnings.warn(
            f"expected at least as many draws as rows of the {operator.name} of model '{landscape.model.name}', got "
            f"{note}; use more draws, or its trace, which needs few",
            CurvatureWarning,
            stacklevel=4,  # the caller of `draw_noise_note`, past the cache
        )

    landscape.model.cache.get(CacheKey[None]("warned of draw noise", (operator.name, landscape.space)), warn)
    return note
