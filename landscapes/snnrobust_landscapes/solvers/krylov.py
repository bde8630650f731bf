"""Krylov spaces of an operator, for Lanczos, Arnoldi, the trace and the density."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.errors import InputError
from snnrobust_landscapes.loss.landscape import Landscape
from snnrobust_landscapes.operators.operator import Operator

#: A new direction is taken for rounding noise below this many rounding errors of the model's type.
ROUNDING_ERRORS = 16

#: Eigenvalues [R, m] and unit eigenvectors [R, m, m] (columns) of small matrices [R, m, m].
Solve = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Eigenpairs:
    """Leading eigenvalues of a matrix by magnitude, largest first; in inputs of each sample's matrix.

    Attributes:
        values: [k] in weights, [N, k] in inputs.
        vectors: Unit vectors, [k, P] or [k, N, D].
        residuals: |M v - value v| of each, as `values`. For a symmetric matrix an eigenvalue lies within that distance.
        converged: Whether each residual is within the tolerance, as `values`.
        products: Number of products.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    converged: Tensor
    products: int


class Krylov:
    """Orthonormal bases V of Krylov spaces, one for each row of vectors, and H = V^T M V.

    The recurrence of Arnoldi (1951), with Gram-Schmidt done twice (Giraud et al. 2005, Numer. Math. 101: "twice is
    enough"), holds up to rounding for any M:

        M V_m = V_m H_m + beta_m v_(m+1) e_m^T.

    Residuals of any combination of V follow from it without a product. Where beta is zero the space is invariant, and a
    random direction outside of it starts a new sweep.

    Args:
        operator: The matrix, or one for each sample.
        rng: Draws for new sweeps.
        start: First directions [R, size]: R = N in inputs, any number in weights.

    Attributes:
        steps: Vectors in each basis so far, m.
        sweeps: The step at which each row's present sweep began, or its last one if that has just ended [R].
        ended: Whether a sweep of the row has ended, its space being invariant [R].
    """

    def __init__(self, operator: Operator, rng: Draws, start: Tensor) -> None:
        self.steps = 0
        self.sweeps = torch.zeros(len(start), dtype=torch.long)
        self.ended = torch.zeros(len(start), dtype=torch.bool)
        self._turn = torch.zeros(len(start), dtype=torch.bool)  # whose next vector starts a sweep
        self._operator = operator
        self._rng = rng
        self._noise = ROUNDING_ERRORS * torch.finfo(operator.landscape.model.dtype).eps
        self._next = start / start.norm(dim=1, keepdim=True)  # [R, size]
        self._basis = start.new_empty(len(start), 0, start.shape[1])  # [R, capacity, size]
        self._matrix = start.new_zeros(len(start), 1, 0)  # [R, capacity + 1, capacity]
        self._lost = start.new_zeros(len(start), 0)  # [R, capacity]: betas that were taken for zero
        self._scale = start.new_zeros(len(start))  # [R]

    @property
    def basis(self) -> Tensor:
        """V^T, [R, m, size]."""
        return self._basis[:, : self.steps]

    @property
    def matrix(self) -> Tensor:
        """H with beta_m e_m^T below, [R, m + 1, m]."""
        return self._matrix[:, : self.steps + 1, : self.steps]

    @property
    def floor(self) -> Tensor:
        """The size of rounding errors in a product with a unit vector, [R]."""
        return self._noise * self._scale

    def grow(self) -> tuple[Tensor, Tensor]:
        """Adds a vector to each basis, for one product.

        Returns:
            The vectors, and the part of their products outside of the bases: beta_m v_(m+1); [R, size] each.
        """
        self._make_room()
        m, new = self.steps, self._next
        self._basis[:, m] = new
        self.sweeps[self._turn] = m
        self.steps += 1
        left = self._operator.apply(new)
        for _ in range(2):
            left, inside = project_out(left, self.basis)
            self._matrix[:, : m + 1, m] += inside
        beta = left.norm(dim=1)  # [R]
        size = (self._matrix[:, : m + 1, m].square().sum(dim=1) + beta.square()).sqrt()
        self._scale = torch.maximum(self._scale, size)
        ended = beta <= self.floor
        self._matrix[:, m + 1, m] = torch.where(ended, 0.0, beta)
        self._lost[:, m] = torch.where(ended, beta, 0.0)
        self._turn = ended.cpu()
        self.ended |= self._turn
        self._next = left / torch.where(ended, 1.0, beta).unsqueeze(1)
        if bool(ended.any()) and self.steps < new.shape[1]:
            self._next[ended] = self._fresh()[ended]
        return new, left

    def pairs(self, solve: Solve) -> tuple[Tensor, Tensor, Tensor]:
        """Ritz values [R, m] by falling magnitude, Ritz vectors in the basis [R, m, m] (columns), residuals [R, m]."""
        values, inner, residuals = _pairs(self.matrix, solve)
        return values, inner, residuals + (self._lost[:, : self.steps].unsqueeze(1) @ inner.abs()).squeeze(1)

    def sweep(self, row: int, solve: Solve) -> tuple[float, float]:
        """Magnitude and residual of the leading Ritz value of a row's latest sweep."""
        began = int(self.sweeps[row])
        values, _, residuals = _pairs(self.matrix[row : row + 1, began:, began:], solve)
        return float(values[0, 0].abs()), float(residuals[0, 0])

    def combined(self, inner: Tensor) -> Tensor:
        """V times columns of `inner` [R, m, k]: rows [R, k, size]."""
        vectors: Tensor = inner.mT @ self.basis.to(inner.dtype)
        return vectors

    def _fresh(self) -> Tensor:
        drawn = normal(self._operator.landscape, self._rng.sub("sweep", self.steps), len(self._basis))
        for _ in range(2):
            drawn, _ = project_out(drawn, self.basis)
        fresh: Tensor = drawn / drawn.norm(dim=1, keepdim=True)
        return fresh

    def _make_room(self) -> None:
        rows, capacity, size = self._basis.shape
        if self.steps < capacity:
            return
        larger = min(max(16, 2 * capacity), size)
        basis, matrix, lost = self._basis, self._matrix, self._lost
        self._basis = basis.new_empty(rows, larger, size)
        self._basis[:, :capacity] = basis
        self._matrix = matrix.new_zeros(rows, larger + 1, larger)
        self._matrix[:, : capacity + 1, :capacity] = matrix
        self._lost = lost.new_zeros(rows, larger)
        self._lost[:, :capacity] = lost


