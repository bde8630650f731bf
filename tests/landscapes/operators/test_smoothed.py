"""The smoothed Hessian: the explicit matrix at the same draws, known curvature within its standard error."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from snnrobust.common.random import Draws
from snnrobust.errors import InputError
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.wrapping.model import SpikingModel
from snnrobust_landscapes.loss.inputs import InputLandscape
from snnrobust_landscapes.loss.landscape import Landscape, LossValues
from snnrobust_landscapes.loss.weights import WeightLandscape
from snnrobust_landscapes.operators.names import operator_spec
from snnrobust_landscapes.operators.smoothed import Smoothed, SmoothedHessian

RNG = Draws(0, "smoothed")
DATA = tiny_data(count=8)


def double() -> SpikingModel:
    model = tiny_model()
    model.net.double()
    return model


def known(function: Callable[[Tensor], Tensor], size: int) -> Landscape:
    """A loss in closed form of one sample."""

    def loss(offset: Tensor) -> LossValues:
        return LossValues(function(offset).reshape(1), torch.ones(1))

    stub = SimpleNamespace(space="weights", blocks=1, size=size, loss=loss, model=SimpleNamespace(device="cpu"))
    return cast(Landscape, stub)


def quadratic(matrix: Tensor) -> Landscape:
    return known(lambda x: x @ matrix @ x / 2, len(matrix))


def symmetric(size: int, seed: int = 0) -> Tensor:
    a = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return a + a.T


def explicit(loss: Callable[[Tensor], float], z: Tensor, sigma: float) -> np.ndarray:
    """Sample covariance of D and z z^T over 2 sigma^2, entry by entry by the definition."""
    here = loss(torch.zeros_like(z[0]))
    d = np.array([loss(sigma * each) + loss(-sigma * each) - 2 * here for each in z])
    outer = np.array([np.outer(each, each) - np.eye(len(each)) for each in z.numpy()])
    covariance = ((d - d.mean())[:, None, None] * (outer - outer.mean(0))).sum(0) / (len(z) - 1)
    return covariance / (2 * sigma**2)


def test_the_explicit_matrix_at_the_same_draws_in_weights() -> None:
    model, draws = double(), 12

    def loss(offset: Tensor) -> float:
        moved = tiny_model()
        moved.net.double()
        with torch.no_grad():
            pieces = offset.split([p.numel() for p in moved.net.parameters()])
            for p, piece in zip(moved.net.parameters(), pieces, strict=True):
                p += piece.reshape(p.shape)
            return float(functional.cross_entropy(3 * moved.logits(DATA.x), DATA.y))

    with model.session():
        weights = WeightLandscape(model, DATA, chunk=3, logit_scale=3.0)
        found = Smoothed(sigma=0.2, draws=draws).on(weights, 0.1, RNG).apply(torch.eye(weights.size).double())
    expected = explicit(loss, RNG.normal(torch.arange(draws), (weights.size,)).double(), 0.2)
    assert np.abs(expected).max() > 1e-2  # control: spikes did change
    assert np.abs(found.numpy() - expected).max() < 1e-8
    assert np.abs(found.numpy() - found.numpy().T).max() < 1e-12


def test_the_explicit_matrix_of_each_sample_in_inputs() -> None:
    model, draws = double(), 12
    with model.session():
        inputs = InputLandscape(model, DATA, chunk=3)
        operator = Smoothed(sigma=0.3, draws=draws).on(inputs, 0.1, RNG)
        rows = [operator.apply(torch.eye(16).double()[[i] * len(DATA)]) for i in range(16)]
        found = torch.stack(rows, dim=1).numpy()  # [N, D, D]
        some = DATA.select(torch.tensor([5, 2]))
        alone = Smoothed(sigma=0.3, draws=draws).on(InputLandscape(model, some), 0.1, RNG)
        assert torch.allclose(alone.differences, operator.differences[[5, 2]], atol=1e-12)  # independent of others
        assert operator.products == 16
    for n in (2, 5):
        x = DATA.x[n].double()

        def loss(offset: Tensor, x: Tensor = x, n: int = n) -> float:
            logits = model.logits((x + offset.reshape(x.shape))[None])
            return float(functional.cross_entropy(logits, DATA.y[n : n + 1]).detach())

        z = torch.stack([RNG.normal(DATA.index[n : n + 1], (16,), draw=i)[0] for i in range(draws)]).double()
        expected = explicit(loss, z, 0.3)
        assert np.abs(found[n] - expected).max() < 1e-8
    assert np.abs(found).max() > 1e-2


def test_neither_memory_nor_chunks_nor_a_second_time_change_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    model = double()
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    with model.session():
        v = torch.stack([WeightLandscape(model, DATA).direction(RNG.sub(i)) for i in range(3)])
        kept = Smoothed(draws=30).on(WeightLandscape(model, DATA), 0.5, RNG)
        # Draws in blocks, stored or drawn again at each product.
        monkeypatch.setattr("snnrobust_landscapes.operators.smoothed.BLOCK", 8 * 7 * v.shape[1])
        blocks = Smoothed(draws=30).on(WeightLandscape(model, DATA), 0.5, RNG)
        again = Smoothed(draws=30).on(WeightLandscape(model, DATA, chunk=3), 0.0, RNG)
        other = Smoothed(draws=30).on(WeightLandscape(model, DATA), 0.5, RNG.sub("other"))
        product = kept.apply(v)
        assert torch.equal(product, kept.apply(v))
        assert torch.equal(blocks.apply(v), again.apply(v))
        assert torch.allclose(product, again.apply(v), rtol=1e-10, atol=1e-10)
        assert torch.allclose(kept.standard_error(v), again.standard_error(v))
        assert not torch.allclose(product, other.apply(v))  # control
        assert product.abs().max() > 1e-3
        assert kept.products == 6
    after = model.net.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_quadratic_is_met_as_often_as_the_standard_error_says() -> None:
    matrix = symmetric(5)
    v = functional.normalize(symmetric(5, seed=1), dim=1)
    true, hits, errors = (v @ matrix * v).sum(1), [], []
    for seed in range(100):
        operator = Smoothed(sigma=0.1, draws=300).on(quadratic(matrix), 0.1, Draws(seed, "z"))
        errors.append((operator.apply(v) * v).sum(1) - true)
        hits.append((errors[-1].abs() < 1.96 * operator.standard_error(v)).double().mean())
    assert 0.90 < float(torch.stack(hits).mean()) < 0.98
    error = torch.stack(errors)  # [seeds, vectors]
    assert (error.mean(0).abs() < 3 * error.std(0) / 10).all()  # unbiased


def test_many_draws_give_the_hessian_of_a_smooth_loss() -> None:
    curved = known(lambda x: torch.cosh(x).prod() + x[0] * x[1], 4)
    truth = torch.eye(4).double()
    truth[0, 1] = truth[1, 0] = 1.0
    found = Smoothed(sigma=0.01, draws=5000).on(curved, 0.1, RNG).apply(torch.eye(4).double())
    assert (found - truth).abs().max() < 0.25
    wide = Smoothed(sigma=1.0, draws=5000).on(curved, 0.1, RNG).apply(torch.eye(4).double())
    assert (wide.diagonal() > 3).all()  # E prod cosh x = e^2: at this scale the matrix differs


def test_the_trace_is_that_of_all_scales_below() -> None:
    matrix = symmetric(6)
    value, error = Smoothed(sigma=0.1, draws=2000).on(quadratic(matrix), 0.1, RNG).trace()
    assert abs(float(value - matrix.trace())) < 3 * float(error)
    assert 0 < float(error) < 1
    # x^4 at 0: tr H_s = 12 P s^2, of which 2 / sigma^2 int_0^sigma s tr H_s ds = 6 P sigma^2.
    value, error = Smoothed(sigma=0.5, draws=3000).on(known(lambda x: (x**4).sum(), 5), 0.1, RNG).trace()
    assert abs(float(value) - 6 * 5 * 0.25) < 3 * float(error)
    assert abs(float(value) - 12 * 5 * 0.25) > 10 * float(error)


def test_few_draws_in_many_coordinates_have_eigenvalues_of_their_own() -> None:
    size, draws, sigma = 4000, 10, 0.1
    matrix = torch.zeros(size, dtype=torch.float64)
    matrix[0] = 1.0  # the only curvature
    flat = known(lambda x: (matrix * x * x).sum() / 2, size)
    operator = Smoothed(sigma=sigma, draws=draws).on(flat, 0.1, RNG)
    z = functional.normalize(RNG.normal(torch.arange(draws), (size,)).double(), dim=1)
    noise = operator.differences[0] - operator.differences.mean()
    predicted = noise * size / (2 * sigma**2 * (draws - 1))
    found = (operator.apply(z) * z).sum(1)
    assert torch.allclose(found, predicted, rtol=0.1, atol=0.05 * float(predicted.abs().max()))
    assert found.abs().max() > 100  # where the Hessian has a single 1


@pytest.mark.parametrize("settings", [{"sigma": 0.0}, {"sigma": math.nan}, {"sigma": True}, {"sigma": "1"}])
def test_a_scale_that_is_none_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"expected .*sigma"):
        Smoothed(**settings)


def test_settings_and_name() -> None:
    for draws in (1, 2.5, True):
        with pytest.raises(InputError, match="whole number >= 2"):
            Smoothed(draws=cast(int, draws))
    assert operator_spec({"name": "smoothed", "sigma": 0.1}) == Smoothed(sigma=0.1)
    assert "0.1" in Smoothed(sigma=0.1).name
    assert isinstance(Smoothed(draws=2).on(quadratic(torch.eye(2).double()), 0.1, RNG), SmoothedHessian)
