"""The table of docs/ensembles.md on ties: Square with and without accepting proposals of equal objective.

    python scripts/tables/ties.py            # a few minutes on two cores; needs snnrobust[data]

A rate read-out over four steps has few distinct values, so most proposals don't change the margin.
"""

from __future__ import annotations

import platform

import torch

import snnrobust as sr
from snnrobust import networks, neurons
from snnrobust.data import Dataset
from snnrobust.training import trainer as training

STEPS, EPSILON, QUERIES, SAMPLES = 4, 0.1, 600, 200
VARIANTS = ("vanilla", "no-leak", "complete-leak")


def rate_coded(variant: str, data: Dataset) -> sr.SpikingModel:
    """A trained 784-256-10 net whose outputs are spikes, read out as rates."""
    build = neurons.PRESETS[variant].build
    net = training.initialised(lambda: networks.mlp(lambda _: build(), (784, 256, 10)), seed=0)
    training.train(net, data, steps=STEPS, epochs=6, seed=0)
    return sr.wrap(net, steps=STEPS, name=variant)


def tasks() -> list[sr.Task]:
    """The same search with and without accepting ties, with the same number of queries."""
    return [
        sr.load("square", label=label, epsilon=EPSILON, steps=QUERIES, objective="margin", ties=ties)
        for label, ties in (("strict", False), ("ties accepted", True))
    ]


def main() -> None:
    """Prints the table."""
    splits = sr.data.load("mnist5k")
    models = {variant: rate_coded(variant, splits.train) for variant in VARIANTS}
    report = sr.evaluate(models, splits.test.take(SAMPLES), tasks(), evidence="none")
    print("| net | clean | Square, strict | Square, ties accepted |\n| --- | --- | --- | --- |")
    for variant in VARIANTS:
        shares = [report.clean(variant)["correct"].mean()]
        shares += [report.curve(label, variant).value[0] for label in report.labels("attack")]
        print(f"| {variant} | " + " | ".join(f"{share:.3f}" for share in shares) + " |")
    print(f"\nEpsilon {EPSILON} (L-inf), {QUERIES} queries, {SAMPLES} test digits, ", end="")
    print(f"{platform.machine()} CPU, torch {torch.__version__}")


if __name__ == "__main__":
    main()
