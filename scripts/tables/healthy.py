"""False alarms of the audit: healthy small nets, evaluated under `standard`.

    python scripts/tables/healthy.py            # some ten minutes on two cores; needs snnrobust[data]

Prints, for each net, its robust accuracy, the verdict, and which required findings failed or are missing.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable

import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import nn

import snnrobust as sr
from snnrobust import networks
from snnrobust.data import Dataset
from snnrobust.training import trainer as training

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


def healthy(kind: str, width: int, steps: int, seed: int, spiking: bool, train: Dataset) -> sr.SpikingModel:
    """A plain fully connected net with a wide surrogate, trained on digits."""

    def node(features: int) -> nn.Module:
        return neuron.LIFNode(tau=2.0, decay_input=False, surrogate_function=SURROGATES[kind](), step_mode="m")

    net = training.initialised(lambda: networks.mlp(node, (64, width, 10)), seed)
    net = net if spiking else net[:-1]
    training.train(net, train, steps=steps, epochs=8, lr=8e-3, seed=seed)
    return sr.wrap(net, name=f"{kind}-{width}-{steps}", steps=steps)


def audited_report(model: sr.SpikingModel, test: Dataset) -> sr.Report:
    """The report on the net under `standard` with fewer queries and full evidence."""
    task = sr.load("standard", epsilon=EPSILON, queries=300)
    return sr.evaluate(model, test.take(SAMPLES), [task], evidence="full", progress=False)


def main() -> None:
    """Prints the table."""
    splits, verdicts = sr.data.load("digits"), Counter[str]()
    print("| net | clean | robust | verdict | failed | missing |\n| --- | --- | --- | --- | --- | --- |")
    for kind, width, steps, seed, spiking in NETS:
        report = audited_report(healthy(kind, width, steps, seed, spiking, splits.train), splits.test)
        (claim,) = report.claims
        verdicts[claim.verdict] += 1
        name = f"{kind}, {width} neurons, T = {steps}, {'spiking' if spiking else 'graded'} output"
        cells = [f"{report.clean()['correct'].mean():.3f}", f"{claim.value:.3f}", claim.verdict]
        findings = [", ".join(names) or "none" for names in (claim.failed, claim.missing)]
        print("| " + " | ".join([name, *cells, *findings]) + " |", flush=True)
    print(f"\nVerdicts: {dict(verdicts)}. {SAMPLES} test digits (8 x 8), L-inf {EPSILON}, ", end="")
    print(f"{platform.machine()} CPU, torch {torch.__version__}")


if __name__ == "__main__":
    main()
