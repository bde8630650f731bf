"""Lanczos against dense eigenvalues and scipy's `eigsh`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.errors import InputError
from snnrobust_landscapes.solvers.lanczos import lanczos

RNG = Draws(0, "eigenvalues")
NAMES = ("gauss-newton", "formal", "pairs", "clustered", "low rank")


def by_magnitude(values: Tensor) -> Tensor:
    return values[values.abs().argsort(descending=True)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("k", [1, 5, 10])
def test_leading_eigenvalues_of_spectra_like_those_of_nets(
    name: str, k: int, dense: Any, symmetric: Callable[..., Tensor], spectra: dict[str, Tensor]
) -> None:
    matrix = symmetric(spectra[name])
    operator = dense(matrix)
    found = lanczos(operator, k, RNG, tolerance=1e-9, most=300)
    assert found.converged.all()
    assert found.products == operator.products
    torch.testing.assert_close(found.values.abs(), by_magnitude(spectra[name])[:k].abs(), atol=1e-12, rtol=1e-12)
    true = (found.vectors @ matrix - found.values[:, None] * found.vectors).norm(dim=1)
    torch.testing.assert_close(found.residuals, true, atol=1e-13, rtol=1e-3)
    torch.testing.assert_close(found.vectors @ found.vectors.T, torch.eye(k, dtype=torch.float64), atol=1e-12, rtol=0)


def test_a_residual_before_convergence_is_the_true_one_and_bounds_the_error(
    dense: Any, symmetric: Callable[..., Tensor], spectra: dict[str, Tensor]
) -> None:
    matrix = symmetric(spectra["formal"])
    found = lanczos(dense(matrix), 5, RNG, tolerance=1e-9, most=9)
    assert found.products == 9
    assert not found.converged[4]
    true = (found.vectors @ matrix - found.values[:, None] * found.vectors).norm(dim=1)
    torch.testing.assert_close(found.residuals, true, atol=1e-13, rtol=1e-9)
    distance = (found.values[:, None] - spectra["formal"]).abs().amin(dim=1)
    assert (distance <= found.residuals + 1e-12).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-8])
def test_takes_no_more_products_than_scipy(
    name: str, tolerance: float, dense: Any, symmetric: Callable[..., Tensor], spectra: dict[str, Tensor]
) -> None:
    matrix = symmetric(spectra[name])
    for k in (1, 5, 10):
        theirs = []

        def product(x: np.ndarray, counted: list[int] = theirs) -> np.ndarray:
            counted.append(1)
            return matrix.numpy() @ x

        start = np.random.default_rng(k).standard_normal(len(matrix))
        eigsh(LinearOperator(matrix.shape, product, dtype=float), k, which="LM", tol=tolerance, v0=start)
        ours = lanczos(dense(matrix), k, RNG, tolerance=tolerance, most=300)
        assert ours.converged.all()
        assert ours.products <= 1.2 * len(theirs), k


def test_a_pair_of_either_sign_is_told_apart(dense: Any, symmetric: Callable[..., Tensor]) -> None:
    found = lanczos(dense(symmetric([2.0, -2.0, *[0.1] * 30, *torch.linspace(-1, 1, 50).tolist()])), 2, RNG)
    assert sorted(round(float(value), 3) for value in found.values) == [-2.0, 2.0]


@pytest.mark.parametrize(
    "values", [[5.0, 5, 5, 0, 0, 0, 0, 2, 2, 2], [1.0] * 8, [0.0] * 6, [3.0, -3, 3, -3, 1], [7.0], [4.0, 4.0]]
)
def test_multiple_eigenvalues_of_invariant_spaces(
    values: list[float], dense: Any, symmetric: Callable[..., Tensor]
) -> None:
    for k in range(1, len(values) + 1):
        found = lanczos(dense(symmetric(values)), k, RNG, tolerance=1e-8)
        expected = by_magnitude(torch.tensor(values, dtype=torch.float64))[:k]
        torch.testing.assert_close(found.values.abs(), expected.abs(), atol=1e-12, rtol=0)
        assert found.converged.all()


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.integers(-99, 99), min_size=1, max_size=12, unique=True), seed=st.integers(0, 5), data=st.data()
)
def test_any_small_matrix(dense: Any, values: list[int], seed: int, data: st.DataObject) -> None:
    drawn = torch.randn(len(values), len(values), generator=torch.Generator().manual_seed(seed)).double()
    basis = torch.linalg.qr(drawn).Q
    matrix = basis @ torch.diag(torch.tensor(values).double()) @ basis.T
    k = data.draw(st.integers(1, len(values)))
    found = lanczos(dense((matrix + matrix.T) / 2), k, RNG, tolerance=1e-9)
    expected = by_magnitude(torch.linalg.eigvalsh((matrix + matrix.T) / 2))[:k]
    torch.testing.assert_close(found.values.abs(), expected.abs(), atol=1e-9, rtol=0)


def test_inputs_are_worked_out_together(
    dense: Any, symmetric: Callable[..., Tensor], spectra: dict[str, Tensor]
) -> None:
    """Blocks converge, end and restart at different steps, in as many products as the slowest takes."""
    low_rank = torch.cat([torch.tensor([3.0, 3.0, 1.0]), torch.zeros(297)])
    every = [*spectra.values(), low_rank.double(), torch.zeros(300)]
    matrices = torch.stack([symmetric(values, seed) for seed, values in enumerate(every)])
    operator = dense(matrices)
    found = lanczos(operator, 3, RNG, tolerance=1e-8)
    assert found.values.shape == found.residuals.shape == found.converged.shape == (7, 3)
    assert found.vectors.shape == (3, 7, 300)
    expected = torch.stack([by_magnitude(values.double())[:3] for values in every])
    torch.testing.assert_close(found.values.abs(), expected.abs(), atol=1e-10, rtol=0)
    alone = [lanczos(dense(matrix[None]), 3, RNG, tolerance=1e-8).products for matrix in matrices]
    assert found.products <= max(alone) + 4  # each alone starts elsewhere


def test_a_sample_does_not_depend_on_its_batch_mates(dense: Any, symmetric: Callable[..., Tensor]) -> None:
    matrices = torch.stack([symmetric(torch.linspace(-1, 2 + seed, 40), seed) for seed in range(3)])
    together = lanczos(dense(matrices), 2, RNG, tolerance=1e-9, most=12)
    alone = dense(matrices[1:2])
    alone.landscape.samples.index = torch.tensor([1])
    torch.testing.assert_close(
        lanczos(alone, 2, RNG, tolerance=1e-9, most=12).values[0], together.values[1], atol=1e-12, rtol=0
    )


def test_again_gives_the_same_and_another_seed_another_start(
    dense: Any, symmetric: Callable[..., Tensor], spectra: dict[str, Tensor]
) -> None:
    matrix = symmetric(spectra["gauss-newton"])
    first, again, other = (lanczos(dense(matrix), 3, Draws(seed, "e"), tolerance=1e-2) for seed in (0, 0, 1))
    assert torch.equal(first.vectors, again.vectors)
    assert not torch.equal(first.values, other.values)


def test_rounding_of_a_float32_net_ends_an_invariant_space(dense: Any, symmetric: Callable[..., Tensor]) -> None:
    """Products with noise of 1e-7: a threefold eigenvalue is found, residuals as small as the noise have converged."""
    matrix = symmetric([5.0, 5.0, 5.0, *[0.0] * 47])
    operator = dense(matrix)
    operator.landscape.model.dtype = torch.float32
    exact = operator.apply
    operator.apply = lambda vectors: exact(vectors).float().double()
    found = lanczos(operator, 4, RNG, tolerance=1e-12)
    torch.testing.assert_close(found.values, torch.tensor([5.0, 5.0, 5.0, 0.0]).double(), atol=1e-5, rtol=0)
    assert found.converged.all()
    assert found.products < 20
    assert found.residuals.max() > 1e-9  # and reported


def test_refusals(dense: Any, symmetric: Callable[..., Tensor]) -> None:
    operator = dense(symmetric([1.0, 2.0, 3.0]))
    for k in (0, 4):
        with pytest.raises(InputError, match="expected k between 1 and the parameters P = 3"):
            lanczos(operator, k, RNG)
    with pytest.raises(InputError, match="at least k = 3 products, got 2"):
        lanczos(operator, 3, RNG, most=2)
    with pytest.raises(InputError, match="tolerance"):
        lanczos(operator, 1, RNG, tolerance=0.0)
    with pytest.raises(InputError, match="values D of an input = 3"):
        lanczos(dense(torch.eye(3)[None]), 4, RNG)
    with pytest.raises(InputError, match="symmetric operator for Lanczos, got the matrix; use Arnoldi"):
        lanczos(dense(torch.eye(3), symmetric=False), 1, RNG)
    assert operator.products == 0
