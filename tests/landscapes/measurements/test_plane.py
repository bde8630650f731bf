"""The random plane: filter normalisation, closed forms on a net whose loss is known, weights untouched."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn
from torch.nn import functional

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData, prepare
from snnrobust.errors import InputError
from snnrobust.plugin import Measurement
from snnrobust.plugin.task import load
from snnrobust.results.artifacts import Surface
from snnrobust.results.checkpoint import MeasurementCheckpoint
from snnrobust.results.records import Record
from snnrobust.testing import check_plugin
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.wrap import wrap
from snnrobust_landscapes.loss.filters import Filters
from snnrobust_landscapes.measurements import section_points
from snnrobust_landscapes.measurements.plane import PLANE, Plane
from snnrobust_landscapes.measurements.section_points import UNITS

Net = Callable[..., nn.Sequential]
Model = Callable[[], SpikingModel]
Data = Callable[..., EvaluationData]

RNG = Draws(0, "plane")
UNIT = UNITS["weights"]


@pytest.fixture
def net(conv_net: Net) -> Net:
    """Makes a convolutional spiking net."""
    return lambda: conv_net(seed=0)


@pytest.fixture
def spiking(net: Net) -> Model:
    """Makes a model of that net."""
    return lambda: wrap(net(), steps=4)


@pytest.fixture
def data(random_data: Data) -> Data:
    """Makes samples for these nets."""
    return lambda n=20, batch_size=8: random_data(n, (1, 6, 6), 4, batch_size)


def measured(plugin: Plane, model: SpikingModel, evaluation: EvaluationData, rng: Draws = RNG) -> tuple[Surface, Any]:
    surface, *records = plugin.measure(model, evaluation, rng)
    assert isinstance(surface, Surface)
    return surface, {record.metric: record for record in records if isinstance(record, Record)}


class Bowl(nn.Module):
    """Two classes with logits (w . v, 0) whatever the input: the loss is softplus(-(w . v))."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.3, -0.8, 0.5]], dtype=torch.float64))
        self.bias = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        score = self.weight.sum() * torch.ones(len(x), dtype=x.dtype)
        return torch.stack([score, torch.zeros_like(score)], dim=1)


def test_the_surface_of_a_known_loss() -> None:
    bowl = Bowl()
    model = wrap(bowl, layout="N")
    train = torch.rand(7, 3), torch.tensor([0, 0, 0, 0, 0, 1, 1])
    surface, records = measured(Plane(points=5, radius=2.0), model, prepare({"test": train, "train": train}, 3))
    filters = Filters(dict(bowl.named_parameters()))
    d1, d2 = (float(filters.random(RNG.sub(f"{k} direction"))["weight"].sum()) for k in ("first", "second"))

    def loss(a: Any, b: Any) -> Any:
        score = 0.0 + a * d1 + b * d2  # 0.3 - 0.8 + 0.5
        return (5 * np.logaddexp(0, -score) + 2 * np.logaddexp(0, score)) / 7

    a, b = np.meshgrid(surface.x, surface.y)  # [Y, X]
    assert np.allclose(surface.values["loss"], loss(a, b), atol=1e-9)
    score = a * d1 + b * d2
    clear = abs(score) > 1e-9
    assert np.allclose(surface.values["accuracy"][clear], np.where(score > 0, 5 / 7, 2 / 7)[clear])
    angles = 2 * np.pi * np.arange(16) / 16
    rise = loss(np.cos(angles), np.sin(angles)) - loss(0, 0)
    assert records["loss"].value == pytest.approx(math.log(2))
    assert records["loss_rise"].value == pytest.approx(rise.max(), abs=1e-9)
    assert records["loss_rise_mean"].value == pytest.approx(rise.mean(), abs=1e-9)
    assert (records["loss_rise"].strength, records["loss_rise"].unit) == (1.0, UNIT)
    assert {(record.count, record.threat) for record in records.values()} == {(7, PLANE)}


