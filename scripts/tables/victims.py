"""Small nets on 5000 MNIST digits to try attacks on: with masked gradients, healthy, and adversarially trained.

    python scripts/tables/victims.py FOLDER     # trains victims missing in FOLDER, then measures; needs snnrobust[data]

Prints a Markdown table of clean accuracy, robust accuracy under PGD-20, and the time of a forward and backward pass.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from spikingjelly.activation_based import functional as spiking
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor, nn
from torch.nn import functional

import snnrobust as sr
from snnrobust import networks
from snnrobust.data import Dataset
from snnrobust.training import trainer as training

STEPS = 4
PGD_STEPS = 5  # in adversarial training


@dataclass(frozen=True)
class Victim:
    """A net and how it is trained.

    Attributes:
        name: Key of `VICTIMS` and name of its file.
        surrogate: The surrogate of its training.
        epsilon: The Linf radius of the attacks.
        build: Builds the untrained net.
        fit: Trains the net in place on the data from a seed.
    """

    name: str
    surrogate: str
    epsilon: float
    build: Callable[[], nn.Module]
    fit: Callable[[nn.Module, Dataset, int], object]


def node(function: nn.Module, v: float = 1.0) -> neuron.LIFNode:
    """A leaky integrate-and-fire node with threshold v and decay 1/2, reset to 0."""
    return neuron.LIFNode(tau=2.0, decay_input=False, v_threshold=v, surrogate_function=function, step_mode="m")


def mlp(function: Callable[[], nn.Module], hidden: int = 256) -> Callable[[], nn.Module]:
    """784-hidden-10 with one spiking layer; its output does not spike."""
    return lambda: nn.Sequential(nn.Flatten(2), nn.Linear(784, hidden), node(function()), nn.Linear(hidden, 10))


def deep(function: Callable[[], nn.Module], threshold: float, hidden: tuple[int, ...]) -> Callable[[], nn.Module]:
    """784-hidden-10, all layers spiking, with He initialisation times the threshold, so that firing rates are equal.

    The width of the surrogate is not scaled: the larger the threshold, the fewer membrane potentials are where its
    slope is not 0, and gradients shrink with every layer.
    """

    def build() -> nn.Module:
        net = networks.mlp(lambda _: node(function(), threshold), (784, *hidden, 10))
        for linear in (module for module in net if isinstance(module, nn.Linear)):
            linear.weight.data *= threshold
        return net

    return build


def plain(epochs: int, lr: float) -> Callable[[nn.Module, Dataset, int], object]:
    """Training on clean digits."""
    return lambda net, data, seed: training.train(net, data, steps=STEPS, epochs=epochs, lr=lr, seed=seed)


def annealed(
    amplitude: float, start: float, end: float, epochs: int, lr: float
) -> Callable[[nn.Module, Dataset, int], object]:
    """Training on clean digits and on as many with each pixel changed by +-`amplitude`, clipped to [0, 1].

    The surrogates, Sigmoid(alpha), start wide, because a narrow one doesn't train a deep net: in epoch e = 0, 1, ... of
    E, alpha = start (end / start)^((e / (E - 1))^3), so that the learning rate is small when alpha is large.
    """

    def fit(net: nn.Module, data: Dataset, seed: int) -> None:
        rng = torch.Generator().manual_seed(seed)
        noise = amplitude * (2 * torch.rand(data.x.shape, generator=rng) - 1).sign()
        both = Dataset.of(torch.cat([data.x, (data.x + noise).clamp(0, 1)]), data.y.repeat(2))

        def sharpen(epoch: int) -> None:
            done = min(1.0, epoch / (epochs - 1))
            for module in net.modules():
                if isinstance(module, surrogate.Sigmoid):
                    module.alpha = start * (end / start) ** (done**3)

        sharpen(0)
        training.train(
            net, both, steps=STEPS, epochs=epochs, lr=lr, seed=seed, progress=lambda epoch, *_: sharpen(epoch)
        )

    return fit


def harden(net: nn.Module, data: Dataset, seed: int, *, epsilon: float, epochs: int = 15, lr: float = 2e-3) -> None:
    """Adversarial training of `net` in place, on PGD examples only (Madry et al. 2018, arXiv 1706.06083).

    PGD uses the net's own surrogate. The radius grows linearly over the first third of the epochs.

    Args:
        net: Maps [T, N, *] to [T, N, K].
        data: Samples [N, *] in [0, 1].
        seed: Seed of the order of samples and of the random starts.
        epsilon: The final Linf radius.
        epochs: Passes over the data.
        lr: Initial learning rate of Adam; cosine annealing to 0.
    """
    rng = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(net.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    net.train()
    for epoch in range(epochs):
        radius = epsilon * min(1.0, 3 * (epoch + 1) / epochs)
        for at in torch.split(torch.randperm(len(data), generator=rng), 50):
            x, y = data.x[at], data.y[at]
            x_adv = (x + radius * (2 * torch.rand(x.shape, generator=rng) - 1)).clamp(0, 1)
            for _ in range(PGD_STEPS):
                x_adv.requires_grad_()
                (gradient,) = torch.autograd.grad(loss(net, x_adv, y), x_adv)
                x_adv = x_adv.detach() + 2.5 * radius / PGD_STEPS * gradient.sign()
                x_adv = (x + (x_adv - x).clamp(-radius, radius)).clamp(0, 1)
            optimiser.zero_grad()
            torch.autograd.backward(loss(net, x_adv, y))
            optimiser.step()
        schedule.step()
    net.eval()
    spiking.reset_net(net)


def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross entropy of the net's mean output for samples x [N, *], after a reset."""
    spiking.reset_net(net)
    return functional.cross_entropy(net(x.expand(STEPS, *x.shape)).mean(0), y)


