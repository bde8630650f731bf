"""The bridge to PyHessian against a dense float64 matrix; PyHessian's known faults don't come through."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from snnrobust.common.random import Draws, global_rng
from snnrobust.data import Dataset
from snnrobust.data.evaluation_data import EvaluationData, prepare
from snnrobust.errors import InputError, PluginError
from snnrobust.plugin import Measurement
from snnrobust.plugin.task import load
from snnrobust.results.artifacts import Artifact, Scatter
from snnrobust.results.checkpoint import MeasurementCheckpoint
from snnrobust.results.records import Record
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.wrap import wrap
from snnrobust_landscapes.measurements.pyhessian import PyHessian
from snnrobust_landscapes.operators.hessian import Formal
from snnrobust_landscapes.validity.evidence import CurvatureWarning

pyhessian = pytest.importorskip("pyhessian", reason="the extra 'pyhessian' is not installed")

Net = Callable[..., nn.Sequential]
Data = Callable[..., EvaluationData]
ByMetric = Callable[..., dict[str, Record]]

RNG = Draws(0, "curvature")

pytestmark = pytest.mark.usefixtures("short_and_quiet")


@pytest.fixture
def net(lif_net: Net) -> Net:
    """Makes spiking nets in float64."""
    return lambda alpha=2.0, seed=0: lif_net((6, 10, 3), alpha, seed).double()


@pytest.fixture
def data(random_data: Data) -> Data:
    """Makes samples for these nets."""
    return lambda: random_data(40, (6,), 3, batch_size=8)


def model(module: nn.Module) -> SpikingModel:
    return wrap(module, steps=4)


def dense(wrapped: SpikingModel, train: Dataset) -> Tensor:
    """The matrix itself, a row for each parameter, by differentiating the gradient of the loss."""
    parameters = list(wrapped.net.parameters())
    loss = functional.cross_entropy(wrapped.logits(train.x), train.y)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, create_graph=True)])
    rows = [torch.autograd.grad(entry, parameters, retain_graph=True) for entry in gradient]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


def measured(plugin: PyHessian, wrapped: SpikingModel, evaluation: EvaluationData, rng: Draws = RNG) -> list[Any]:
    """Records and artifacts, with the smallest comparison with the measured loss."""
    small = replace(plugin, directions=8, draws=2)
    return list(small.measure(wrapped, evaluation, rng, MeasurementCheckpoint()))


def numbers(found: list[Record | Artifact]) -> list[tuple[str, float, float, float]]:
    """Eigenvalues and trace."""
    own = [each for each in found if isinstance(each, Record) and each.metric.startswith(("eigenvalue", "trace"))]
    return [(each.metric, each.value, each.low, each.high) for each in own]


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_eigenvalues_match_a_dense_matrix(net: Net, data: Data, by_metric: ByMetric, alpha: float) -> None:
    wrapped = model(net(alpha))
    matrix = dense(wrapped, data().training("test").take(40))
    assert matrix.shape[0] < 200
    assert torch.allclose(matrix, matrix.T, atol=1e-12)
    exact = torch.linalg.eigvalsh(matrix)
    exact = exact[exact.abs().argsort(descending=True)]
    assert exact[1] * exact[0] != 0
    found = by_metric(measured(PyHessian(top=3, tolerance=1e-9, iterations=4000, samples=40), wrapped, data()))
    for rank in (1, 2, 3):
        record = found[f"eigenvalue:{rank}"]
        assert record.value == pytest.approx(float(exact[rank - 1]), rel=1e-3)
        assert record.low <= exact[rank - 1] + 1e-6 * exact[0].abs()
        assert record.high >= exact[rank - 1] - 1e-6 * exact[0].abs()
        assert (record.count, record.threat) == (40, Formal().name)


def test_the_interval_is_honest_where_the_iteration_stops_early(net: Net, data: Data, by_metric: ByMetric) -> None:
    wrapped = model(net())
    exact = torch.linalg.eigvalsh(dense(wrapped, data().training("test").take(40)))
    found = by_metric(measured(PyHessian(iterations=2, samples=40), wrapped, data()))["eigenvalue:1"]
    assert bool(((exact >= found.low) & (exact <= found.high)).any())
    assert found.high - found.low > 1e-2 * abs(found.value)
    assert found.value != pytest.approx(float(exact.abs().max()), rel=1e-3)  # control: it had not converged


def test_the_trace_matches_within_its_interval(net: Net, data: Data, by_metric: ByMetric) -> None:
    wrapped = model(net())
    matrix = dense(wrapped, data().training("test").take(40))
    record = by_metric(measured(PyHessian(probes=400, samples=40), wrapped, data()))["trace"]
    # Var(v^T H v) = 2 (|H|_F^2 - |diag H|^2) for Rademacher v.
    deviation = float((2 * (matrix.square().sum() - matrix.diag().square().sum())).sqrt()) / 20
    assert record.high - record.low == pytest.approx(2 * 1.966 * deviation, rel=0.15)
    assert abs(record.value - float(matrix.trace())) < 4 * deviation


def test_a_negative_trace_takes_all_its_probes(net: Net, data: Data, by_metric: ByMetric) -> None:
    wrapped = model(net(alpha=16.0, seed=1))
    trace = float(dense(wrapped, data().training("test").take(40)).trace())
    assert trace < -0.1
    record = by_metric(measured(PyHessian(probes=300, samples=40), wrapped, data()))["trace"]
    assert record.low < trace < record.high
    # Control: the fault that this works around.
    train = data().training("test")
    with warnings.catch_warnings(), global_rng(0, torch.device("cpu")):
        warnings.simplefilter("ignore")
        bare = pyhessian.hessian(
            model(net(16.0, 1)).as_module().float(), functional.cross_entropy, data=(train.x, train.y), cuda=False
        )
        found = bare.trace(maxIter=300, tol=1e-9)
    assert len(found) < 20


def test_the_trace_of_a_diagonal_matrix_is_exact(by_metric: ByMetric) -> None:
    class Diagonal(nn.Module):
        """Two classes from one weight: a matrix of one entry."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([self.weight * x[:, 0], 0 * x[:, 0]], dim=1)

    train = torch.full((4, 6), 0.5), torch.zeros(4, dtype=torch.long)
    found = by_metric(
        measured(PyHessian(probes=5), wrap(Diagonal(), layout="N"), prepare({"test": train, "train": train}, 4))
    )
    p = 1 / (1 + np.exp(-0.7 * 0.5))
    curvature = 0.5**2 * p * (1 - p)  # of softplus(-w x)
    assert found["trace"].value == pytest.approx(curvature, rel=1e-9)
    assert found["trace"].high - found["trace"].low < 1e-12
    assert found["eigenvalue:1"].value == pytest.approx(curvature, rel=1e-5)