def test_the_centre_is_the_nets_own_loss_and_accuracy(spiking: Model, data: Data) -> None:
    model, evaluation = spiking(), data()
    surface, records = measured(Plane(points=3), model, evaluation)
    train = evaluation.training("test")
    with torch.no_grad():
        logits = model.logits(train.x)
    loss = float(functional.cross_entropy(logits, train.y))
    assert surface.x.tolist() == surface.y.tolist() == [-1.0, 0.0, 1.0]
    assert surface.values["loss"].shape == surface.values["accuracy"].shape == (3, 3)
    assert surface.values["loss"][1, 1] == pytest.approx(loss, abs=1e-6)
    right = (model.predict(logits) == train.y).sum()
    assert surface.values["accuracy"][1, 1] == pytest.approx(float(right) / 20)
    assert records["loss"].value == surface.values["loss"][1, 1]
    assert surface.values["loss"].std() > 1e-3
    assert "20 training samples" in surface.caption
    assert UNIT in surface.axes[0]


def test_samples_are_the_first_and_batches_do_not_matter(spiking: Model, data: Data) -> None:
    model = spiking()
    surface, records = measured(Plane(points=3, samples=10), model, data())
    whole, _ = measured(Plane(points=3, samples=10), model, data(batch_size=100))
    train = data().training("test").take(10)
    fewer, _ = measured(Plane(points=3), model, prepare({"test": train, "train": train}, 8))
    assert records["loss"].count == 10
    for quantity, values in surface.values.items():
        assert np.allclose(values, whole.values[quantity], atol=1e-6)
        assert np.allclose(values, fewer.values[quantity], atol=1e-6)


def test_a_second_call_is_equal_and_the_net_as_before(net: Net, data: Data) -> None:
    own = net().train()
    own(torch.rand(4, 2, 1, 6, 6))
    before = {name: value.clone() for name, value in own.state_dict().items()}
    parameters, state = dict(own.named_parameters()), own[2].v
    versions = {name: p._version for name, p in parameters.items()}
    model = wrap(own, steps=4)
    first, records = measured(Plane(points=3), model, data())
    again, records_again = measured(Plane(points=3), model, data())
    other, _ = measured(Plane(points=3), model, data(), Draws(1, "plane"))
    assert np.array_equal(first.values["loss"], again.values["loss"])
    assert records == records_again
    assert not np.array_equal(first.values["loss"], other.values["loss"])  # control
    assert dict(own.named_parameters()) == parameters  # the very objects
    assert {name: p._version for name, p in parameters.items()} == versions
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    assert all(module.training for module in own.modules())
    assert own[2].v is state


def test_the_net_is_as_before_after_an_exception(data: Data) -> None:
    class Fragile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(36, 4)
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls > 5:
                raise RuntimeError("worn out")
            out: Tensor = self.linear(x.flatten(1))
            return out

    own = Fragile()
    weight, values = own.linear.weight, own.linear.weight.detach().clone()
    with pytest.raises(RuntimeError, match="worn out"):
        list(Plane(points=3).measure(wrap(own, layout="N"), data(), RNG))
    assert own.linear.weight is weight
    assert torch.equal(weight, values)


def test_no_training_data_and_no_weights(spiking: Model, data: Data) -> None:
    x = torch.rand(4, 1, 6, 6), torch.zeros(4, dtype=torch.long)
    with pytest.raises(InputError, match="training data"):
        Plane().check(spiking(), prepare(x, 4), load("plane"))
    with pytest.raises(InputError, match="filter normalisation needs"):
        Plane().check(wrap(neuron.IFNode(step_mode="m"), steps=4), data(), load("plane"))
    Plane().check(spiking(), data(), load("plane"))
    assert isinstance(Plane(), Measurement)


@pytest.mark.parametrize(
    "setting", [{"points": 20}, {"points": 1}, {"points": 3.0}, {"radius": 0.0}, {"radius": math.inf}, {"samples": 0}]
)
def test_settings_out_of_range(setting: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(setting))):
        Plane(**setting)


