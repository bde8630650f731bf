"""No false alarm: nets with nothing wrong about them fail no finding that costs trust."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from spikingjelly.activation_based import neuron, surrogate
from torch import nn

import snnrobust as sr
from snnrobust import nets, training

SAMPLES, EPSILON = 120, 0.1
SURROGATES: dict[str, Callable[[], nn.Module]] = {
    "atan": lambda: surrogate.ATan(alpha=2.0),
    "sigmoid": lambda: surrogate.Sigmoid(alpha=4.0),
    "atan-wide": lambda: surrogate.ATan(alpha=1.0),
}
#: Surrogate, width of the hidden layer, time steps, seed, and whether the output layer spikes.
NETS = [
    (kind, width, steps, seed, spiking)
    for steps in (2, 4, 8)
    for seed, (kind, width, spiking) in enumerate(
        [
            ("atan", 32, True),
            ("atan", 128, True),
            ("sigmoid", 64, True),
            ("atan-wide", 64, True),
            ("atan", 32, False),
            ("sigmoid", 128, False),
            ("atan-wide", 64, False),
        ]
    )
]


def healthy(kind: str, width: int, steps: int, seed: int, spiking: bool, train: sr.Dataset) -> sr.SpikingModel:
    """A plain fully connected net with a wide surrogate, trained on digits."""

    def node(features: int) -> nn.Module:
        return neuron.LIFNode(tau=2.0, decay_input=False, surrogate_function=SURROGATES[kind](), step_mode="m")

    net = training.initialised(lambda: nets.mlp(node, (64, width, 10)), seed)
    net = net if spiking else net[:-1]
    training.train(net, train, steps=steps, epochs=8, lr=8e-3, seed=seed)
    return sr.wrap(net, name=f"{kind}-{width}-{steps}", steps=steps)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "width", "steps", "seed", "spiking"),
    NETS,
    ids=[f"{kind}-{width}-T{steps}-{'spikes' if spiking else 'graded'}" for kind, width, steps, _, spiking in NETS],
)
def test_a_healthy_net_raises_no_alarm(kind: str, width: int, steps: int, seed: int, spiking: bool) -> None:
    pytest.importorskip("sklearn", reason="needs real digits: pip install 'snnrobust[data]'")
    splits = sr.data.load("digits")
    model = healthy(kind, width, steps, seed, spiking, splits.train)
    task = sr.load("standard", epsilon=EPSILON)
    report = sr.evaluate(model, splits.test.take(SAMPLES), [task], evidence="full")
    assert report.clean()["correct"].mean() >= 0.85  # else it shows nothing
    alarms = [
        (each.name, each.label, each.strength, each.value, each.threshold, each.why)
        for each in report.findings
        if each.passed is False and (each.fatal or each.required)
    ]
    assert alarms == []
    assert report.verdict != "untrustworthy"
