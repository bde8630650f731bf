"""The spectral density against all eigenvalues."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.errors import InputError
from snnrobust_landscapes.solvers.density import DensityEstimate, estimate_density

RNG = Draws(0, "density")


def broadened(values: Tensor, found: DensityEstimate) -> Tensor:
    """The true density, each eigenvalue a Gaussian of the same width."""
    each = torch.exp(-0.5 * ((found.x[:, None] - values) / found.width).square())
    return each.mean(dim=1) / (found.width * math.sqrt(2 * math.pi))


@pytest.mark.parametrize("name", ["gauss-newton", "formal", "pairs", "clustered", "low rank"])
def test_integrates_to_one_with_the_right_moments(
    name: str, dense: Any, symmetric: Callable[..., Tensor], spectra: dict[str, Tensor]
) -> None:
    operator = dense(symmetric(spectra[name]))
    found = estimate_density(operator, RNG, probes=20, steps=30)
    assert found.products == operator.products == 600
    assert float(torch.trapezoid(found.values, found.x)) == pytest.approx(1, abs=1e-8)
    mean = float(torch.trapezoid(found.values * found.x, found.x))
    assert mean == pytest.approx(found.mean, abs=1e-8)  # broadening does not change it
    assert abs(found.mean - float(spectra[name].mean())) < 4 * found.mean_error
    assert 0 < found.mean_error < 0.05
    second = float(torch.trapezoid(found.values * found.x.square(), found.x)) - found.width**2
    assert second == pytest.approx(float(spectra[name].square().mean()), rel=0.35)
    assert (found.values >= 0).all()


def test_converges_to_the_broadened_spectrum(
    dense: Any, symmetric: Callable[..., Tensor], spectra: dict[str, Tensor]
) -> None:
    found = estimate_density(dense(symmetric(spectra["formal"])), RNG, probes=60, steps=60, width=0.03)
    away = (found.values - broadened(spectra["formal"], found)).abs()
    assert (away < 5 * found.errors + 0.01 * found.values.max()).all()
    assert torch.trapezoid(away, found.x) < 0.1
    few = estimate_density(dense(symmetric(spectra["formal"])), RNG, probes=4, steps=60, width=0.03)
    assert few.errors.max() > 2 * found.errors.max()


def test_exact_for_as_many_steps_as_rows_in_inputs(dense: Any, symmetric: Callable[..., Tensor]) -> None:
    """Pooled over samples; a quadrature with equal weights on eigenvectors would be exact for every probe."""
    matrices = torch.stack([torch.diag(torch.linspace(-1, 1 + n, 8)) for n in range(3)]).double()
    operator = dense(matrices)
    found = estimate_density(operator, RNG, probes=3, steps=20, width=0.02)
    assert operator.products == 24  # 8 steps exhaust it
    values = torch.cat([matrix.diagonal() for matrix in matrices])
    torch.testing.assert_close(found.values, broadened(values, found), atol=1e-9, rtol=0)
    assert found.errors.max() < 1e-9
    assert found.mean == pytest.approx(float(values.mean()), abs=1e-12)


def test_a_constant_diagonal(dense: Any) -> None:
    for value in (0.0, -3.0):
        found = estimate_density(dense(value * torch.eye(20)), RNG, probes=2, steps=5)
        assert found.mean == pytest.approx(value, abs=1e-12)
        assert float(found.x[found.values.argmax()]) == pytest.approx(value, abs=1e-6)
        assert float(torch.trapezoid(found.values, found.x)) == pytest.approx(1, abs=1e-8)


def test_again_gives_the_same(dense: Any, symmetric: Callable[..., Tensor], spectra: dict[str, Tensor]) -> None:
    matrix = symmetric(spectra["pairs"])
    first, again, other = (estimate_density(dense(matrix), Draws(seed, "d"), probes=2, steps=9) for seed in (0, 0, 1))
    assert torch.equal(first.values, again.values)
    assert first.mean != other.mean


def test_refusals(dense: Any) -> None:
    operator = dense(torch.eye(4))
    for settings in ({"probes": 1}, {"steps": 1}, {"width": 0.0}):
        with pytest.raises(InputError, match=f"expected {next(iter(settings))}"):
            estimate_density(operator, RNG, **settings)
    with pytest.raises(InputError, match="symmetric operator for a density, got the matrix"):
        estimate_density(dense(torch.eye(4), symmetric=False), RNG)
    assert operator.products == 0
