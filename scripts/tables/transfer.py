"""The table of docs/ensembles.md on transfer attacks between LIF variants and an ANN.

    python scripts/tables/transfer.py            # a few minutes on two cores; needs snnrobust[data]

The five variants of Yin et al. 2024 share an architecture; the ANN has ReLUs instead of spiking neurons.
"""

from __future__ import annotations

import platform

import torch
from torch import nn

import snnrobust as sr
from snnrobust import demo, networks, neurons
from snnrobust.data import Dataset
from snnrobust.training import trainer as training

STEPS, EPSILON, SAMPLES = 4, 0.1, 200


def models(data: Dataset) -> dict[str, sr.SpikingModel]:
    """The five variants and the ANN, 784-256-10 each, trained in the same way."""
    built: dict[str, sr.SpikingModel] = {}
    for variant in demo.VARIANTS:
        build = neurons.PRESETS[variant].build
        recurrent = neurons.PRESETS[variant].recurrent
        net = training.initialised(
            lambda build=build, recurrent=recurrent: networks.mlp(
                lambda features: build(features=features) if recurrent else build(), (784, 256, 10)
            ),
            seed=0,
        )
        training.train(net, data, steps=STEPS, epochs=6, seed=0)
        built[variant] = sr.wrap(net, steps=STEPS, name=variant)
    return built | {"ANN": sr.wrap(ann(data), layout="N", name="ANN")}


def ann(data: Dataset, epochs: int = 6) -> nn.Module:
    """A ReLU net with the same layer sizes."""
    net = training.initialised(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10)), seed=0
    )
    optimiser, rng = torch.optim.Adam(net.parameters(), lr=1e-3), torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(data), generator=rng), 50):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(data.x[rows]), data.y[rows]).backward()
            optimiser.step()
    return net.eval()


def main() -> None:
    """Prints the matrix."""
    splits = sr.data.load("mnist5k")
    nets = models(splits.train)
    tasks = [sr.load("pgd", label=name, epsilon=EPSILON, steps=50, source=name) for name in nets]
    report = sr.evaluate(nets, splits.test.take(SAMPLES), tasks, evidence="none")
    print("| source \\ target | " + " | ".join(nets) + " |\n|" + " --- |" * (len(nets) + 1))
    clean = [report.clean(name)["correct"].mean() for name in nets]
    print("| (clean) | " + " | ".join(f"{share:.3f}" for share in clean) + " |")
    for source in nets:
        row = [report.curve(source, target).value[0] for target in nets]
        print(f"| {source} | " + " | ".join(f"{value:.3f}" for value in row) + " |")
    print(f"\nPGD-50 through each net's own surrogate, L-inf {EPSILON}, {SAMPLES} test digits, ", end="")
    print(f"{platform.machine()} CPU, torch {torch.__version__}")


if __name__ == "__main__":
    main()
