"""Operators with explicit matrices, and spectra."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor


class Dense:
    """An `Operator` of explicit float64 matrices [D, D] (weights) or [N, D, D] (inputs)."""

    name = "matrix"

    def __init__(self, matrix: Tensor, symmetric: bool = True) -> None:
        self.matrix = matrix.double()
        self.symmetric = symmetric
        self.products = 0
        inputs = matrix.ndim == 3
        self.landscape: Any = SimpleNamespace(
            size=matrix.shape[-1],
            blocks=len(matrix) if inputs else 1,
            space="inputs" if inputs else "weights",
            samples=SimpleNamespace(index=torch.arange(len(matrix)) if inputs else None),
            model=SimpleNamespace(device=torch.device("cpu"), dtype=torch.float64),
        )

    def apply(self, vectors: Tensor) -> Tensor:
        return self._product(vectors, self.matrix)

    def apply_transposed(self, vectors: Tensor) -> Tensor:
        return self._product(vectors, self.matrix.mT)

    def _product(self, vectors: Tensor, matrix: Tensor) -> Tensor:
        assert vectors.dtype == torch.float64
        if self.landscape.space == "weights":
            self.products += len(vectors)
            return vectors @ matrix.T
        assert vectors.shape == self.matrix.shape[:2]
        self.products += 1
        return (matrix @ vectors.unsqueeze(2)).squeeze(2)


def rotated(values: Sequence[float] | Tensor, seed: int = 0) -> Tensor:
    """A symmetric matrix of these eigenvalues, with eigenvectors from a fixed seed."""
    found = torch.as_tensor(values, dtype=torch.float64)
    drawn = torch.randn(len(found), len(found), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    basis = torch.linalg.qr(drawn).Q
    matrix = basis @ torch.diag(found) @ basis.T
    return (matrix + matrix.T) / 2


def like_nets(size: int = 300) -> dict[str, Tensor]:
    """Eigenvalues like those of nets: a few large ones over a bulk."""
    generator = torch.Generator().manual_seed(0)
    bulk = torch.randn(size, dtype=torch.float64, generator=generator)
    gauss_newton = 0.02 * bulk.square()
    gauss_newton[:9] = torch.tensor([8.0, 3.1, 2.9, 1.7, 1.2, 0.9, 0.7, 0.6, 0.5])
    formal = 0.05 * bulk
    formal[:8] = torch.tensor([4.0, 2.0, -1.8, 1.1, -0.9, 0.8, 0.7, -0.6])
    pairs = 0.05 * bulk
    pairs[:8] = torch.tensor([3.0, -3.0, 2.0, -2.0, 1.0, -1.0, 0.7, -0.7])
    clustered = 0.02 * bulk.square()
    clustered[:8] = torch.tensor([2.0, 1.98, 1.96, 1.94, 1.2, 1.19, 1.18, 1.17])
    low_rank = torch.zeros(size, dtype=torch.float64)
    low_rank[:20] = torch.linspace(5, 0.5, 20)
    return {
        "gauss-newton": gauss_newton, "formal": formal, "pairs": pairs, "clustered": clustered, "low rank": low_rank
    }  # fmt: skip


@pytest.fixture(scope="session")
def dense() -> type[Dense]:
    """The class of operators with explicit matrices."""
    return Dense


@pytest.fixture(scope="session")
def symmetric() -> Callable[..., Tensor]:
    """Makes symmetric matrices of given eigenvalues."""
    return rotated


@pytest.fixture(scope="session")
def spectra() -> dict[str, Tensor]:
    """Spectra of nets by name."""
    return like_nets()
