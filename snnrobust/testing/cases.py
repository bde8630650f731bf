"""Small nets with data of every kind: images, sequences of spikes and counts, frames, spike times, event lists."""

from __future__ import annotations

import math
from typing import Any

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from snnrobust.data.dataset import Dataset
from snnrobust.events import Events, Sensor, by_time
from snnrobust.events import dataset as event_dataset
from snnrobust.testing.tiny import tiny_data, tiny_model, tiny_time_model, tiny_times
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.wrap import wrap

#: The greatest count of the integer data.
MOST = 3
#: Samples of each.
COUNT = 8
SENSOR = Sensor(height=4, width=4, duration=40)


def cases() -> list[tuple[SpikingModel, Dataset]]:
    """The tiny models and data; integer sequences; binary and integer frames; spike times; event lists."""
    binary: dict[str, Any] = {"domain": "binary", "encoder": None}
    integer: dict[str, Any] = {"domain": "integer", "bounds": (0, MOST), "encoder": None}
    tiny = [(tiny_model(temporal), tiny_data(temporal)) for temporal in (False, True)]
    sequences: list[tuple[tuple[int, ...], dict[str, Any]]] = [
        ((4, 6), integer),
        ((4, 2, 4, 4), binary),
        ((4, 2, 4, 4), integer),
    ]
    listed: dict[str, Any] = {"domain": "events", "steps": 4, "encoder": by_time(SENSOR, steps=4)}
    return [
        *tiny,
        *((_net(math.prod(shape[1:]), settings), _grids(shape, settings)) for shape, settings in sequences),
        (tiny_time_model(), tiny_times(COUNT)),
        (_net(32, listed), _event_lists()),
    ]


def _net(features: int, settings: dict[str, Any]) -> SpikingModel:
    """A small fixed net for sequences with this many entries a step that emits some spikes."""
    with torch.random.fork_rng(devices=[]):  # torch initialises from the global generator
        layers = nn.Linear(features, 12), nn.Linear(12, 3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * 0.6)
            layer.bias.fill_(0.2)
    nodes = [neuron.IFNode(step_mode="m") for _ in layers]
    return wrap(nn.Sequential(nn.Flatten(2), layers[0], nodes[0], layers[1], nodes[1]), name="tiny", **settings)


def _grids(shape: tuple[int, ...], settings: dict[str, Any]) -> Dataset:
    most = int(settings.get("bounds", (0, 1))[1])
    x = torch.randint(0, most + 1, (COUNT, *shape), generator=torch.Generator().manual_seed(1)).float()
    return Dataset.of(x, _labels(), name="tiny events")


def _event_lists() -> Dataset:
    generator = torch.Generator().manual_seed(2)
    recordings = []
    for _ in range(COUNT):
        t, x, y, p = (torch.randint(0, most, (30,), generator=generator).numpy() for most in (SENSOR.duration, 4, 4, 2))
        t.sort()
        recordings.append(Events(t, x, y, p, sensor=SENSOR))
    return event_dataset(recordings, _labels(), spare=8)


def _labels() -> Tensor:
    return torch.arange(COUNT) % 3
