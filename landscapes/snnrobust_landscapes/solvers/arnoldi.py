"""Leading eigenvalues of an operator that need not be symmetric."""

from __future__ import annotations

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust_landscapes.operators.operator import Operator
from snnrobust_landscapes.solvers.krylov import Eigenpairs, leading_eigenpairs


def arnoldi(operator: Operator, k: int, rng: Draws, *, tolerance: float = 1e-3, most: int = 200) -> Eigenpairs:
    """The k eigenvalues of largest magnitude, complex with complex unit vectors, by Arnoldi (1951).

    As `lanczos`, but for any matrix. A conjugate pair has one magnitude: k may split it. For a matrix far from normal a
    small residual does not mean that an eigenvalue is near: the value is one of a matrix M + E with |E| the residual.

    Args:
        operator: A matrix, or one for each sample.
        k: How many.
        rng: Draws for the start.
        tolerance: Largest |M v - value v| relative to |value|.
        most: Most products; eigenvalues that have not converged by then are marked.

    Raises:
        InputError: For k beyond the size of the matrix or `most`, or a tolerance out of range.
    """
    return leading_eigenpairs(operator, k, rng, tolerance, most, _solve)


def _solve(matrix: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eig(matrix)
    return values, vectors