def test_the_scale_of_the_logits_is_that_of_training() -> None:
    model, train = tiny_model(), tiny_data()
    data = EvaluationData(train, train, train, 5)
    scaled = Plane(points=3, logit_scale=5.0).measure(model, data, Draws(0, "plane"))
    (loss,) = [each.value for each in scaled if isinstance(each, Record) and each.metric == "loss"]
    expected = torch.nn.functional.cross_entropy(5.0 * model.logits(train.x), train.y)
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize("space", ["weights", "inputs"])
@pytest.mark.parametrize(
    ("first", "second"), [("adversarial", "random"), ("random", "adversarial"), ("eigenvector", "eigenvector")]
)
def test_other_directions_and_spaces(spiking: Model, data: Data, first: str, second: str, space: Any) -> None:
    model, evaluation = spiking(), data(12)
    plugin = Plane(points=3, first=first, second=second, space=space)
    surface, records = measured(plugin, model, evaluation)
    plain, plain_records = measured(Plane(points=3), model, evaluation)
    assert records["loss"].value == pytest.approx(plain_records["loss"].value, abs=1e-7)  # the middle is the same
    assert not np.allclose(surface.values["loss"], plain.values["loss"])
    assert first in records["loss"].threat
    assert second in records["loss"].threat
    assert ("inputs" in records["loss"].threat) == (space == "inputs")
    assert records["loss_rise"].unit == UNITS[space]
    assert ("Gauss-Newton" in surface.axes[0]) == (first == "eigenvector")
    with model.session():
        checkpoint = MeasurementCheckpoint()
        landscape = section_points.training_landscape(
            model, evaluation, space=space, samples=500, chunk=64, logit_scale=1.0
        )
        found = section_points.section_directions(
            (first, second), landscape, (RNG, RNG.sub("2")), "gauss-newton", checkpoint
        )
        one, two = (each.along for each in found)
        if second != "random":
            assert ((one * two).sum(-1).abs() < 1e-6 * one.norm(dim=-1) * two.norm(dim=-1) + 1e-12).all()
        there = landscape.relative_norm(one) > 0
        assert torch.allclose(landscape.relative_norm(one)[there], torch.ones(1, dtype=torch.float64))


def test_uphill_is_higher_than_at_random(spiking: Model, data: Data) -> None:
    model, evaluation = spiking(), data()
    up, _ = measured(Plane(points=3, first="adversarial", radius=0.5), model, evaluation)
    loss = up.values["loss"]
    assert loss[1, 2] > loss[1, 1]  # along the surrogate gradient


def test_kept_points_are_not_computed_again_unless_in_other_chunks(spiking: Model, data: Data) -> None:
    model, evaluation, checkpoint = spiking(), data(), MeasurementCheckpoint()
    whole = list(Plane(points=3).measure(model, evaluation, RNG, checkpoint))
    name = "chunks of 8"
    values = checkpoint.get(name)
    assert values is not None
    assert not np.isnan(values).any()
    values[0] = 5.0, 0.5
    values[1] = np.nan
    checkpoint.put(name, values)
    surface, *_ = Plane(points=3).measure(model, evaluation, RNG, checkpoint)
    fresh, *_ = whole
    assert isinstance(surface, Surface)
    assert isinstance(fresh, Surface)
    assert surface.values["loss"][0, 0] == 5.0
    assert surface.values["accuracy"][0, 0] == 0.5
    assert np.array_equal(surface.values["loss"].flat[1:], fresh.values["loss"].flat[1:])
    other, *_ = Plane(points=3, chunk=5).measure(model, evaluation, RNG, checkpoint)
    assert isinstance(other, Surface)
    assert np.allclose(other.values["loss"], fresh.values["loss"], atol=1e-6)
    assert "chunks of 5" in other.caption
    assert "chunks of 8" in surface.caption  # the evaluation's batch size is smaller than 64


def test_directions_are_kept_with_the_points(spiking: Model, data: Data) -> None:
    model, evaluation, checkpoint = spiking(), data(), MeasurementCheckpoint()
    list(Plane(points=3).measure(model, evaluation, RNG, checkpoint))
    held = checkpoint.get("directions")
    assert held is not None
    another = MeasurementCheckpoint()
    another.put("unconverged", np.zeros(2))
    another.put("directions", held[::-1])
    swapped, *_ = Plane(points=3).measure(model, evaluation, RNG, another)
    plain, *_ = Plane(points=3).measure(model, evaluation, RNG)
    assert isinstance(swapped, Surface)
    assert isinstance(plain, Surface)
    assert np.array_equal(swapped.values["loss"], plain.values["loss"].T)


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"first": "up"}, "direction among"), ({"space": "spikes"}, "space"), ({"operator": "hessian"}, "operator")],
)
def test_unknown_names(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Plane(**setting)


@pytest.mark.parametrize("name", ["plane", "line"])
def test_conformance(name: str) -> None:
    check_plugin(name, points=3)
