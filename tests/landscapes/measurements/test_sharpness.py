"""Sharpness: closed forms, invariance under rescaled filters, order, resuming, and what is refused."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from spikingjelly.activation_based import layer, neuron, surrogate
from torch import Tensor, nn

from snnrobust import data as datasets
from snnrobust import networks
from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData, prepare
from snnrobust.errors import InputError
from snnrobust.plugin.task import load
from snnrobust.results.artifacts import Profile
from snnrobust.results.checkpoint import MeasurementCheckpoint
from snnrobust.results.records import Record
from snnrobust.testing import check_plugin
from snnrobust.training import trainer as training
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.wrap import wrap
from snnrobust_landscapes.loss.filters import Filters
from snnrobust_landscapes.loss.weights import WeightLandscape
from snnrobust_landscapes.measurements.sharpness import Sharpness

RNG = Draws(0, "sharpness")
Model = Callable[[], SpikingModel]
SearchResult = dict[tuple[str, float], Record]


def measured(
    plugin: Sharpness, model: SpikingModel, evaluation: EvaluationData, checkpoint: MeasurementCheckpoint | None = None
) -> tuple[SearchResult, list[Profile]]:
    found = list(plugin.measure(model, evaluation, RNG, MeasurementCheckpoint() if checkpoint is None else checkpoint))
    records = {
        (each.metric.removeprefix("sharpness:"), each.strength): each for each in found if isinstance(each, Record)
    }
    return records, [each for each in found if isinstance(each, Profile)]


def values(records: SearchResult) -> dict[tuple[str, float], float]:
    return {key: record.value for key, record in records.items()}


@pytest.fixture
def evaluation(random_data: Callable[..., EvaluationData]) -> EvaluationData:
    """Samples for these nets."""
    return random_data(20, (1, 6, 6), 4, batch_size=8)


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        norm = layer.BatchNorm2d(3, step_mode="m")
        norm.running_mean.uniform_(-0.2, 0.2)
        norm.running_var.uniform_(0.5, 2)
        norm.eps = 0.0
        nn.init.uniform_(norm.bias, 0.1, 0.5)
        node = neuron.LIFNode(step_mode="m", v_threshold=0.2)
        return nn.Sequential(layer.Conv2d(1, 3, 3, step_mode="m"), norm, node, nn.Flatten(2), nn.Linear(3 * 4 * 4, 4))


@pytest.fixture
def spiking() -> Model:
    """Makes a model of a convolutional spiking net."""
    return lambda: wrap(net(), steps=4)


class Bowl(nn.Module):
    """Two classes with logits (w . v, 0) whatever the input; all of class 0: the loss is log(1 + exp(-w . v))."""

    def __init__(self, weight: tuple[float, ...] = (0.3, -0.8, 0.6)) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        score = self.weight.sum() * torch.ones(len(x), dtype=x.dtype)
        return torch.stack([score, torch.zeros_like(score)], dim=1)


def rise(score: Any, move: Any) -> Any:
    """Of log(1 + exp(-score)) where the score falls by `move`."""
    return np.logaddexp(0, move - score) - np.logaddexp(0, -score)


def test_closed_forms_in_weights() -> None:
    x = torch.rand(5, 3), torch.zeros(5, dtype=torch.long)
    settings = Sharpness(radii=(0.2, 1.0), rho=(0.1, 0.5), asam_rho=(0.5,), directions=30)
    records, profiles = measured(settings, wrap(Bowl(), layout="N"), prepare({"test": x, "train": x}))
    score, length = 0.1, math.sqrt(0.3**2 + 0.8**2 + 0.6**2)
    for radius in settings.rho:  # along -(1, 1, 1) / sqrt 3
        for name in ("sam", "ascent_l2"):
            assert records[name, radius].value == pytest.approx(rise(score, radius * math.sqrt(3)))
    # T^2 g / |T g| with T = |theta|: theta^2 / |theta|, which sums to |theta|
    assert records["asam", 0.5].value == pytest.approx(rise(score, 0.5 * length))
    drawn = [Filters({"weight": Bowl().weight}).random(RNG.sub("random", k))["weight"] for k in range(30)]
    for radius in settings.radii:  # the only filter has that norm: g |theta| / |g|
        for name in ("one_step", "ascent"):
            assert records[name, radius].value == pytest.approx(rise(score, radius * length * math.sqrt(3)))
        blind = [rise(score, -radius * float(each.sum())) for each in drawn]
        assert records["random_max", radius].value == pytest.approx(max(blind))
        assert records["random_mean", radius].value == pytest.approx(np.mean(blind))
    assert records["sam", 0.1].high - records["sam", 0.1].low == pytest.approx(0.0)  # all samples alike
    relative, plain = profiles
    assert relative.x.tolist() == [0.0, 0.2, 1.0]
    assert plain.x.tolist() == [0.0, 0.1, 0.5]
    assert plain.values["loss rise, sam"].tolist() == [0.0, records["sam", 0.1].value, records["sam", 0.5].value]
    assert relative.values["loss rise, random mean"][2] == pytest.approx(records["random_mean", 1.0].value)


def test_random_directions_are_averaged_and_the_highest_is_found(spiking: Model, evaluation: EvaluationData) -> None:
    model, given, settings = spiking(), evaluation, Sharpness(directions=12, steps=1, radii=(0.3,))
    records, _ = measured(settings, model, given)
    with model.session():
        here = WeightLandscape(model, given.training("test"), chunk=8)
        centre = here.loss(torch.zeros(here.size, dtype=torch.float64)).losses
        rises = [here.loss(0.3 * here.direction(RNG.sub("random", k))).losses - centre for k in range(12)]
    means = torch.stack(rises).mean(dim=1).numpy()
    mean, top = records["random_mean", 0.3], records["random_max", 0.3]
    assert mean.value == pytest.approx(means.mean())
    interval = stats.t.interval(0.95, 11, means.mean(), stats.sem(means))
    assert (mean.low, mean.high) == pytest.approx(interval)
    assert mean.count == 12
    assert top.value == pytest.approx(means.max())
    worst = rises[means.argmax()].numpy()
    assert (top.low, top.high) == pytest.approx(stats.t.interval(0.95, 19, worst.mean(), stats.sem(worst)))
    assert top.count == 20


def test_closed_forms_in_inputs() -> None:
    linear = nn.Linear(4, 2, bias=False)
    x, y = torch.rand(6, 4), torch.arange(6) % 2
    train = x, y
    settings = Sharpness(space="inputs", radii=(0.1, 0.5), rho=(0.3,), directions=5)
    records, profiles = measured(settings, wrap(linear, layout="N"), prepare({"test": train, "train": train}))
    apart = (linear.weight[0] - linear.weight[1]).detach().double()
    score = ((x.double() @ apart) * torch.where(y == 0, 1, -1)).numpy()
    norms = x.double().norm(dim=1).numpy()
    for radius in settings.radii:
        wanted = rise(score, radius * norms * float(apart.norm()))
        for name in ("one_step", "ascent"):
            found = records[name, radius]
            assert found.value == pytest.approx(wanted.mean(), rel=1e-5)
            assert found.high - found.value == pytest.approx(stats.t.ppf(0.975, 5) * stats.sem(wanted), rel=1e-4)
        assert records["random_max", radius].value <= wanted.mean() * (1 + 1e-6)
    assert records["sam", 0.3].value == pytest.approx(rise(score, 0.3 * float(apart.norm())).mean(), rel=1e-5)
    assert {record.unit for record in records.values()} == {"input-relative radius", "L2 radius"}
    assert all(record.threat.endswith(", inputs") for record in records.values())
    assert len(profiles) == 1


def test_in_inputs_no_sample_depends_on_the_others(spiking: Model, evaluation: EvaluationData) -> None:
    given, model, settings = evaluation, spiking(), Sharpness(space="inputs", directions=4, steps=3)
    train = given.training("test")
    whole, _ = measured(settings, model, given)
    halves = [train.take(10), train.select(torch.arange(10, 20))]
    parts = [values(measured(settings, model, prepare({"test": each, "train": each}, 8))[0]) for each in halves]
    for key, record in whole.items():
        assert record.value == pytest.approx((parts[0][key] + parts[1][key]) / 2, abs=1e-6)


def rescaled(original: nn.Sequential) -> nn.Sequential:
    """The same function: filters times 1/8, 1/16 and 1/4, and the batch norm's statistics with them."""
    other, factors = copy.deepcopy(original), torch.tensor([0.125, 0.0625, 0.25])  # powers of 2: not a bit of rounding
    conv, norm = other[0], other[1]
    conv.weight.data *= factors[:, None, None, None]
    conv.bias.data *= factors
    norm.running_mean *= factors
    norm.running_var *= factors**2
    return other


