"""A small fixed net and samples that fit it."""

from __future__ import annotations

import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import nn

from snnrobust.data.dataset import Dataset
from snnrobust.neurons import EventDriven, FirstSpike, Latency
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.wrap import wrap


def tiny_model(temporal: bool = False, surrogate_function: nn.Module | None = None) -> SpikingModel:
    """A small fixed SpikingJelly net on inputs [N, 1, 4, 4] (or binary sequences [N, 4, 6]) with 3 classes.

    Args:
        temporal: Whether it takes sequences.
        surrogate_function: The surrogate of its nodes; ATan where left out.
    """
    features = 6 if temporal else 16
    with torch.random.fork_rng(devices=[]):  # torch initialises from the global generator
        linear = nn.Linear(features, 12), nn.Linear(12, 3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in linear:
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * 0.6)
            layer.bias.copy_(torch.rand(layer.bias.shape, generator=generator) * 0.4)
    nodes = [
        neuron.LIFNode(
            tau=2.0, decay_input=False, surrogate_function=surrogate_function or surrogate.ATan(), step_mode="m"
        )
        for _ in linear
    ]
    net = nn.Sequential(nn.Flatten(2), linear[0], nodes[0], linear[1], nodes[1])
    if temporal:
        return wrap(net, name="tiny", encoder=None, domain="binary")
    return wrap(net, name="tiny", steps=4)


def tiny_event_model() -> SpikingModel:
    """A small fixed event-driven net of first spikes on inputs [N, 1, 4, 4] with 3 classes, for `tiny_data`."""
    net = nn.Sequential(nn.Flatten(), Latency(), *_event_layers(16, -0.5), FirstSpike(1.0))
    return wrap(net, name="tiny-events", layout="N")


def tiny_time_model() -> SpikingModel:
    """A small fixed event-driven net of first spikes on spike times [N, 12, 1] with 3 classes, for `tiny_times`."""
    net = nn.Sequential(*_event_layers(12, -0.3), FirstSpike(1.0))
    return wrap(net, name="tiny-times", layout="N", silent=1.0)


def _event_layers(features: int, low: float) -> tuple[EventDriven, EventDriven]:
    """Layers of 12 and 3 neurons with fixed weights, uniform from `low` up to `low` + 2."""
    with torch.random.fork_rng(devices=[]):  # torch initialises from the global generator
        layers = (
            EventDriven(features, 12, 2, threshold=0.2, duration=1.0),
            EventDriven(12, 3, threshold=0.2, duration=1.0),
        )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_(torch.rand(layer.weight.shape, generator=generator) * 2 + low)
    return layers


def tiny_times(count: int = 12) -> Dataset:
    """Fixed random spike times for `tiny_time_model`, of which some are absent, labelled by it."""
    x = 1.4 * torch.rand((4 * count, 12, 1), generator=torch.Generator().manual_seed(1))
    x = x.clamp_max(1.0)
    model = tiny_time_model()
    y = model.predict(model.logits(x)).detach()
    decided = (y >= 0).nonzero()[:count, 0]
    return Dataset.of(x[decided], y[decided], name="tiny times")


def tiny_data(temporal: bool = False, count: int = 12) -> Dataset:
    """Fixed random samples that fit `tiny_model`, labelled by it so that each is right."""
    generator = torch.Generator().manual_seed(1)
    shape = (4 * count, 4, 6) if temporal else (4 * count, 1, 4, 4)
    x = torch.rand(shape, generator=generator)
    x = (x < 0.5).float() if temporal else x
    model = tiny_model(temporal)
    y = model.predict(model.logits(x)).detach()
    spoken = (y >= 0).nonzero()[:count, 0]  # all-zero outputs have no class
    return Dataset.of(x[spoken], y[spoken], name="tiny")
