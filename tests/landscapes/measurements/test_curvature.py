"""Eigenvalues, traces and densities of real nets against dense float64 matrices, with the evidence for them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.results.artifacts import Artifact, Scatter, Spectrum
from snnrobust.results.records import Record
from snnrobust.wrapping.model import SpikingModel
from snnrobust_landscapes.loss.landscape import Landscape
from snnrobust_landscapes.loss.weights import WeightLandscape
from snnrobust_landscapes.measurements.curvature_measurement import CurvatureMeasurement
from snnrobust_landscapes.measurements.density import Density
from snnrobust_landscapes.measurements.eigenvalues import Eigenvalues
from snnrobust_landscapes.measurements.trace import Trace
from snnrobust_landscapes.operators.hessian import Formal
from snnrobust_landscapes.operators.operator import Operator
from snnrobust_landscapes.validity.evidence import LEADING, CurvatureWarning

Model = Callable[[], SpikingModel]
Data = Callable[..., EvaluationData]
Measure = Callable[..., list[Record | Artifact]]
ByMetric = Callable[..., dict[str, Record]]

N, FEATURES = 24, 5
OWN = {"name": "gauss-newton", "surrogate": "own"}
FEW: dict[str, Any] = {"directions": 8, "draws": 2, "chunk": 10}

pytestmark = pytest.mark.usefixtures("short_and_quiet")


def losses(model: SpikingModel, train: Dataset) -> Tensor:
    """Mean cross entropy over the training samples, with a graph to the parameters."""
    return functional.cross_entropy(model.logits(train.x, keys=train.index), train.y)


def twice(model: SpikingModel, train: Dataset) -> np.ndarray:
    """The matrix of double backward, row by row."""
    parameters = list(model.net.parameters())
    loss = losses(model, train)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, create_graph=True)])
    rows = [torch.autograd.grad(entry, parameters, retain_graph=True, allow_unused=True) for entry in gradient]
    filled = [[torch.zeros_like(p) if g is None else g for g, p in zip(row, parameters, strict=True)] for row in rows]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in filled]).numpy()


def gauss_newton(model: SpikingModel, train: Dataset) -> np.ndarray:
    """1/N sum J^T (diag p - p p^T) J, sample by sample and class by class."""
    parameters = list(model.net.parameters())
    total = np.zeros((size := sum(p.numel() for p in parameters), size))
    for n in range(N):
        logits = model.logits(train.x[n : n + 1], keys=train.index[n : n + 1])[0]
        rows = [torch.autograd.grad(each, parameters, retain_graph=True) for each in logits]
        jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows]).numpy()  # [K, P]
        p = logits.softmax(0).detach().numpy()
        total += jacobian.T @ (np.diag(p) - np.outer(p, p)) @ jacobian / N
    return total


def leading(matrix: np.ndarray, k: int) -> np.ndarray:
    values = np.linalg.eigvalsh(matrix)
    return values[np.abs(values).argsort()[::-1][:k]]


@pytest.mark.parametrize(
    ("operator", "dense", "exact"),
    [("formal", twice, False), (OWN, gauss_newton, False), (OWN, gauss_newton, True)],
)
def test_numbers_of_a_dense_matrix(
    spiking: Model,
    data: Data,
    measured: Measure,
    by_metric: ByMetric,
    operator: Any,
    dense: Callable[[SpikingModel, Dataset], np.ndarray],
    exact: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not exact:
        monkeypatch.setattr("snnrobust_landscapes.measurements.eigenvalues.FEW_ROWS", 10)
    model = spiking()
    matrix = dense(model, data().training("test"))
    assert np.allclose(matrix, matrix.T)
    found = by_metric(measured(Eigenvalues(operator, k=4, tolerance=1e-6, **FEW), model))
    for rank, value in enumerate(leading(matrix, 4), start=1):
        record = found[f"eigenvalue:{rank}"]
        assert record.value == pytest.approx(value, rel=1e-5)
        assert record.low <= record.value <= record.high
        assert (record.high == record.low) == exact
        assert ("exact spectrum" in record.threat) == exact
        assert record.count == N
    assert found["asymmetry"].value < 1e-10
    assert not any(metric.startswith("imaginary") for metric in found)
    trace = by_metric(measured(Trace(operator, relative=1e-9, products=400, **FEW), model))["trace"]
    assert trace.value == pytest.approx(matrix.trace(), rel=1e-6)


def test_the_exact_spectrum_is_that_of_the_operator_beside_it(
    spiking: Model, measured: Measure, by_metric: ByMetric, monkeypatch: pytest.MonkeyPatch
) -> None:
    for space in ("weights", "inputs"):
        plugin, model = Eigenvalues(k=3, space=space, tolerance=1e-8, **FEW), spiking()
        exact = by_metric(measured(plugin, model))
        with monkeypatch.context() as patch:
            patch.setattr("snnrobust_landscapes.measurements.eigenvalues.FEW_ROWS", 1)
            found = by_metric(measured(plugin, model))
        assert "exact spectrum" in exact["eigenvalue:1"].threat
        assert "exact spectrum" not in found["eigenvalue:1"].threat
        for metric in ("eigenvalue:1", "eigenvalue:2", "eigenvalue:3", "validity_slope:leading"):
            assert exact[metric].value == pytest.approx(found[metric].value, rel=1e-6)


def test_a_trace_that_stops_early_has_an_interval(
    spiking: Model, data: Data, measured: Measure, by_metric: ByMetric
) -> None:
    model = spiking()
    found = by_metric(measured(Trace("formal", relative=0.5, **FEW), model))["trace"]
    assert found.low < found.value < found.high
    assert found.low - 1 < np.trace(twice(model, data().training("test"))) < found.high + 1


def test_the_density_has_the_mass_and_the_mean_of_the_dense_spectrum(
    spiking: Model, data: Data, measured: Measure, by_metric: ByMetric
) -> None:
    model = spiking()
    exact = np.linalg.eigvalsh(matrix := twice(model, data().training("test")))
    found = measured(Density("formal", probes=20, steps=15, **FEW), model)
    (drawn,) = (each for each in found if isinstance(each, Spectrum))
    step = drawn.x[1] - drawn.x[0]
    assert drawn.density.sum() * step == pytest.approx(1, abs=1e-3)
    assert drawn.x[0] < exact[0] < exact[-1] < drawn.x[-1]
    middle = float((exact[-1] + np.sort(exact)[-2]) / 2)
    above = drawn.density[drawn.x > middle].sum() * step  # one of P
    assert above == pytest.approx(1 / len(exact), abs=0.5 / len(exact))
    trace = by_metric(found)["trace"]
    assert trace.low - 0.1 < matrix.trace() < trace.high + 0.1
    assert "formal surrogate Hessian" in drawn.axis


def test_layers_are_the_diagonal_blocks(spiking: Model, data: Data, measured: Measure, by_metric: ByMetric) -> None:
    model = spiking()
    matrix, first = gauss_newton(model, data().training("test")), 6 * FEATURES + 6
    found = measured(Eigenvalues(OWN, per_layer=True, k=30, **FEW), model)
    for layer, block in (("0", matrix[:first, :first]), ("2", matrix[first:, first:])):
        own = by_metric(found, where=layer)
        count = min(30, len(block))
        assert len([metric for metric in own if metric.startswith("eigenvalue:")]) == count
        values = [own[f"eigenvalue:{rank}"].value for rank in range(1, count + 1)]
        assert np.allclose(values, leading(block, count), atol=1e-10)
        assert {"asymmetry", "validity:random", "validity:leading"} <= own.keys()
    assert by_metric(found)["eigenvalue:1"].value == pytest.approx(leading(matrix, 1)[0])
    assert sum(isinstance(each, Scatter) for each in found) == 3


def test_inputs_have_a_matrix_each(spiking: Model, data: Data, measured: Measure, by_metric: ByMetric) -> None:
    model = spiking()
    train = data().training("test")
    values = []
    for n in range(N):

        def loss(x: Tensor, n: int = n) -> Tensor:
            logits = model.logits(x[None], keys=train.index[n : n + 1])
            return functional.cross_entropy(logits, train.y[n : n + 1])

        x = train.x[n].double().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(x), x, create_graph=True)
        block = torch.stack([torch.autograd.grad(entry, x, retain_graph=True)[0] for entry in gradient])
        values.append(leading(block.numpy(), 2))
    dense = np.array(values)  # [N, 2]
    found = by_metric(measured(Eigenvalues("formal", space="inputs", k=2, tolerance=1e-8, **FEW), model))
    for rank, each in enumerate(dense.T, start=1):
        mean, error = each.mean(), each.std() / np.sqrt(N)
        record = found[f"eigenvalue:{rank}"]
        assert record.value == pytest.approx(mean, abs=1e-6)
        assert mean - 4 * error < record.low < mean - error < mean + error < record.high < mean + 4 * error
        assert found[f"eigenvalue_max:{rank}"].value == pytest.approx(each[np.abs(each).argmax()], abs=1e-6)
        assert record.threat == "formal surrogate Hessian, inputs"
    assert "plateau_width" not in found
    trace = by_metric(measured(Trace("formal", space="inputs", **FEW), model))["trace"]
    assert trace.low < trace.value < trace.high


def test_what_is_not_symmetric_has_complex_eigenvalues_and_says_so(
    spiking: Model, measured: Measure, by_metric: ByMetric
) -> None:
    found = by_metric(measured(Eigenvalues("field", k=3, **FEW), spiking()))
    assert found["eigenvalue:1"].threat.endswith("field, not symmetric")
    assert {"imaginary:1", "imaginary:2", "imaginary:3"} <= found.keys()
    assert found["asymmetry"].value > 0.1
    assert np.isfinite(found["validity_slope:leading"].value)
    half = by_metric(measured(Eigenvalues({"name": "field", "part": "symmetric"}, k=3, **FEW), spiking()))
    assert half["asymmetry"].value < 1e-10
    assert "not symmetric" not in half["eigenvalue:1"].threat


def test_the_smoothed_trace_is_its_closed_form_with_the_error_of_its_draws(
    spiking: Model, data: Data, measured: Measure, by_metric: ByMetric
) -> None:
    kind = {"name": "smoothed", "sigma": 0.3, "draws": 40}
    plugin, model = Trace(kind, **FEW), spiking()
    found = by_metric(measured(plugin, model))["trace"]
    with model.session():
        landscape = WeightLandscape(model, data().training("test"), chunk=10)
        operator = plugin.operator.on(landscape, 0.5, Draws(0, "curvature").sub("weights", "whole", "operator"))
        value, error = (float(each) for each in operator.trace())
    assert found.value == pytest.approx(value)
    assert (found.high - found.low) / 2 == pytest.approx(2.0226909 * error)  # Student's t of 39 degrees


def test_the_relaxation_gap_is_that_of_the_relaxation_alone(
    spiking: Model, measured: Measure, by_metric: ByMetric
) -> None:
    model = spiking()
    assert {"relaxation_gap:loss", "relaxation_gap:accuracy"} <= by_metric(
        measured(Trace("relaxed", **FEW), model)
    ).keys()
    assert "relaxation_gap:loss" not in by_metric(measured(Trace("formal", **FEW), model))


@dataclass(frozen=True)
class Upside:
    """The matrix of double backward, upside down."""

    name = "negative Hessian"

    def on(self, landscape: Landscape, memory: float, rng: Draws) -> Operator:
        return Negative(Formal().on(landscape, memory, rng))


class Negative:
    name, symmetric = "negative Hessian", True

    def __init__(self, operator: Operator) -> None:
        self.landscape, self._operator, self.products = operator.landscape, operator, 0

    def apply(self, vectors: Tensor) -> Tensor:
        self.products += len(vectors)
        return -self._operator.apply(vectors)

    apply_transposed = apply


def test_a_true_hessian_predicts_a_smooth_loss_and_another_matrix_is_warned_of(
    smooth: Model, measured: Measure, by_metric: ByMetric
) -> None:
    model, settings = smooth(), {"directions": 16, "draws": 4}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measured(Eigenvalues("formal", k=4, **settings), model)
    right = by_metric(found)
    assert right["validity:random"].value > 0.9
    assert right["validity_slope:random"].value == pytest.approx(1, abs=0.2)
    assert right["validity:random"].count == 16
    (drawn,) = (each for each in found if isinstance(each, Scatter))
    predicted, measured_ = drawn.points["random, 0.01"].T
    assert np.allclose(predicted, measured_, rtol=0.2)
    assert len(drawn.points["leading, 0.1"]) == LEADING["weights"]
    with pytest.warns(CurvatureWarning, match=r"expected curvature .* 'smooth', got a rank correlation of -"):
        wrong = by_metric(measured(Eigenvalues(Upside(), k=4, **settings), model))
    assert wrong["validity:random"].value < -0.9


def test_what_has_not_converged_is_warned_of_and_wide(
    spiking: Model, data: Data, measured: Measure, by_metric: ByMetric
) -> None:
    with pytest.warns(CurvatureWarning, match="to converge, got"):
        found = by_metric(measured(Eigenvalues("formal", k=2, products=3, tolerance=1e-8, **FEW), spiking()))
    record = found["eigenvalue:2"]
    assert record.high - record.low > 1e-3 * abs(record.value)
    exact = np.linalg.eigvalsh(twice(spiking(), data().training("test")))
    assert ((exact >= record.low) & (exact <= record.high)).any()


def test_settings_are_a_record() -> None:
    plugin = Eigenvalues({"name": "smoothed", "sigma": 0.1})
    assert repr(plugin).startswith("Eigenvalues(operator=Smoothed(sigma=0.1, draws=200), space='weights', samples=500")
    assert plugin == Eigenvalues(plugin.operator)
    assert replace(plugin, operator="formal").operator == Formal()
    assert isinstance(plugin, CurvatureMeasurement)
