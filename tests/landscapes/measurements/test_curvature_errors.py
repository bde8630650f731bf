"""Curvature measurements: unsupported nets and data, state afterwards, and resuming."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData, prepare
from snnrobust.errors import InputError, PluginError
from snnrobust.plugin.task import load
from snnrobust.results.artifacts import Artifact, Scatter
from snnrobust.results.checkpoint import MeasurementCheckpoint
from snnrobust.results.records import Record
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.wrap import wrap
from snnrobust_landscapes.loss.weights import WeightLandscape
from snnrobust_landscapes.measurements.density import Density
from snnrobust_landscapes.measurements.eigenvalues import Eigenvalues
from snnrobust_landscapes.measurements.trace import Trace

Net = Callable[..., nn.Sequential]
Model = Callable[..., SpikingModel]
Data = Callable[..., EvaluationData]
Measure = Callable[..., list[Record | Artifact]]

FEATURES, CLASSES = 5, 3
FEW: dict[str, Any] = {"directions": 8, "draws": 2}
KINDS = (Eigenvalues, Trace, Density)

pytestmark = pytest.mark.usefixtures("short_and_quiet")


@pytest.fixture
def model(lif_net: Net) -> Model:
    """Wraps a net, by default a spiking one."""
    return lambda own=None: wrap(own or lif_net(), name="lif", steps=3)


@pytest.fixture
def data(random_data: Data) -> Data:
    """Makes samples for these nets."""
    return lambda n=20, batch_size=64: random_data(n, (FEATURES,), CLASSES, batch_size)


def numbers(found: list[Record | Artifact]) -> np.ndarray:
    return np.array([(each.value, each.low, each.high) for each in found if isinstance(each, Record)])


def equal(first: list[Record | Artifact], second: list[Record | Artifact]) -> bool:
    return np.array_equal(numbers(first), numbers(second), equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("reason", "error", "message"),
    [
        ("infinite", InputError, "finite training loss"),
        ("no parameters", InputError, "parameters"),
        ("detached", InputError, "gradient"),
        ("once differentiable", PluginError, "differentiated again"),
    ],
)
def test_nets_that_can_not_be_measured(
    lif_net: Net,
    data: Data,
    measured: Measure,
    model: Model,
    unmeasurable: Callable[..., nn.Module],
    kind: Any,
    reason: str,
    error: type[Exception],
    message: str,
) -> None:
    plugin, own = kind(**FEW), model(unmeasurable(reason, lif_net()))
    for call in (lambda: plugin.check(own, data(), load("trace")), lambda: measured(plugin, own)):
        with pytest.raises(error, match=message):
            call()


@pytest.mark.parametrize("kind", KINDS)
def test_a_relaxation_needs_spiking_nodes(data: Data, measured: Measure, model: Model, kind: Any) -> None:
    plugin = kind(operator="relaxed", **FEW)
    own = model(nn.Sequential(nn.Linear(FEATURES, 4), nn.Tanh(), nn.Linear(4, CLASSES)))
    for call in (lambda: plugin.check(own, data(), load("trace")), lambda: measured(plugin, own)):
        with pytest.raises(InputError, match="spiking nodes"):
            call()


def test_one_sample_is_too_few_and_training_data_are_needed(data: Data, measured: Measure, model: Model) -> None:
    for plugin in (Eigenvalues(**FEW), Trace(**FEW), Density(**FEW)):
        for few, message in (
            (data(1), "at least 2 training samples"),
            (prepare((data().test.x, data().test.y)), "got test"),
        ):
            with pytest.raises(InputError, match=message):
                plugin.check(model(), few, load("trace"))
            with pytest.raises(InputError, match=message):
                measured(plugin, model(), few)


def test_no_more_eigenvalues_than_parameters_or_input_values(
    lif_net: Net, data: Data, measured: Measure, model: Model
) -> None:
    size = sum(p.numel() for p in lif_net().parameters())
    for k, space, message in (
        (size + 1, "weights", f"at most k={size} "),
        (FEATURES + 1, "inputs", f"at most k={FEATURES} "),
    ):
        plugin = Eigenvalues(k=k, space=space, products=200, **FEW)
        with pytest.raises(InputError, match=message):
            plugin.check(model(), data(), load("trace"))
        with pytest.raises(InputError, match=message):
            measured(plugin, model())
    Eigenvalues(k=size, **FEW).check(model(), data(), load("trace"))  # control


def test_a_density_refuses_what_is_not_symmetric(data: Data, measured: Measure, model: Model) -> None:
    plugin = Density("field", **FEW)
    with pytest.raises(InputError, match="symmetric part"):
        plugin.check(model(), data(), load("trace"))
    with pytest.raises(InputError, match="symmetric part"):
        measured(plugin, model())


@pytest.mark.parametrize(
    ("kind", "setting", "message"),
    [
        *((kind, setting, message) for kind in KINDS for setting, message in (
            ({"operator": "gauss-newto"}, "did you mean 'gauss-newton'"),
            ({"operator": {"name": "smoothed", "sigma": -1.0}}, "sigma"),
            ({"space": "layers"}, "space"), ({"samples": 1}, "samples"), ({"chunk": 0}, "chunk"),
            ({"memory": -0.5}, "memory"), ({"memory": float("inf")}, "memory"), ({"logit_scale": 0.0}, "logit_scale"),
            ({"directions": 7}, "directions"), ({"draws": 1}, "draws"),
            ({"per_layer": True, "space": "inputs"}, "per_layer"),
        )),
        (Eigenvalues, {"k": 0}, "k"), (Eigenvalues, {"k": True}, "k"), (Eigenvalues, {"tolerance": 1.0}, "tolerance"),
        (Eigenvalues, {"k": 9, "products": 8}, "products"), (Trace, {"relative": 0.0}, "relative"),
        (Trace, {"products": 15}, "products"), (Density, {"probes": 1}, "probes"), (Density, {"steps": 1}, "steps"),
        (Density, {"width": 0}, "width"),
    ],
)  # fmt: skip
def test_settings_out_of_range(kind: Any, setting: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind(**setting)


def test_the_batch_size_decides_nothing_above_the_chunk_and_the_chunk_below(
    data: Data, measured: Measure, model: Model
) -> None:
    plugin = Trace(chunk=8, **FEW)
    found, wide, narrow = (measured(plugin, model(), data(batch_size=size)) for size in (8, 64, 4))
    assert equal(found, wide)
    captions = [[each.caption for each in run if isinstance(each, Scatter)] for run in (found, wide, narrow)]
    assert "8 at a time" in captions[0][0]
    assert captions[0] == captions[1]
    assert "4 at a time" in captions[2][0]
    assert np.allclose(numbers(found)[0], numbers(narrow)[0], rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_call_is_equal_and_the_net_as_before(
    lif_net: Net, data: Data, measured: Measure, model: Model, kind: Any
) -> None:
    own = lif_net().train()
    own(torch.rand(3, 4, FEATURES)).sum().backward()
    before = {name: value.clone() for name, value in own.state_dict().items()}
    parameters, state = dict(own.named_parameters()), own[1].v
    gradients = {name: p.grad for name, p in parameters.items()}
    random = torch.get_rng_state()
    wrapped, plugin = model(own), kind(**FEW)
    first = measured(plugin, wrapped)
    with wrapped.session(), torch.no_grad():
        assert equal(first, measured(plugin, wrapped))
        assert equal(first, measured(plugin, wrapped))  # from the session's cache
    other = list(plugin.measure(wrapped, data(), Draws(1, "task"), MeasurementCheckpoint()))
    assert not equal(first, other)  # control
    assert dict(own.named_parameters()) == parameters
    assert all(p.grad is gradients[name] for name, p in parameters.items())
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    assert all(module.training for module in own.modules())
    assert own[1].v is state
    assert torch.equal(torch.get_rng_state(), random)


def test_measured_curvature_is_shared_by_the_measurements_of_a_session(
    measured: Measure, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    own = WeightLandscape.loss
    monkeypatch.setattr(WeightLandscape, "loss", lambda self, offset: calls.append(1) or own(self, offset))
    wrapped = model()
    with wrapped.session():
        measured(Trace("gauss-newton", **FEW), wrapped)
        first = len(calls)
        measured(Density("gauss-newton", **FEW), wrapped)  # its random and leading directions are those of the trace
        again = len(calls) - first
        measured(Trace("gauss-newton", logit_scale=2.0, **FEW), wrapped)  # another loss
        other = len(calls) - first - again
    assert first == other > 0
    assert again == 0


class Stopped(Exception):
    pass


class Stopping(MeasurementCheckpoint):
    """Raises at one of the times that something is stored."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at

    def put(self, name: str, array: np.ndarray) -> None:
        super().put(name, array)
        self.left -= 1
        if self.left == 0:
            raise Stopped


@pytest.mark.parametrize("at", [9, *(pytest.param(at, marks=pytest.mark.slow) for at in (1, 14))])
def test_an_interrupted_measurement_goes_on_to_the_same_numbers(measured: Measure, model: Model, at: int) -> None:
    plugin, wrapped = Eigenvalues(per_layer=True, **FEW), model()
    whole = measured(plugin, wrapped)
    checkpoint = Stopping(at)
    with pytest.raises(Stopped):
        measured(plugin, wrapped, checkpoint=checkpoint)
    assert equal(whole, measured(plugin, wrapped, checkpoint=checkpoint))
