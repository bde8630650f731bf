"""The masking table of the README: one net with a sharp surrogate, attacked through two gradient estimators.

    python scripts/tables/masking.py            # about a minute on two cores; needs snnrobust[data]

Prints a Markdown table of robust accuracy under PGD-20 and the verdict.
"""

from __future__ import annotations

import platform

import torch
from spikingjelly.activation_based import layer, neuron, surrogate
from torch import nn

import snnrobust as sr
from snnrobust.data import Dataset
from snnrobust.training import trainer as training

EPSILONS = [0.1, 0.2, 0.3]


def node() -> nn.Module:
    sharp = surrogate.Sigmoid(alpha=25.0)
    return neuron.LIFNode(tau=2.0, decay_input=False, surrogate_function=sharp, step_mode="m")


def block(channels_in: int, channels: int) -> list[nn.Module]:
    convolution = layer.Conv2d(channels_in, channels, 3, padding=1, bias=False, step_mode="m")
    return [convolution, layer.BatchNorm2d(channels, step_mode="m"), node(), layer.AvgPool2d(2, step_mode="m")]


def victim(data: Dataset, seed: int = 0) -> sr.SpikingModel:
    """A small convolutional net trained with Sigmoid(alpha=25); its output layer does not spike."""
    net = training.initialised(
        lambda: nn.Sequential(*block(1, 8), *block(8, 16), nn.Flatten(2), nn.Linear(16 * 7 * 7, 10)), seed
    )
    training.train(net, data, steps=4, epochs=4, lr=2e-3, seed=seed)
    return sr.wrap(net, steps=4, name="sigmoid-25")


def tasks() -> list[sr.Task]:
    """PGD-20 with the net's own surrogate, and with ATan(2)."""
    return [
        sr.load("pgd", label=gradient, epsilon=EPSILONS, steps=20, gradient=gradient) for gradient in ("own", "atan")
    ]


def main() -> None:
    splits = sr.data.load("mnist5k")
    report = sr.evaluate(victim(splits.train), splits.test.take(500), tasks())

    print(
        f"Clean accuracy {report.clean()['correct'].mean():.1%}, {len(report.clean()['correct'])} test digits, "
        f"{platform.machine()} CPU, torch {torch.__version__}\n"
    )
    print("| PGD-20, gradient through | " + " | ".join(f"epsilon {epsilon:g}" for epsilon in EPSILONS) + " |")
    print("| --- |" + " --- |" * len(EPSILONS))
    for label, name in (("own", "the net's own Sigmoid(25)"), ("atan", "ATan(2)")):
        curve = report.curve(label)
        cells = (
            f"{v:.1%} ({low:.1%} to {high:.1%})"
            for v, low, high in zip(curve.value, curve.low, curve.high, strict=True)
        )
        print(f"| {name} | " + " | ".join(cells) + " |")
    print(f"\nVerdict: {report.verdict}")


if __name__ == "__main__":
    main()
