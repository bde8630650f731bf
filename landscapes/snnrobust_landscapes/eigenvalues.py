"""Leading eigenvalues of a second-order operator of the training loss."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from snnrobust.draws import Draws
from snnrobust.errors import InputError
from snnrobust.results import Record
from snnrobust_landscapes.curvature import Curvature, Solved, mean_interval, require_count, require_share
from snnrobust_landscapes.evidence import CurvatureWarning
from snnrobust_landscapes.landscape import Landscape
from snnrobust_landscapes.operators.operator import Operator
from snnrobust_landscapes.solvers import gram
from snnrobust_landscapes.solvers.arnoldi import arnoldi
from snnrobust_landscapes.solvers.krylov import Eigenpairs
from snnrobust_landscapes.solvers.lanczos import lanczos

#: How an operator is called whose whole spectrum was worked out.
EXACT = "exact spectrum"
#: Rows of a Gram matrix up to which the whole spectrum takes no longer than Lanczos does for a few eigenvalues.
FEW_ROWS = 500


@dataclass(frozen=True)
class Eigenvalues(Curvature):
    """The k eigenvalues of largest magnitude, with what stands beside them (see `Curvature`).

    - Gauss-Newton and Fisher matrices of few samples (samples x classes up to 500; in inputs always): exact,
      by the Gram matrix of per-sample Jacobians. The operator's name then says "exact spectrum".
    - Other symmetric operators: Lanczos. Within [value - r, value + r] with r = |M v - value v| lies an eigenvalue.
    - Operators that are not symmetric: Arnoldi. "eigenvalue:i" is the real part, "imaginary:i" the imaginary one; r is
      how far the matrix is from one with that very eigenvalue.

    In inputs each sample has its own: "eigenvalue:i" is their mean with its 95 % interval, "eigenvalue_max:i" that of
    largest magnitude over samples with its r ("imaginary:i": mean magnitude of the imaginary parts).

    Eigenvalues of the smoothed loss are noise of its draws where these are fewer than the weights; see `Smoothed`.

    Attributes:
        k: How many. A layer of fewer parameters yields as many as it has.
        tolerance: Largest r, relative to the eigenvalue, at which one counts as found.
        products: Products with the operator at most. Warns where an eigenvalue is not found by then.

    Raises:
        InputError: For an unknown operator, or a setting out of range.
    """

    k: int = 5
    tolerance: float = 1e-3
    products: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("k", self.k, 1)
        require_count("products", self.products, self.k)
        require_share("tolerance", self.tolerance)

    def require(self, operator: Operator) -> None:
        """Raises an `InputError` if there are fewer than k eigenvalues."""
        landscape = operator.landscape
        if self.k > landscape.size:
            what = "parameters" if landscape.space == "weights" else "values of an input"
            raise InputError(
                f"expected at most k={landscape.size} eigenvalues, one for each of the {what} of model "
                f"'{landscape.model.name}', got k={self.k}; ask for fewer"
            )

    def solve(self, operator: Operator, rng: Draws) -> Solved:
        """Eigenvalues with their errors."""
        landscape, k = operator.landscape, min(self.k, operator.landscape.size)
        count = gram.rows(landscape, self.operator)
        if count is not None and count <= FEW_ROWS:
            found = gram.spectrum(landscape, self.operator, rng, memory=self.memory)
            values = found.values[..., :k].cpu()
            records = _records(landscape, values, torch.zeros_like(values))
            return Solved(list(records), note=EXACT)
        solver = lanczos if operator.symmetric else arnoldi
        pairs = solver(operator, k, rng, tolerance=self.tolerance, most=self.products)
        _warn(operator, pairs)
        records = _records(landscape, pairs.values.cpu(), pairs.residuals.cpu())
        return Solved(list(records))


def _records(landscape: Landscape, values: Tensor, residuals: Tensor) -> Iterator[Record]:
    """Records of eigenvalues [k], or [N, k] in inputs."""
    count = len(landscape.samples)
    for i in range(values.shape[-1]):
        each, errors = values[..., i], residuals[..., i]
        if landscape.space == "inputs":
            yield Record(f"eigenvalue:{i + 1}", *mean_interval(each.real.numpy()), count)
            at = int(each.abs().argmax())
            value, error = float(each[at].real), float(errors[at])
            yield Record(f"eigenvalue_max:{i + 1}", value, value - error, value + error, count)
            imaginary = each.imag.abs().mean() if each.is_complex() else None
        else:
            value, error = float(each.real), float(errors)
            yield Record(f"eigenvalue:{i + 1}", value, value - error, value + error, count)
            imaginary = each.imag if each.is_complex() else None
        if imaginary is not None:
            yield Record(f"imaginary:{i + 1}", float(imaginary), count=count)


def _warn(operator: Operator, pairs: Eigenpairs) -> None:
    if missed := int((~pairs.converged).sum()):
        warnings.warn(
            f"expected curvature that has converged: {pairs.converged.numel()} eigenvalues of the {operator.name} of "
            f"model '{operator.landscape.model.name}', got {missed} that have not after {pairs.products} products; "
            f"allow more products, or ask for fewer eigenvalues",
            CurvatureWarning,
            stacklevel=2,
        )