ATAN2, ATAN8 = partial(surrogate.ATan, 2.0), partial(surrogate.ATan, 8.0)
SIGMOID25, QUADRATIC = partial(surrogate.Sigmoid, 25.0), partial(surrogate.PiecewiseQuadratic, 1.0)

VICTIMS: dict[str, Victim] = {
    victim.name: victim
    for victim in (
        Victim(
            "sigmoid-25",
            "Sigmoid(25)",
            0.3,
            deep(SIGMOID25, 4.5, (512, 512, 256)),
            annealed(0.3, 2 / 3, 25.0, 10, 4.5e-3),
        ),
        Victim("atan-2", "ATan(2)", 0.1, mlp(ATAN2), plain(6, 2e-3)),
        Victim("atan-8", "ATan(8)", 0.1, mlp(ATAN8), plain(6, 2e-3)),
        Victim("piecewise-quadratic", "PiecewiseQuadratic(1)", 0.1, mlp(QUADRATIC), plain(6, 2e-3)),
        Victim("adversarial-atan-2", "ATan(2)", 0.1, mlp(ATAN2), partial(harden, epsilon=0.1)),
        Victim("adversarial-atan-8", "ATan(8)", 0.1, mlp(ATAN8), partial(harden, epsilon=0.1)),
        Victim("adversarial-quadratic", "PiecewiseQuadratic(1)", 0.1, mlp(QUADRATIC), partial(harden, epsilon=0.1)),
    )
}


def load(name: str, folder: Path, seed: int = 0) -> sr.SpikingModel:
    """Loads a victim from `folder`; on first use, trains it and saves its weights there.

    Args:
        name: A key of `VICTIMS`.
        folder: Folder of the weights, one file for each victim and seed.
        seed: Seed of the initial weights and of the training.
    """
    victim, file = VICTIMS[name], Path(folder) / f"{name}-{seed}.pt"
    net = training.initialised(victim.build, seed)
    if file.is_file():
        net.load_state_dict(torch.load(file, weights_only=True))
    else:
        victim.fit(net, sr.data.load("mnist5k").train, seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(net.state_dict(), file)
    return sr.wrap(net.eval().requires_grad_(False), steps=STEPS, name=name)


def seconds(model: sr.SpikingModel, data: Dataset) -> float:
    """Median time of a forward and backward pass on all data."""
    times, x = [], data.x.clone().requires_grad_()
    for _ in range(5):
        started = time.perf_counter()
        torch.autograd.grad(functional.cross_entropy(model.logits(x), data.y), x)
        times.append(time.perf_counter() - started)
    return sorted(times)[2]


def main() -> None:
    folder, test = Path(sys.argv[1]), sr.data.load("mnist5k").test
    print("| victim | surrogate | clean | epsilon | PGD-20 own | PGD-20 ATan(2) | seconds for 250 |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for victim in VICTIMS.values():
        model = load(victim.name, folder)
        settings = {"epsilon": victim.epsilon, "steps": 20}
        tasks = [sr.load("pgd", label=each, gradient=each, **settings) for each in ("own", "atan")]
        report = sr.evaluate(model, test.take(500), tasks, evidence="none")
        clean = training.accuracy(model.net, test, steps=STEPS)
        own, atan = (report.curve(label).value[0] for label in ("own", "atan"))
        took = seconds(model, test.take(250))
        figures = f"{clean:.1%} | {victim.epsilon:g} | {own:.1%} | {atan:.1%} | {took:.3f}"
        print(f"| {victim.name} | {victim.surrogate} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
