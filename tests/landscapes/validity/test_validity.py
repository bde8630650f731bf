"""Predicted against measured curvature: a smooth net is predicted, noise is not, and the ceiling measures noise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.errors import InputError
from snnrobust.results.checkpoint import MeasurementCheckpoint
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.wrap import wrap
from snnrobust_landscapes.loss.inputs import InputLandscape
from snnrobust_landscapes.loss.landscape import Landscape, LossValues
from snnrobust_landscapes.loss.weights import WeightLandscape
from snnrobust_landscapes.operators.hessian import Formal
from snnrobust_landscapes.operators.operator import Operator
from snnrobust_landscapes.validity.agreement import (
    RADII,
    Agreement,
    in_leading_directions,
    in_random_directions,
    measured_curvatures,
    noise_ceiling,
    predicted_curvatures,
    random_directions,
    scaled_to_relative_norm_1,
)

RNG = Draws(0, "validity")


def smooth() -> SpikingModel:
    """A small net without spikes, whose Hessian is the formal operator."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    return wrap(net, layout="N")


def samples(count: int = 24) -> Dataset:
    generator = torch.Generator().manual_seed(1)
    return Dataset.of(torch.rand(count, 5, generator=generator), torch.randint(3, (count,), generator=generator))


class Fixed:
    """An operator with an explicit matrix."""

    name = "fixed matrix"
    symmetric = True
    products = 0

    def __init__(self, landscape: Landscape, matrix: Tensor) -> None:
        self.landscape = landscape
        self._matrix = matrix

    def apply(self, vectors: Tensor) -> Tensor:
        return vectors @ self._matrix

    def apply_transposed(self, vectors: Tensor) -> Tensor:
        return self.apply(vectors)


@contextmanager
def hessian(space: str = "weights") -> Iterator[Operator]:
    model = smooth()
    with model.session():
        landscape: Landscape = (
            WeightLandscape(model, samples()) if space == "weights" else InputLandscape(model, samples())
        )
        yield Formal().on(landscape, 1.0, RNG)


@pytest.mark.parametrize("space", ["weights", "inputs"])
def test_the_hessian_of_a_smooth_net_predicts_its_curvature(space: str) -> None:
    with hessian(space) as operator:
        small, *_, large = in_random_directions(operator, RNG, directions=16, draws=4)
    assert (small.where, small.radius, large.radius) == ("random", RADII[0], RADII[-1])
    assert small.correlation > 0.98
    assert small.slope == pytest.approx(1, abs=0.05)
    # In weights other samples have other curvature; this operator is that of the same samples.
    assert (0.5 if space == "weights" else 0.98) < small.ceiling <= 1
    assert small.by_point.mean(axis=1) == pytest.approx(small.measured)
    assert noise_ceiling(small.by_point[:, :, None], RNG) > 0.98  # but does not depend on the points


def test_along_leading_directions_too() -> None:
    with hessian() as operator:
        size = operator.landscape.size
        matrix = operator.apply(torch.eye(size, dtype=torch.float64))
        vectors = torch.linalg.eigh(matrix)[1].T[-8:]
        found = in_leading_directions(operator, vectors, RNG, draws=4)
        ahead = [scaled_to_relative_norm_1(operator.landscape, vector) for vector in vectors]
    assert [each.radius for each in found] == list(RADII)
    assert found[0].correlation > 0.9
    assert found[0].slope == pytest.approx(1, abs=0.1)
    assert found[0].predicted == pytest.approx([float(d @ matrix @ d) for d in ahead])


