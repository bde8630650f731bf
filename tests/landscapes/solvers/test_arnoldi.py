"""Arnoldi against dense eigenvalues and scipy's `eigs`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigs
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.errors import InputError
from snnrobust_landscapes.solvers.arnoldi import arnoldi

RNG = Draws(0, "eigenvalues")


def general(seed: int = 0, size: int = 120) -> Tensor:
    """A few complex and real eigenvalues over a bulk, with eigenvectors that are not orthogonal."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.zeros(size, size, dtype=torch.float64)
    blocks[:2, :2] = torch.tensor([[3.0, 2.0], [-2.0, 3.0]])  # 3 +- 2i
    blocks[2, 2], blocks[3, 3] = -2.5, 2.0
    blocks[4:6, 4:6] = torch.tensor([[0.0, 1.5], [-1.5, 0.0]])  # +- 1.5i
    blocks[6:, 6:] = 0.03 * torch.randn(size - 6, size - 6, generator=generator, dtype=torch.float64)
    change = torch.eye(size) + 0.05 * torch.randn(size, size, generator=generator)
    return change.double() @ blocks @ torch.linalg.inv(change.double())


def by_magnitude(values: Tensor) -> Tensor:
    return values[values.abs().argsort(descending=True, stable=True)]


@pytest.mark.parametrize("k", [1, 3, 6])
def test_against_dense_eigenvalues(k: int, dense: Any) -> None:
    matrix = general()
    operator = dense(matrix, symmetric=False)
    found = arnoldi(operator, k, RNG, tolerance=1e-9)
    assert found.converged.all()
    assert found.products == operator.products
    expected = by_magnitude(torch.linalg.eigvals(matrix))[:k]
    torch.testing.assert_close(found.values.abs(), expected.abs(), atol=1e-8, rtol=0)
    torch.testing.assert_close(found.values.real, expected.real, atol=1e-8, rtol=0)
    torch.testing.assert_close(found.values.imag.abs(), expected.imag.abs(), atol=1e-8, rtol=0)
    true = (found.vectors @ matrix.T.to(found.vectors.dtype) - found.values[:, None] * found.vectors).norm(dim=1)
    torch.testing.assert_close(found.residuals, true, atol=1e-13, rtol=1e-3)
    torch.testing.assert_close(found.vectors.norm(dim=1), torch.ones(k).double(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-8])
def test_takes_no_more_products_than_scipy(tolerance: float, dense: Any) -> None:
    matrix = general()
    for k in (1, 4, 6):
        theirs = []

        def product(x: np.ndarray, counted: list[int] = theirs) -> np.ndarray:
            counted.append(1)
            return matrix.numpy() @ x

        start = np.random.default_rng(k).standard_normal(len(matrix))
        expected = eigs(LinearOperator(matrix.shape, product, dtype=float), k, tol=tolerance, v0=start)[0]
        ours = arnoldi(dense(matrix, symmetric=False), k, RNG, tolerance=tolerance)
        assert ours.products <= 1.2 * len(theirs), k
        np.testing.assert_allclose(ours.values.abs().numpy(), sorted(np.abs(expected))[::-1], rtol=3 * tolerance)


def test_inputs_are_worked_out_together(dense: Any) -> None:
    matrices = torch.stack([general(seed, 60) for seed in range(3)])
    found = arnoldi(dense(matrices, symmetric=False), 3, RNG, tolerance=1e-9)
    assert found.vectors.shape == (3, 3, 60)
    for values, matrix in zip(found.values, matrices, strict=True):
        torch.testing.assert_close(
            values.abs(), by_magnitude(torch.linalg.eigvals(matrix))[:3].abs(), atol=1e-9, rtol=0
        )


def test_a_symmetric_matrix_has_real_eigenvalues(
    dense: Any, symmetric: Callable[..., Tensor], spectra: dict[str, Tensor]
) -> None:
    found = arnoldi(dense(symmetric(spectra["pairs"])), 6, RNG, tolerance=1e-9)
    expected = by_magnitude(spectra["pairs"])[:6]
    torch.testing.assert_close(found.values.real.sort().values, expected.sort().values, atol=1e-10, rtol=0)
    assert found.values.imag.abs().max() < 1e-10


def test_an_invariant_space_and_a_defective_matrix(dense: Any) -> None:
    found = arnoldi(dense(torch.tensor([[2.0, 1, 0], [0, 2, 0], [0, 0, 1]]), symmetric=False), 3, RNG, tolerance=1e-6)
    torch.testing.assert_close(found.values.real, torch.tensor([2.0, 2.0, 1.0]).double(), atol=1e-6, rtol=0)
    assert found.residuals.max() < 1e-12
    again = arnoldi(dense(3 * torch.eye(5), symmetric=False), 2, RNG)
    torch.testing.assert_close(again.values.real, torch.tensor([3.0, 3.0]).double())


def test_k_is_refused_beyond_the_size(dense: Any) -> None:
    with pytest.raises(InputError, match="expected k between 1 and the parameters P = 3, got 4"):
        arnoldi(dense(torch.eye(3), symmetric=False), 4, RNG)