def leading_eigenpairs(operator: Operator, k: int, rng: Draws, tolerance: float, most: int, solve: Solve) -> Eigenpairs:
    """The k eigenvalues of largest magnitude, from the first Krylov space in which all have converged.

    Args:
        operator: The matrix, or one for each sample.
        k: How many.
        rng: Draws for the start.
        tolerance: Largest residual, relative to the eigenvalue, at which one has converged. Residuals of the size of
            rounding errors in the model's type have converged too.
        most: Most products; eigenvalues that have not converged by then are marked.
        solve: For the small projected matrices.

    Raises:
        InputError: For k beyond the size of the matrix or `most`, or a tolerance out of range.
    """
    landscape = operator.landscape
    if not 1 <= k <= landscape.size:
        what = "parameters P" if landscape.space == "weights" else "values D of an input"
        raise InputError(f"expected k between 1 and the {what} = {landscape.size}, got {k}; there are no more")
    if most < k:
        raise InputError(f"expected at least k = {k} products, got {most}; pass most={k} or more")
    if not 0 < tolerance < 1:
        raise InputError(f"expected tolerance in (0, 1), got {tolerance!r}; give a relative residual")
    before = operator.products
    krylov = Krylov(operator, rng, normal(landscape, rng.sub("start"), landscape.blocks))
    limit = min(most, landscape.size)
    while True:
        krylov.grow()
        if krylov.steps < k:
            continue
        values, inner, residuals = (each[..., :k] for each in krylov.pairs(solve))
        converged = residuals <= torch.maximum(tolerance * values.abs(), krylov.floor.unsqueeze(1))  # [R, k]
        if krylov.steps == limit or (
            bool(converged.all()) and _remaining_are_smaller(krylov, values, tolerance, solve)
        ):
            break
    vectors = krylov.combined(inner).transpose(0, 1)  # [k, R, size]
    if landscape.space == "weights":
        values, residuals, converged, vectors = values[0], residuals[0], converged[0], vectors[:, 0]
    return Eigenpairs(values, vectors, residuals, converged, operator.products - before)


def normal(landscape: Landscape, rng: Draws, rows: int) -> Tensor:
    """Standard normal vectors [rows, size], float64: keyed by the sample in inputs, by the row in weights."""
    ids = landscape.samples.index if landscape.space == "inputs" else torch.arange(rows)
    return rng.normal(ids, (landscape.size,)).double().to(landscape.model.device)


def random_signs(landscape: Landscape, rng: Draws, rows: int) -> Tensor:
    """Vectors of random signs -1 and 1, [rows, size], float64; keyed as in `normal`."""
    return torch.where(normal(landscape, rng, rows) < 0, -1.0, 1.0).double()


def _remaining_are_smaller(krylov: Krylov, values: Tensor, tolerance: float, solve: Solve) -> bool:
    """Whether eigenvalues outside of invariant spaces are smaller than `values` [R, k], which have converged.

    A new sweep has a part in every eigenvector that earlier ones left out: its leading value bounds the remaining ones.
    So multiple eigenvalues are found with their multiplicity. Without an invariant space nothing is known about
    eigenvalues outside of the space, and no further product is taken.
    """
    for row in torch.nonzero(krylov.ended).flatten().tolist():
        value, residual = krylov.sweep(row, solve)
        least, floor = float(values[row, -1].abs()), float(krylov.floor[row])
        if residual > max(tolerance * value, floor) or value > max((1 + tolerance) * least, floor):
            return False
    return True


def _pairs(matrix: Tensor, solve: Solve) -> tuple[Tensor, Tensor, Tensor]:
    """`Krylov.pairs` of H with beta_m e_m^T below, [R, m + 1, m]."""
    values, inner = solve(matrix[:, :-1])
    order = values.abs().argsort(dim=1, descending=True, stable=True)
    values, inner = values.gather(1, order), inner.gather(2, order.unsqueeze(1).expand_as(inner))
    product = matrix.to(inner.dtype) @ inner  # [R, m + 1, m]
    product[:, :-1] -= inner * values.unsqueeze(1)
    return values, inner, product.norm(dim=1)


def project_out(vectors: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """`vectors` [R, size] minus their projection onto `basis` [R, m, size], and its coefficients [R, m]."""
    inside = (basis @ vectors.unsqueeze(2)).squeeze(2)
    return vectors - (inside.unsqueeze(1) @ basis).squeeze(1), inside