def test_an_unrelated_matrix_does_not_predict() -> None:
    with hessian() as operator:
        size = operator.landscape.size
        matrix = torch.randn(size, size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        other = Fixed(operator.landscape, matrix + matrix.T)
        found = in_random_directions(other, RNG, directions=32, draws=2)
    assert all(abs(each.correlation) < 0.5 for each in found)
    # The measurement itself is not noisy.
    assert all(noise_ceiling(each.by_point[:, :, None], RNG) > 0.9 for each in found)


def test_random_directions_are_measured_once_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = WeightLandscape.loss
    monkeypatch.setattr(WeightLandscape, "loss", lambda self, offset: calls.append(1) or real(self, offset))
    with hessian() as operator:
        first = in_random_directions(operator, RNG, directions=4, draws=2)
        before = len(calls)
        other = Fixed(operator.landscape, torch.eye(operator.landscape.size, dtype=torch.float64))
        second = in_random_directions(other, RNG, directions=4, draws=2)
        assert len(calls) == before == 3 * 2 * (1 + 2 * 4)
        third = in_random_directions(operator, RNG.sub("other"), directions=4, draws=2)
    assert np.array_equal(first[0].measured, second[0].measured)
    assert not np.array_equal(first[0].measured, third[0].measured)


def test_what_was_kept_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with hessian() as operator:
        landscape = operator.landscape
        chosen = random_directions(landscape, RNG, 3)
        whole = measured_curvatures(landscape, chosen, 0.1, RNG, 3)
        checkpoint = MeasurementCheckpoint()
        broken = whole.copy()
        broken[:, 2] = np.nan  # as after an interruption in the third of three points
        checkpoint.put("random/0.1, 24 at a time", broken)
        calls = []
        real = landscape.loss

        def counted(offset: Tensor) -> LossValues:
            calls.append(1)
            return real(offset)

        monkeypatch.setattr(landscape, "loss", counted)
        again = measured_curvatures(landscape, chosen, 0.1, RNG, 3, checkpoint, "random/0.1")
    assert np.array_equal(again, whole)
    assert len(calls) == 1 + 2 * 3


def test_without_a_session_nothing_can_be_kept() -> None:
    model = smooth()
    operator = Formal().on(WeightLandscape(model, samples()), 1.0, RNG)
    with pytest.raises(InputError, match="session"):
        in_random_directions(operator, RNG, directions=4, draws=2)


def test_directions_of_another_length_are_made_equal() -> None:
    with hessian() as operator:
        landscape = operator.landscape
        one = random_directions(landscape, RNG, 1)[0]
        assert torch.allclose(scaled_to_relative_norm_1(landscape, 7 * one), one)
        assert not scaled_to_relative_norm_1(landscape, torch.zeros_like(one)).any()
        assert float(
            landscape.relative_norm(scaled_to_relative_norm_1(landscape, torch.ones_like(one)))
        ) == pytest.approx(1)
    with hessian("inputs") as operator:
        landscape = operator.landscape
        many = torch.rand(landscape.blocks, landscape.size, dtype=torch.float64)
        assert torch.allclose(
            landscape.relative_norm(scaled_to_relative_norm_1(landscape, many)), torch.ones(landscape.blocks).double()
        )


def test_predictions_in_inputs_are_means_over_samples() -> None:
    with hessian("inputs") as operator:
        chosen = random_directions(operator.landscape, RNG, 2)
        found = predicted_curvatures(operator, chosen)
        expected = [float((d * operator.apply(d)).sum() / 24) for d in chosen]
    assert found == pytest.approx(expected)


def test_the_ceiling_of_signal_and_noise() -> None:
    """values = signal + noise of each point + noise of each sample + of both: its square is the signal's share."""
    rng = np.random.default_rng(0)
    n, draws, count = 400, 6, 60
    signal = rng.normal(size=(n, 1, 1))
    noise = (
        1.5 * rng.normal(size=(n, draws, 1))
        + 4 * rng.normal(size=(n, 1, count))
        + 8 * rng.normal(size=(n, draws, count))
    )
    share = 1 / (1 + 1.5**2 / draws + 4**2 / count + 8**2 / (draws * count))
    assert noise_ceiling(signal + noise, RNG) == pytest.approx(share**0.5, abs=0.05)
    assert noise_ceiling(noise, RNG) < 0.35
    assert noise_ceiling(signal + 0 * noise, RNG) == pytest.approx(1)
    assert noise_ceiling(signal + noise, RNG) == noise_ceiling(signal + noise, RNG)


@pytest.mark.parametrize("shape", [(2, 4, 8), (8, 1, 8)])
def test_too_little_for_a_ceiling(shape: tuple[int, ...]) -> None:
    assert np.isnan(noise_ceiling(np.random.default_rng(0).normal(size=shape), RNG))
    assert np.isnan(noise_ceiling(np.ones((8, 4, 8)), RNG))


def test_correlation_and_slope_and_their_records() -> None:
    found = Agreement(
        "random", 0.03, np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.0, 5.0, 4.0, 9.0]), np.zeros((4, 2)), 0.9
    )
    assert found.correlation == pytest.approx(0.8)
    assert found.slope == pytest.approx((3 + 10 + 12 + 36) / 30)
    records = {each.metric: each for each in found.records("a unit")}
    assert records.keys() == {"validity:random", "validity_slope:random", "validity_ceiling:random"}
    assert {(each.strength, each.unit, each.directions, each.count) for each in records.values()} == {
        (0.03, "a unit", "random", 4)
    }
    flat = Agreement("random", 0.03, np.zeros(3), np.array([1.0, 2.0, 3.0]), np.zeros((3, 2)), 0.9)
    assert np.isnan(flat.correlation)
    assert np.isnan(flat.slope)