def test_a_pair_of_opposite_eigenvalues_shows_in_the_interval(by_metric: ByMetric) -> None:
    class Product(nn.Module):
        """Logits (a b, 0): at a = b = 0 the matrix is [[0, -1/2], [-1/2, 0]], with eigenvalues +-1/2."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (nn.Parameter(torch.zeros((), dtype=torch.float64)) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            score = self.a * self.b * torch.ones(len(x), dtype=torch.float64)
            return torch.stack([score, torch.zeros_like(score)], dim=1)

    train = torch.ones(4, 6), torch.zeros(4, dtype=torch.long)
    evaluation = prepare({"test": train, "train": train}, 4)
    seen = set()
    for seed in range(4):
        found = measured(PyHessian(probes=2), wrap(Product(), layout="N"), evaluation, Draws(seed, "pair"))
        record = by_metric(found)["eigenvalue:1"]
        assert record.low <= 0.5 <= record.high or record.low <= -0.5 <= record.high
        seen.add(round(record.value, 3))
    assert len(seen) > 1  # the number itself depends on the seed, and its width says so


def test_a_second_call_gives_the_same_numbers_inside_and_outside_a_session(net: Net, data: Data) -> None:
    wrapped = model(net())
    plugin = PyHessian(top=2, samples=40, probes=10)
    first = numbers(measured(plugin, wrapped, data()))
    torch.manual_seed(99)
    assert numbers(measured(plugin, wrapped, data())) == first
    with wrapped.session(), torch.no_grad():
        assert numbers(measured(plugin, wrapped, data())) == first
        assert numbers(measured(plugin, wrapped, data())) == first
    assert numbers(measured(plugin, wrapped, data(), Draws(1, "curvature"))) != first  # control


@pytest.mark.parametrize("outer", [False, True])
def test_the_net_and_the_globals_are_as_before(net: Net, data: Data, outer: bool) -> None:
    own = net().train()
    own.add_module("frozen", nn.Linear(3, 3).double().requires_grad_(False))
    wrapped = model(own)
    functional.cross_entropy(wrapped.logits(data().test.x), data().test.y).backward()
    gradients = {name: (p.grad, None if p.grad is None else p.grad.clone()) for name, p in own.named_parameters()}
    before = {name: p.detach().clone() for name, p in own.named_parameters()}
    flags = {name: p.requires_grad for name, p in own.named_parameters()}
    state = torch.get_rng_state()
    if outer:
        with wrapped.session():
            measured(PyHessian(probes=3), wrapped, data())
            assert all(p.grad is gradients[name][0] for name, p in own.named_parameters())
    else:
        measured(PyHessian(probes=3), wrapped, data())
    assert all(module.training for module in own.modules())
    assert {name: p.requires_grad for name, p in own.named_parameters()} == flags
    for name, p in own.named_parameters():
        assert torch.equal(p, before[name])
        gradient, values = gradients[name]
        assert p.grad is gradient
        assert gradient is None or torch.equal(gradient, values)
        assert p.grad is None or not p.grad.requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == torch.float32


def test_parameters_that_the_loss_does_not_use_change_nothing(net: Net, data: Data) -> None:
    class WithIdle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()
            self.idle = nn.Linear(4, 4).double()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.net(x)
            return out

    plugin = PyHessian(samples=40, probes=5)
    idle, own = (numbers(measured(plugin, model(each), data())) for each in (WithIdle(), net()))
    assert idle == own


def test_a_frozen_net_is_measured_as_if_it_were_trainable(net: Net, data: Data) -> None:
    frozen, plugin = net().requires_grad_(False), PyHessian(samples=40, probes=5, top=2)
    plugin.check(model(frozen), data(), load("pyhessian"))
    assert numbers(measured(plugin, model(frozen), data())) == numbers(measured(plugin, model(net()), data()))
    assert not any(p.requires_grad for p in frozen.parameters())
    partly = net()
    partly[0].requires_grad_(False)
    assert numbers(measured(plugin, model(partly), data())) != numbers(measured(plugin, model(net()), data()))
    assert [p.requires_grad for p in partly.parameters()] == [False, False, True, True]


def test_float32_nets_work_and_fewer_samples_are_told(net: Net, data: Data, by_metric: ByMetric) -> None:
    records = by_metric(measured(PyHessian(probes=3, samples=500), model(net().float()), data()))
    assert records["trace"].count == 40
    assert isinstance(PyHessian(), Measurement)


def test_no_training_data(net: Net) -> None:
    x = torch.rand(4, 6), torch.zeros(4, dtype=torch.long)
    task = load("pyhessian")
    for call in (lambda m, d: PyHessian().check(m, d, task), lambda m, d: measured(PyHessian(), m, d)):
        with pytest.raises(InputError, match="training data"):
            call(model(net()), prepare(x, 4))


@pytest.mark.parametrize(
    ("reason", "message"),
    [("no parameters", "at least top=1 parameters"), ("infinite", "finite training loss"), ("detached", "gradient")],
)
def test_nets_that_can_not_be_measured(
    net: Net, data: Data, unmeasurable: Callable[..., nn.Module], reason: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        measured(PyHessian(probes=2), model(unmeasurable(reason, net())), data())


def test_a_surrogate_that_can_not_be_differentiated_twice(
    net: Net, data: Data, unmeasurable: Callable[..., nn.Module]
) -> None:
    with pytest.raises(PluginError, match="differentiated again"):
        measured(PyHessian(probes=2), model(unmeasurable("once differentiable", net())), data())


@pytest.mark.parametrize(
    "setting", [{"top": 0}, {"probes": 1}, {"samples": 0}, {"tolerance": 0.0}, {"iterations": True}]
)
def test_settings_out_of_range(setting: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(setting))):
        PyHessian(**setting)


def test_what_it_found_is_held_against_the_loss(net: Net, data: Data, by_metric: ByMetric) -> None:
    class WithIdle(nn.Module):
        """Parameters that the loss does not depend on stand before those that it does."""

        def __init__(self) -> None:
            super().__init__()
            self.idle = nn.Linear(4, 4).double()
            self.net = net()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.net(x)
            return out

    wrapped = model(WithIdle())
    found = measured(PyHessian(top=3, probes=2, tolerance=1e-9, iterations=4000, samples=40), wrapped, data())
    (drawn,) = (each for each in found if isinstance(each, Scatter))
    predicted = drawn.points["leading, 0.01"][:, 0]
    # Along an eigenvector v of relative norm s it is value / s^2, with s that of `Filters.relative_norm`.
    filters = wrapped.net.net[0].weight.detach(), wrapped.net.net[2].weight.detach()
    assert predicted.shape == (3,)
    records = by_metric(found)
    values = [records[f"eigenvalue:{rank}"].value for rank in (1, 2, 3)]
    assert np.array_equal(np.sign(predicted), np.sign(values))
    assert (np.abs(predicted) > np.abs(values) * min(float(each.norm(dim=1).min()) for each in filters) ** 2).all()
    assert records["asymmetry"].value < 1e-10
    assert {"validity:random", "validity_slope:leading", "validity_ceiling:random"} <= records.keys()
    assert records["validity:random"].threat == Formal().name


def test_a_formal_hessian_that_misleads_is_warned_of(net: Net, data: Data, by_metric: ByMetric) -> None:
    plugin = PyHessian(top=3, probes=2, samples=40, directions=16, draws=4)
    with pytest.warns(CurvatureWarning, match="formal surrogate Hessian"):
        list(plugin.measure(model(net(16.0, seed=1)), data(), RNG, MeasurementCheckpoint()))
    smooth = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3)).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = list(plugin.measure(wrap(smooth, layout="N"), data(), RNG, MeasurementCheckpoint()))  # control
    assert by_metric(found)["validity:random"].value > 0.9