@pytest.mark.parametrize("conv_alone", [False, True])
def test_rescaled_filters_leave_all_but_the_plain_ball_alone(evaluation: EvaluationData, conv_alone: bool) -> None:
    first = net()
    nn.init.zeros_(first[0].bias)  # one filter for all three: it can't be rescaled channel by channel
    if conv_alone:
        first[1:].requires_grad_(False)
    given, settings = evaluation, Sharpness(directions=4, steps=6, rho=(0.05,))
    models = [wrap(each, steps=4) for each in (first, rescaled(first))]
    x = given.training("test").x
    assert torch.equal(*(model.logits(x) for model in models))
    before, after = (values(measured(settings, model, given)[0]) for model in models)
    for key, value in before.items():
        if key[0] not in ("sam", "ascent_l2"):
            assert value == pytest.approx(after[key], abs=1e-9), key
    assert before["ascent", 0.1] > 1e-3
    # Control: one plain step takes it for another net; an ascent too, unless the last layer suffices for it.
    for name in ("sam", "ascent_l2") if conv_alone else ("sam",):
        assert after[name, 0.05] != pytest.approx(before[name, 0.05], rel=0.2)


def test_the_order_of_the_searches_on_a_trained_net() -> None:
    pytest.importorskip("sklearn", reason="needs real digits: pip install 'snnrobust[data]'")
    digits = datasets.load("digits")

    def build() -> nn.Module:
        return networks.mlp(
            lambda _: neuron.LIFNode(tau=2.0, decay_input=False, surrogate_function=surrogate.ATan(4.0), step_mode="m"),
            (64, 12, 10),
        )

    trained = training.initialised(build, seed=0)
    training.train(trained, digits.train.take(400), steps=4, epochs=4)
    settings = Sharpness(samples=200, directions=20, logit_scale=5.0, rho=(0.05, 0.5))
    records, _ = measured(
        settings, wrap(trained.eval(), steps=4), prepare({"test": digits.test, "train": digits.train})
    )
    found = values(records)
    for one, many, radii in (("one_step", "ascent", settings.radii), ("sam", "ascent_l2", settings.rho)):
        rises = [found[many, radius] for radius in radii]
        assert all(found[one, radius] <= found[many, radius] for radius in radii)
        assert rises == sorted(rises)
    assert found["random_mean", 0.1] < found["random_max", 0.1] < found["one_step", 0.1] < found["ascent", 0.1]
    assert all(record.low <= record.value <= record.high for record in records.values())


