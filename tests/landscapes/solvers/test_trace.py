"""The trace against the diagonal: error, interval, bias, and products against Hutchinson's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.errors import InputError
from snnrobust_landscapes.solvers.trace import TraceEstimate, estimate_trace

RNG = Draws(0, "trace")
SEEDS = 100


def over_seeds(operator: Any, **settings: Any) -> list[TraceEstimate]:
    return [estimate_trace(operator, Draws(seed, "trace"), **settings) for seed in range(SEEDS)]


@pytest.fixture
def smaller(spectra: dict[str, Tensor]) -> dict[str, Tensor]:
    """60 eigenvalues, distributed as those of nets."""
    return {name: values[:60] for name, values in spectra.items()}


@pytest.mark.parametrize("name", ["gauss-newton", "formal", "negative"])
@pytest.mark.parametrize("settings", [{"relative": 1e-6, "most": 30}, {"relative": 0.05}])
def test_unbiased_and_covered_by_its_interval(
    name: str, settings: dict[str, Any], dense: Any, symmetric: Callable[..., Tensor], smaller: dict[str, Tensor]
) -> None:
    values = -smaller["gauss-newton"] if name == "negative" else smaller[name]
    found = over_seeds(dense(symmetric(values)), **settings)
    error = np.array([float(each.values - values.sum()) for each in found])
    claimed = np.sqrt(np.mean([float(each.errors) ** 2 for each in found]))
    assert abs(error.mean()) < 3.5 * error.std() / SEEDS**0.5
    assert 0.8 < error.std() / claimed < 1.25
    covered = np.mean([float(each.lows) <= float(values.sum()) <= float(each.highs) for each in found])
    assert 0.9 <= covered < 1


def test_reaches_the_error_that_is_asked_for_or_says_so(
    dense: Any, symmetric: Callable[..., Tensor], spectra: dict[str, Tensor]
) -> None:
    matrix = symmetric(spectra["gauss-newton"])
    true = float(spectra["gauss-newton"].sum())
    for relative in (0.1, 0.03, 0.01):
        found = estimate_trace(dense(matrix), RNG, relative=relative)
        assert found.converged
        assert float(found.errors) <= relative * abs(float(found.values))
        assert abs(float(found.values) - true) < 4 * relative * true
    spent = estimate_trace(dense(matrix), RNG, relative=1e-5, most=40)
    assert not spent.converged
    assert spent.products == 40


@pytest.mark.parametrize("name", ["gauss-newton", "formal", "clustered", "pairs"])
def test_a_fifth_of_the_products_of_hutchinson(
    name: str, dense: Any, symmetric: Callable[..., Tensor], spectra: dict[str, Tensor]
) -> None:
    """Hutchinson's variance with random signs is 2 (|M|_F^2 - sum of M_ii^2) over the probes."""
    matrix = symmetric(spectra[name])
    variance = 2 * float(matrix.square().sum() - matrix.diagonal().square().sum())
    for most in (40, 100):
        found = [estimate_trace(dense(matrix), Draws(seed, "t"), relative=1e-9, most=most) for seed in range(30)]
        error = np.mean([float(each.values - matrix.trace()) ** 2 for each in found])
        assert variance / error >= 5 * most


def test_low_rank_and_small_matrices_are_exact(dense: Any, symmetric: Callable[..., Tensor]) -> None:
    low_rank = symmetric([3.0, -1.0, 2.0, *[0.0] * 57])
    found = estimate_trace(dense(low_rank), RNG, relative=0.001)
    assert float(found.values) == pytest.approx(4.0, abs=1e-10)
    assert found.converged
    assert found.products < 30
    small = estimate_trace(dense(symmetric([3.0, -5.0, 1.0])), RNG, relative=0.001)
    assert float(small.values) == pytest.approx(-1.0, abs=1e-12)
    assert float(small.errors) == 0
    nothing = estimate_trace(dense(torch.zeros(40, 40)), RNG)
    assert (float(nothing.values), nothing.converged) == (0, True)


def test_a_matrix_that_is_not_symmetric(dense: Any) -> None:
    matrix = torch.randn(60, 60, generator=torch.Generator().manual_seed(0)).double() + 2 * torch.eye(60)
    found = over_seeds(dense(matrix, symmetric=False), relative=1e-6, most=30)
    error = np.array([float(each.values - matrix.trace()) for each in found])
    assert abs(error.mean()) < 3.5 * error.std() / SEEDS**0.5
    assert 0.8 < error.std() / np.mean([float(each.errors) for each in found]) < 1.25


def test_inputs_have_a_trace_each(dense: Any, symmetric: Callable[..., Tensor], smaller: dict[str, Tensor]) -> None:
    every = [*smaller.values(), torch.zeros(60)]
    operator = dense(torch.stack([symmetric(values, seed) for seed, values in enumerate(every)]))
    found = estimate_trace(operator, RNG, relative=0.01)
    assert found.values.shape == found.errors.shape == found.lows.shape == (6,)
    true = torch.stack([values.double().sum() for values in every])
    assert found.converged
    assert found.products == operator.products
    assert ((found.values - true).abs() <= 5 * found.errors + 1e-12).all()
    assert found.errors.square().mean().sqrt() <= 0.01 * true.square().mean().sqrt() * 1.05


def test_again_gives_the_same(dense: Any, symmetric: Callable[..., Tensor], smaller: dict[str, Tensor]) -> None:
    matrix = symmetric(smaller["formal"])
    first, again, other = (estimate_trace(dense(matrix), Draws(seed, "t")) for seed in (0, 0, 1))
    assert first.values == again.values
    assert first.values != other.values


def test_refusals(dense: Any) -> None:
    for relative in (0.0, 1.0, float("nan")):
        with pytest.raises(InputError, match="relative standard error"):
            estimate_trace(dense(torch.eye(3)), RNG, relative=relative)
    with pytest.raises(InputError, match="at least 16 products for a trace, got 15"):
        estimate_trace(dense(torch.eye(3)), RNG, most=15)
