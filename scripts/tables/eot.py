"""The table of docs/ensembles.md on stochastic nets: robust accuracy of a Poisson-coded net by draws per gradient.

    python scripts/tables/eot.py            # some minutes on two cores; needs snnrobust[data]

Robust accuracy is scored on the mean logits over 50 fresh draws, also at epsilon 0.
"""

from __future__ import annotations

import platform

import torch

import snnrobust as sr
from snnrobust import networks, neurons
from snnrobust.data import Dataset
from snnrobust.training import trainer as training

STEPS, EPSILONS, DRAWS, SAMPLES = 8, [0.0, 0.1], (1, 2, 5, 10, 20, 40), 200


def poisson(data: Dataset) -> sr.SpikingModel:
    """A 784-256-10 net trained on repeated inputs and run on Poisson spike trains."""
    build = neurons.PRESETS["vanilla"].build
    net = training.initialised(lambda: networks.mlp(lambda _: build(), (784, 256, 10)), seed=0)
    training.train(net, data, steps=STEPS, epochs=6, seed=0)
    return sr.wrap(net, steps=STEPS, encoder="poisson", name="poisson")


def tasks() -> list[sr.Task]:
    """The same attack with increasing numbers of draws for each gradient."""
    return [
        sr.load("apgd", label=str(draws), epsilon=EPSILONS, steps=20, objective="margin", eot=draws) for draws in DRAWS
    ]


def main() -> None:
    """Prints the table."""
    splits = sr.data.load("mnist5k")
    report = sr.evaluate(poisson(splits.train), splits.test.take(SAMPLES), tasks(), evidence="none")
    print(f"| draws to a gradient | epsilon {EPSILONS[0]:g} | epsilon {EPSILONS[1]:g} |\n| --- | --- | --- |")
    print(f"| clean | {report.clean()['correct'].mean():.3f} | |")
    for label in report.labels("attack"):
        print(f"| {label} | " + " | ".join(f"{value:.3f}" for value in report.curve(label).value) + " |")
    print(f"\nAPGD-20, margin, L-inf, {SAMPLES} test digits, {platform.machine()} CPU, torch {torch.__version__}")


if __name__ == "__main__":
    main()