@pytest.mark.parametrize("stop", [2, 12, 40])
def test_an_interrupted_measurement_goes_on_where_it_stopped(
    spiking: Model, evaluation: EvaluationData, counted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    settings, given = Sharpness(directions=9, steps=3), evaluation
    whole, _ = measured(settings, spiking(), given)
    counted(WeightLandscape, "loss", stop_at=stop)
    checkpoint = MeasurementCheckpoint()
    with pytest.raises(KeyboardInterrupt):
        measured(settings, spiking(), given, checkpoint)
    monkeypatch.undo()
    resumed, _ = measured(settings, spiking(), given, checkpoint)
    assert values(resumed) == values(whole)


def test_a_finished_measurement_asks_for_little_again(
    spiking: Model, evaluation: EvaluationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, given, checkpoint = Sharpness(directions=4, steps=2), evaluation, MeasurementCheckpoint()
    wanted, _ = measured(settings, spiking(), given, checkpoint)
    offsets, original = [], WeightLandscape.loss
    monkeypatch.setattr(WeightLandscape, "loss", lambda self, offset: offsets.append(offset) or original(self, offset))
    found, _ = measured(settings, spiking(), given, checkpoint)
    assert values(found) == values(wanted)
    assert len(offsets) == 1 + len(settings.radii)  # the origin, and the highest random direction at each radius


def test_the_model_is_left_as_it_was_and_a_second_call_agrees(spiking: Model, evaluation: EvaluationData) -> None:
    model, given, settings = spiking(), evaluation, Sharpness(directions=3, steps=2)
    fingerprint, before = model.fingerprint(), copy.deepcopy(model.net.state_dict())
    model.net.train()
    first, second = (values(measured(settings, model, given)[0]) for _ in range(2))
    assert first == second
    assert model.fingerprint() == fingerprint
    assert all(torch.equal(value, before[name]) for name, value in model.net.state_dict().items())
    assert model.net.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.net.parameters())


def test_it_is_a_measurement_by_name() -> None:
    check_plugin("sharpness", directions=3, steps=2)
    check_plugin("sharpness", directions=3, steps=2, space="inputs")
    task = load("sharpness", radii=[0.1, 0.01])
    assert task.plugin == Sharpness(radii=(0.01, 0.1))


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"radii": ()}, "radii > 0, one or more"),
        ({"rho": (0.1, -0.1)}, "rho > 0"),
        ({"asam_rho": (float("nan"),)}, "asam_rho > 0"),
        ({"radii": 0.1}, "radii > 0"),
        ({"steps": 0}, "steps to be a whole number >= 1, got 0"),
        ({"directions": 1}, "directions to be a whole number >= 2"),
        ({"samples": 1}, "samples to be a whole number >= 2"),
        ({"chunk": 2.5}, "chunk to be a whole number >= 1"),
        ({"logit_scale": math.inf}, "finite logit_scale > 0"),
        ({"space": "membranes"}, "space to be one of weights, inputs, got 'membranes'"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], found: str) -> None:
    with pytest.raises(InputError, match=found):
        Sharpness(**settings)


def test_what_cannot_be_measured(spiking: Model, evaluation: EvaluationData) -> None:
    model, given, settings = spiking(), evaluation, Sharpness(directions=2)
    alone = given.training("test").take(1)
    with pytest.raises(InputError, match="at least 2 training samples"):
        measured(settings, model, prepare({"test": alone, "train": alone}))
    with pytest.raises(InputError, match="expected training data"):
        settings.check(model, prepare({"test": alone}), load("sharpness"))
    with pytest.raises(InputError, match="two axes or more"):
        measured(settings, wrap(nn.Flatten(), layout="N"), given)
    broken = net()
    broken[4].weight.data[0, 0] = math.nan
    with pytest.raises(InputError, match="finite training loss"):
        measured(settings, wrap(broken, steps=4), given)
