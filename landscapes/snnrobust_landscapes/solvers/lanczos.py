"""Leading eigenvalues of a symmetric operator."""

from __future__ import annotations

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.errors import InputError
from snnrobust_landscapes.operators.operator import Operator
from snnrobust_landscapes.solvers.krylov import Eigenpairs, leading_eigenpairs


def lanczos(operator: Operator, k: int, rng: Draws, *, tolerance: float = 1e-3, most: int = 200) -> Eigenpairs:
    """The k eigenvalues of largest magnitude, of either sign, by Lanczos (1950) with full reorthogonalisation.

    It stops at the first product after which all k have converged. All directions are stored, m vectors of P values in
    float64 after m products, so that no eigenvalue is found twice and pairs +a, -a are separated. An eigenvalue of
    multiplicity above one is found once, as by all methods that start from a single vector, unless the directions span
    an invariant space before the k have converged; then random directions outside of it find the others.

    Args:
        operator: A symmetric matrix, or one for each sample, which are then computed together.
        k: How many.
        rng: Draws for the start.
        tolerance: Largest |M v - value v| relative to |value|. The error of a value is never larger, and of the order
            of its square over the distance to the next eigenvalue.
        most: Most products; eigenvalues that have not converged by then are marked.

    Raises:
        InputError: For an operator that is not symmetric, k beyond the size of the matrix or `most`, or a tolerance
            out of range.
    """
    if not operator.symmetric:
        raise InputError(
            f"expected a symmetric operator for Lanczos, got the {operator.name}; use Arnoldi, or the symmetric part "
            f"of the operator"
        )
    return leading_eigenpairs(operator, k, rng, tolerance, most, _solve)


def _solve(matrix: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    return values, vectors
