"""The masking table of the README: one net with a sharp surrogate, attacked through two gradient estimators.

    python scripts/masking.py            # about a minute on two cores; needs snnrobust[data]

Prints a Markdown table of robust accuracy under PGD-20 and the verdict.
"""

from __future__ import annotations

import platform

import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import nn

import snnrobust as sr
from snnrobust import nets, training

EPSILONS = [0.1, 0.2, 0.3]


def node(_: int) -> nn.Module:
    sharp = surrogate.Sigmoid(alpha=25.0)
    return neuron.LIFNode(tau=2.0, decay_input=False, surrogate_function=sharp, step_mode="m")


def main() -> None:
    splits = sr.data.load("mnist5k")
    net = training.initialised(lambda: nets.conv(node, channels=(8, 16))[:-1], seed=0)
    training.train(net, splits.train, steps=4, epochs=4, lr=2e-3)
    tasks = [
        sr.load("pgd", label=gradient, epsilon=EPSILONS, steps=20, gradient=gradient) for gradient in ("own", "atan")
    ]
    report = sr.evaluate(sr.wrap(net, steps=4, name="sigmoid-25"), splits.test.take(500), tasks)

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
