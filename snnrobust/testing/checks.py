"""Helpers of all checks: the model and data that a plugin accepts, and the state that it must not change."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from snnrobust.data.dataset import Dataset
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.errors import InputError, PluginError
from snnrobust.objectives.logits import CrossEntropy
from snnrobust.plugin.protocols import Corruption, Measurement
from snnrobust.plugin.task import AttackSettings, Task
from snnrobust.spike_gradients.swap import Own
from snnrobust.testing.tiny import tiny_data, tiny_event_model, tiny_model
from snnrobust.wrapping.model import SpikingModel


def check_promise(name: str, holds: bool, expected: str, got: str) -> None:
    """Raises a `PluginError` with `expected` and `got` unless `holds`."""
    if not holds:
        raise PluginError(f"expected {expected} from '{name}', got {got}; see snnrobust.plugin")


def task_of(name: str, plugin: Any) -> Task:
    """The plugin at strength 0, under L-inf if it is an attack."""
    if isinstance(plugin, Measurement):
        return Task(name, name, "measurement", "", plugin)
    if isinstance(plugin, Corruption):
        return Task(name, name, "noise", "", plugin, (0.0,))
    return Task(
        name, name, "attack", "", plugin, (0.0,), AttackSettings("linf", CrossEntropy(), Own(), restarts=1, eot=1)
    )


def _accepts(name: str, plugin: Any, model: SpikingModel, data: Dataset) -> bool:
    check = getattr(plugin, "check", None)
    try:
        if check is not None:
            check(model, EvaluationData(data, data, data, 4), task_of(name, plugin))
    except InputError:
        return False
    return True


def accepted_model_and_data(name: str, plugin: Any) -> tuple[SpikingModel, Dataset]:
    """The tiny model and data that the plugin accepts: static, else temporal, else of an event-driven net."""
    models = (tiny_model(), False), (tiny_model(temporal=True), True), (tiny_event_model(), False)
    for model, temporal in models:
        data = tiny_data(temporal)
        if _accepts(name, plugin, model, data):
            return model, data
    raise PluginError(
        f"expected '{name}' to accept static or binary temporal data, or an event-driven net, got neither; see its "
        f"check method"
    )


def model_state(model: SpikingModel) -> list[Any]:
    """All state of a net, and torch's generator, that an attack must not change."""
    net = model.net
    tensors = [value.clone() for value in net.state_dict().values()]
    flags = [(module.training, len(module._forward_hooks), type(module).__name__) for module in net.modules()]
    gradients = [(p.requires_grad, p.grad is None) for p in net.parameters()]
    return [*tensors, flags, gradients, torch.random.get_rng_state()]


def same_state(a: list[Any], b: list[Any]) -> bool:
    """Whether two states of a model are the same."""
    return all(torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in zip(a, b, strict=True))
