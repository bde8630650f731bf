"""Directions for planes and lines: random, of steepest ascent, or an operator's leading eigenvectors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.errors import InputError
from snnrobust_landscapes.loss.landscape import Landscape
from snnrobust_landscapes.measurements.scaled_norm import ScaledNorm
from snnrobust_landscapes.operators.names import operator_spec
from snnrobust_landscapes.operators.operator import OperatorSpec
from snnrobust_landscapes.solvers.lanczos import lanczos
from snnrobust_landscapes.validity.agreement import scaled_to_relative_norm_1
from snnrobust_landscapes.validity.evidence import CurvatureWarning
from snnrobust_landscapes.validity.preliminary_checks import trial_operator

#: The names of directions.
DIRECTION_NAMES = ("random", "adversarial", "eigenvector")
#: GiB for an operator's stored graphs while an eigenvector is computed.
MEMORY = 0.5
#: Smallest share of a direction's norm that is orthogonal to another one, for the two not to be parallel.
_INDEPENDENT = 1e-6


@dataclass(frozen=True, eq=False)
class Direction:
    """A direction.

    Attributes:
        along: Of relative norm 1, [P] or [N, D], float64.
        unconverged: Number of its eigenvectors that have not converged: one in weights, one for each sample in inputs.
    """

    along: Tensor
    unconverged: int = 0


def make_direction(
    name: str,
    landscape: Landscape,
    rng: Draws,
    operator: str | Mapping[str, Any] | OperatorSpec = "gauss-newton",
    rank: int = 1,
) -> Direction:
    """A direction of relative norm 1: as long as a random filter-normalised one (in inputs: as the input).

    - "random": `landscape.direction`.
    - "adversarial": the surrogate gradient's steepest ascent in the relative norm, s^2 g with s the norm of the filter
      that a coordinate is in. For inputs each sample's own gradient, s being |x_n| for all of a sample's values.
    - "eigenvector": of the eigenvalue of `operator` that is the `rank`-th by magnitude; for inputs each sample's own.
      Eigenvectors have no sign: the entry of largest magnitude is made positive. Warns where one has not converged.

    Samples whose gradient or eigenvector is zero get zeros.

    Args:
        name: One of `DIRECTION_NAMES`.
        landscape: A loss over weights or inputs.
        rng: Keyed draws.
        operator: For "eigenvector": a symmetric operator.
        rank: For "eigenvector", from 1.

    Raises:
        InputError: For another name, a rank beyond the size, or a gradient that is not finite or zero everywhere.
    """
    if name == "random":
        return Direction(landscape.direction(rng))
    if name == "adversarial":
        up = ScaledNorm("relative", landscape.scale()).steepest(surrogate_gradient(landscape))
        return Direction(_nonzero_at_relative_norm_1(up, landscape, "an adversarial direction"))
    if name == "eigenvector":
        return _eigenvector(landscape, rng, operator_spec(operator), rank)
    raise InputError(f"expected a direction among {', '.join(DIRECTION_NAMES)}, got {name!r}; choose one")


def require_eigenvectors(landscape: Landscape, operator: str | Mapping[str, Any] | OperatorSpec, rank: int) -> None:
    """Checks on a few samples, with `rank` products, whether eigenvectors up to the `rank`-th can be computed.

    Raises:
        InputError: For an operator that is not symmetric or that the net does not support, or a rank beyond the size.
        PluginError: If the surrogate can't be differentiated as the operator requires.
    """
    lanczos(trial_operator(operator_spec(operator), landscape), rank, Draws(0, "trial"), most=rank)


def orthogonal_direction(second: Tensor, first: Tensor, landscape: Landscape) -> Tensor:
    """The part of `second` that is orthogonal to `first`, at relative norm 1; sample by sample for inputs.

    Orthogonal by the plain inner product, as eigenvectors of a symmetric operator are: they do not change. The plane
    that the two directions span does not change either.

    Args:
        second: A direction [P] or [N, D].
        first: Another one.
        landscape: The loss over their space.

    Returns:
        A direction of the shape of `second`; rows of zeros for inputs where both are parallel.

    Raises:
        InputError: If the two are parallel (for inputs: at all samples).
    """
    a, b = second, first.to(second.device)
    share = (a * b).sum(dim=-1, keepdim=True) / b.square().sum(dim=-1, keepdim=True).clamp(min=1e-300)
    rest = a - share * b
    there = rest.norm(dim=-1, keepdim=True) > _INDEPENDENT * a.norm(dim=-1, keepdim=True)
    return _nonzero_at_relative_norm_1(
        torch.where(there, rest, 0.0), landscape, "a second direction that is not parallel to the first,"
    )


def surrogate_gradient(landscape: Landscape, offset: Tensor | None = None) -> Tensor:
    """The surrogate gradient at origin + offset, [P] or [N, D].

    Raises:
        InputError: If it is not finite, or zero at the origin for all samples.
    """
    gradient = landscape.gradient(torch.zeros_like(landscape.scale()) if offset is None else offset)
    if not torch.isfinite(gradient).all():
        raise InputError(
            f"expected a finite surrogate gradient of model '{landscape.model.name}', got NaN or infinity; check the "
            f"surrogate and the weights"
        )
    if offset is None and not gradient.any():
        raise InputError(
            f"expected a surrogate gradient of model '{landscape.model.name}' that is not zero, got zeros; use a wider "
            f"surrogate"
        )
    return gradient


def _nonzero_at_relative_norm_1(found: Tensor, landscape: Landscape, what: str) -> Tensor:
    """`found` at relative norm 1."""
    if not found.any():
        raise InputError(
            f"expected {what} that is not zero in the {landscape.space} of model '{landscape.model.name}', got zeros; "
            f"choose another direction"
        )
    return scaled_to_relative_norm_1(landscape, found)


def _eigenvector(landscape: Landscape, rng: Draws, operator: OperatorSpec, rank: int) -> Direction:
    """An eigenvector, the entry of largest magnitude being positive."""
    found = lanczos(operator.on(landscape, MEMORY, rng.sub("operator")), rank, rng.sub("lanczos"))
    vector = found.vectors[rank - 1]
    largest = vector.gather(-1, vector.abs().argmax(dim=-1, keepdim=True))
    along = _nonzero_at_relative_norm_1(vector * torch.where(largest < 0, -1.0, 1.0), landscape, "an eigenvector")
    if unconverged := int((~found.converged[..., rank - 1]).sum()):
        residual = float((found.residuals / found.values.abs())[..., rank - 1].max())
        warnings.warn(
            f"expected eigenvectors of the {operator.name} of model '{landscape.model.name}' to converge within "
            f"{found.products} products, got {unconverged} of {landscape.blocks} that did not, with residuals of up to "
            f"{residual:.2g} of the eigenvalue; take them for directions of large curvature only, or name another "
            f"operator",
            CurvatureWarning,
            stacklevel=2,
        )
    return Direction(along, unconverged)
