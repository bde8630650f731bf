"""What is refused before anything long: tasks that do not fit a model, each with a task that does."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

import snnrobust as sr
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.evaluation.compatibility import check_task
from snnrobust.testing.tiny import tiny_data, tiny_model


def events(domain: str) -> tuple[sr.SpikingModel, EvaluationData]:
    """The temporal net with inputs of whole numbers."""
    bounds = (0.0, 1.0) if domain == "binary" else (0.0, 3.0)
    model = sr.wrap(tiny_model(temporal=True).net, name="events", encoder=None, domain=domain, bounds=bounds)  # type: ignore[arg-type]
    data = tiny_data(temporal=True)
    return model, EvaluationData(data, None, None, 4)


def asked(task: sr.Task, model: sr.SpikingModel, data: EvaluationData, **sources: sr.SpikingModel) -> None:
    with model.session():
        check_task(task, model, data, {model.name: model, **sources})


@pytest.mark.parametrize("domain", ["binary", "integer"])
@pytest.mark.parametrize("name", ["pgd", "random-search", "square"])
def test_l2_on_whole_numbers_is_refused(domain: str, name: str) -> None:
    model, data = events(domain)
    with pytest.raises(sr.InputError, match=r"expected norm 'linf', 'l1' or 'l0' .* got 'l2'.* use one of these"):
        asked(sr.load(name, norm="l2", epsilon=2.0), model, data)
    with pytest.raises(sr.InputError, match="got 'l2'"):
        sr.evaluate(model, data, [sr.load(name, norm="l2", epsilon=[1.0, 2.0])])
    with pytest.raises(sr.InputError, match="got 'l2'"):
        sr.attack(model, data.test, sr.load(name, norm="l2", epsilon=2.0))
    asked(sr.load("pgd", norm="l1", epsilon=2.0), model, data)  # controls: another norm, another domain
    static = EvaluationData(tiny_data(), None, None, 4)
    asked(sr.load(name, norm="l2", epsilon=2.0), tiny_model(), static)


@pytest.mark.parametrize("epsilon", [0.5, [0.0, 0.99], [0.3, 2.0]])
def test_a_radius_without_a_change_is_refused_on_whole_numbers(epsilon: Any) -> None:
    model, data = events("integer")
    with pytest.raises(sr.InputError, match=r"expected epsilon 0 or >= 1 .* pass whole radii"):
        asked(sr.load("pgd", norm="l1", epsilon=epsilon), model, data)
    asked(sr.load("pgd", norm="l1", epsilon=[0.0, 1.0, 1.5]), model, data)
    asked(sr.load("pgd", epsilon=epsilon), tiny_model(), EvaluationData(tiny_data(), None, None, 4))


def test_a_ball_that_the_model_has_no_room_for_is_refused() -> None:
    model = sr.wrap(tiny_model().net, steps=4, bounds=(float("-inf"), float("inf")))
    data = EvaluationData(tiny_data(), None, None, 4)
    with pytest.raises(sr.InputError, match="l0"):
        asked(sr.load("flips", norm="l0", epsilon=2.0), model, data)


def test_a_source_has_to_exist_and_to_take_the_same_inputs() -> None:
    model, data = tiny_model(), EvaluationData(tiny_data(), None, None, 4)
    task = sr.load("pgd", epsilon=0.1, source="other")
    with pytest.raises(sr.InputError, match=r"expected source= of 'pgd' in \['tiny'\], got 'other'"):
        asked(task, model, data)
    for settings in ({"bounds": (0.0, 2.0)}, {"bounds": (0.0, 1.0), "domain": "integer"}):
        other = sr.wrap(tiny_model().net, name="other", steps=4, **settings)  # type: ignore[arg-type]
        with pytest.raises(sr.InputError, match="the bounds and domain of 'tiny'"):
            asked(task, model, data, other=other)
    asked(task, model, data, other=sr.wrap(tiny_model().net, name="other", steps=4))


def test_an_estimator_that_the_net_has_no_node_for_is_refused() -> None:
    model = sr.wrap(nn.Sequential(nn.Flatten(1), nn.Linear(16, 3)), layout="N", name="linear")
    data = EvaluationData(tiny_data(), None, None, 4)
    with pytest.raises(sr.InputError, match="spikes that can be swapped"):
        asked(sr.load("pgd", epsilon=0.1, gradient="atan"), model, data)
    asked(sr.load("square", epsilon=0.1, gradient="own"), model, data)


def test_the_check_of_a_plugin_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    task = sr.load("pgd", epsilon=0.1)
    seen: list[Any] = []
    monkeypatch.setattr(type(task.plugin), "check", lambda self, *arguments: seen.append(arguments), raising=False)
    model, data = tiny_model(), EvaluationData(tiny_data(), None, None, 4)
    asked(task, model, data)
    assert seen == [(model, data, task)]


def test_a_radius_beyond_the_range_of_the_inputs_warns() -> None:
    with pytest.warns(RuntimeWarning, match=r"epsilon 8 of 'pgd' allows every input .* e.g. 8 / 255"):
        sr.evaluate(tiny_model(), tiny_data(), [sr.load("pgd", epsilon=[0.1, 8.0], steps=1)], evidence="none")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sr.evaluate(tiny_model(), tiny_data(), [sr.load("pgd", epsilon=[0.1, 1.0], steps=1)], evidence="none")


@pytest.mark.parametrize("where", ["weight", "buffer"])
def test_nan_in_a_net_is_refused(where: str) -> None:
    net = nn.Sequential(nn.Flatten(1), nn.Linear(16, 3), nn.BatchNorm1d(3))
    model = sr.wrap(net, layout="N", name="net")
    data = {"test": tiny_data(), "train": tiny_data()}
    sr.evaluate(model, data, ["clean"], evidence="none")  # control
    with torch.no_grad():
        (net[1].weight if where == "weight" else net[2].running_mean)[0] = torch.nan  # type: ignore[index, union-attr]
    for task in ("clean", sr.load("plane", points=3, samples=4), sr.load("line", points=3, samples=4)):
        with pytest.raises(
            sr.InputError, match=rf"without NaN, got some in '{'1.weight' if where == 'weight' else '2.run'}"
        ):
            sr.evaluate(model, data, [task])
