"""Numbers that no interval of a solver covers: noise of draws, sizes that are off, skewed samples, units of inputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy import stats
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.results.artifacts import Artifact, Scatter, Spectrum
from snnrobust.results.records import Record
from snnrobust.wrapping.model import SpikingModel
from snnrobust_landscapes.loss.landscape import RADIUS_UNITS, Landscape
from snnrobust_landscapes.measurements.curvature_measurement import mean_interval
from snnrobust_landscapes.measurements.density import Density
from snnrobust_landscapes.measurements.eigenvalues import Eigenvalues
from snnrobust_landscapes.measurements.section_points import UNITS
from snnrobust_landscapes.measurements.trace import Trace
from snnrobust_landscapes.operators.hessian import Formal
from snnrobust_landscapes.operators.operator import Operator
from snnrobust_landscapes.validity.evidence import CurvatureWarning

Model = Callable[[], SpikingModel]
Measure = Callable[..., list[Record | Artifact]]
Told = Callable[[Any, SpikingModel], list[str]]

FEATURES, WEIGHTS = 5, 57
FEWER = "expected at least as many draws as rows"
FEW: dict[str, Any] = {"directions": 8, "draws": 2, "chunk": 24}
MANY: dict[str, Any] = {"directions": 16, "draws": 4}

pytestmark = pytest.mark.usefixtures("short_and_quiet")


def records(found: list[Record | Artifact], metric: str) -> list[Record]:
    return [each for each in found if isinstance(each, Record) and each.quantity == metric]


@pytest.fixture
def told(measured: Measure) -> Told:
    """What is warned of where a model is measured."""

    def listen(plugin: Any, model: SpikingModel) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            measured(plugin, model)
        return [str(each.message) for each in caught if issubclass(each.category, CurvatureWarning)]

    return listen


# ---- noise of draws --------------------------------------------------------------------------------------------------


def smoothed(draws: int) -> dict[str, Any]:
    return {"name": "smoothed", "sigma": 0.1, "draws": draws}


def test_eigenvalues_of_too_few_draws_have_no_interval_and_are_called_noise(spiking: Model, measured: Measure) -> None:
    found = records(measured(Eigenvalues(smoothed(WEIGHTS - 1), k=3, **FEW), spiking()), "eigenvalue")
    assert len(found) == 3
    assert all(np.isfinite(each.value) and np.isnan([each.low, each.high]).all() for each in found)
    assert {each.variant for each in found} == {"eigenvalues noise of 56 draws in 57 weights"}


def test_it_is_warned_of_once(spiking: Model, told: Told) -> None:
    plugin = Eigenvalues(smoothed(12), k=2, per_layer=True, **FEW)
    assert sum(FEWER in each and "eigenvalues noise of 12 draws" in each for each in told(plugin, spiking())) == 1
    assert not any(FEWER in each for each in told(Eigenvalues(smoothed(WEIGHTS), k=2, **FEW), spiking()))


def test_in_inputs_the_rows_are_the_values_of_one(spiking: Model, measured: Measure) -> None:
    plugin = Eigenvalues(smoothed(FEATURES - 1), k=2, space="inputs", **FEW)
    found = measured(plugin, spiking())
    both = records(found, "eigenvalue") + records(found, "eigenvalue_max")
    assert len(both) == 4
    assert all(np.isnan([each.low, each.high]).all() for each in both)
    assert both[0].threat.endswith("eigenvalues noise of 4 draws in 5 values of an input, inputs")


def test_with_draws_enough_the_interval_is_that_of_the_draws(spiking: Model, measured: Measure) -> None:
    """At twice as many draws as weights the largest eigenvalue has 2.5 times the size that many draws find."""
    few, many = (
        records(measured(Eigenvalues(smoothed(draws), k=1, **FEW), spiking()), "eigenvalue")[0]
        for draws in (2 * WEIGHTS, 40 * WEIGHTS)
    )
    assert abs(few.value) > 2 * abs(many.value)
    assert abs(few.value) - (few.high - few.low) / 2 < abs(many.value)  # two of about one size, one below 0
    assert not few.draw_noise
    assert 0.03 < (many.high - many.low) / 2 / abs(many.value) < 0.3


def test_the_density_of_too_few_draws_says_so_and_its_trace_is_that_of_the_draws(
    spiking: Model, measured: Measure, told: Told
) -> None:
    plugin, model = Density(smoothed(40), probes=4, steps=10, **FEW), spiking()
    found = measured(plugin, model)
    (drawn,) = (each for each in found if isinstance(each, Spectrum))
    assert "eigenvalues noise of 40 draws in 57 weights" in drawn.axis
    assert "eigenvalues noise of 40 draws in 57 weights" in drawn.caption
    (trace,) = records(found, "trace")
    assert trace.draw_noise
    (alone,) = records(measured(Trace(smoothed(40), **FEW), model), "trace")
    assert (trace.value, trace.low, trace.high) == (alone.value, alone.low, alone.high)
    assert not alone.draw_noise
    assert sum(FEWER in each for each in told(plugin, model)) == 1


# ---- sizes that are off ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scaled:
    """The matrix of double backward, times a factor."""

    factor: float
    name: str = "scaled Hessian"

    def on(self, landscape: Landscape, memory: float, rng: Draws) -> Operator:
        return _Times(Formal().on(landscape, memory, rng), self)


class _Times:
    symmetric = True

    def __init__(self, operator: Operator, kind: Scaled) -> None:
        self.landscape, self.name, self.products = operator.landscape, kind.name, 0
        self._operator, self._factor = operator, kind.factor

    def apply(self, vectors: Tensor) -> Tensor:
        self.products += len(vectors)
        return self._factor * self._operator.apply(vectors)

    apply_transposed = apply


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (1.0, None),
        (1 / 3, None),
        (10.0, "of the size of the measured loss.* a slope of 0.1.*only the order of directions"),
        (0.1, "of the size of the measured loss.* a slope of (10|9.).*only the order of directions"),
        (1000.0, "of the sign and size of the measured loss.* a slope of 0.00.*gauss-newton"),
        (-1.0, "predicts the measured loss.* a rank correlation of -"),
    ],
)
def test_an_operator_of_the_wrong_size_is_warned_of(
    smooth: Model, measured: Measure, told: Told, factor: float, expected: str | None
) -> None:
    found = told(Eigenvalues(Scaled(factor), k=4, **MANY), smooth())
    if expected is None:
        assert found == []
    else:
        with pytest.warns(CurvatureWarning, match=expected):
            measured(Eigenvalues(Scaled(factor), k=4, **MANY), smooth())
        assert len(found) == 2  # along random and leading directions


def test_the_remedy_for_a_gauss_newton_matrix_is_another(smooth: Model, told: Told) -> None:
    found = told(Eigenvalues(Scaled(-1.0, "Gauss-Newton matrix"), k=4, **MANY), smooth())
    assert found
    for each in found:
        assert "sharpness" in each
        assert "gauss-newton" not in each


# ---- samples and units -----------------------------------------------------------------------------------------------


def test_an_interval_over_skewed_samples_stays_among_them() -> None:
    values = np.concatenate([[100.0, 40.0], np.full(18, 0.01)])
    mean, low, high = mean_interval(values, Draws(0, "a"))
    half = stats.t.ppf(0.975, 19) * values.std(ddof=1) / np.sqrt(20)
    assert mean - half < 0 < low < mean < high
    assert mean_interval(values, Draws(0, "a")) == (mean, low, high)
    assert mean_interval(np.sqrt(np.arange(20)), Draws(0, "a")) != mean_interval(np.sqrt(np.arange(20)), Draws(1, "a"))


def test_the_interval_over_samples_covers_the_mean() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for number in range(100):
        mean, low, high = mean_interval(generator.normal(1.0, 2.0, 40), Draws(number, "a"))
        covered += low <= 1.0 <= high
        assert low <= mean <= high
    assert 86 <= covered <= 99  # 93 to 95 of 100, and two and a half standard deviations


@pytest.mark.parametrize("value", [0.0, 1.0, -2.5])
def test_values_that_are_all_equal_have_no_spread(value: float) -> None:
    assert mean_interval(np.full(8, value), Draws(0, "a")) == (value, value, value)


def test_a_positive_semidefinite_matrix_has_no_negative_interval(spiking: Model, measured: Measure) -> None:
    for plugin in (Eigenvalues(k=5, space="inputs", **FEW), Trace("fisher", space="inputs", **FEW)):
        found = measured(plugin, spiking())
        for each in records(found, "eigenvalue") + records(found, "trace"):
            assert -1e-9 <= each.low <= each.value <= each.high


@pytest.mark.parametrize(
    ("space", "unit"), [("weights", "filter-relative radius"), ("inputs", "input-relative radius")]
)
def test_radii_are_named_after_what_moves(spiking: Model, measured: Measure, space: Any, unit: str) -> None:
    found = measured(Trace(space=space, **FEW), spiking())
    for metric in ("validity", "validity_slope", "validity_ceiling", "plateau_width"):
        assert {each.unit for each in records(found, metric)} <= {unit}
    assert records(found, "validity")
    (drawn,) = (each for each in found if isinstance(each, Scatter))
    assert unit in drawn.caption
    assert RADIUS_UNITS[space] == UNITS[space] == unit
