"""Events of bars that move with one of ten velocities, and a small convolutional net that learns them."""

from __future__ import annotations

import torch
from spikingjelly.activation_based import functional as spiking
from spikingjelly.activation_based import layer, neuron, surrogate
from torch import Tensor, nn
from torch.nn import functional

import snnrobust as sr
from snnrobust.data import Dataset
from snnrobust.threat_models.threat_model import Domain
from snnrobust.training import trainer

STEPS, SIZE = 5, 9
#: Pixels a step, along the rows or the columns. Ten classes, since JSMA takes no fewer.
SPEEDS = (-2, -1, 0, 1, 2)
CLASSES = 2 * len(SPEEDS)
#: Chance that an entry is flipped.
NOISE = 0.03


def events(count: int, seed: int) -> Dataset:
    """Binary events [N, T, 2, 9, 9] of bars: polarity 0 at the leading edge, 1 at the trailing one, and noise."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (count,), generator=generator)
    start = torch.randint(SIZE, (count,), generator=generator)
    x = torch.zeros(count, STEPS, 2, SIZE, SIZE)
    for n, (label, first) in enumerate(zip(y.tolist(), start.tolist(), strict=True)):
        speed, along_columns = SPEEDS[label // 2], label % 2
        frames = x[n].transpose(2, 3) if along_columns else x[n]  # a view
        for t in range(STEPS):
            for polarity, edge in enumerate((first + speed * t, first + speed * t - 2)):
                frames[t, polarity, edge % SIZE, 2:7] = 1
    flipped = torch.rand(x.shape, generator=generator) < NOISE
    return Dataset.of((x - flipped.float()).abs(), y, name="moving bars")


def graded(data: Dataset, seed: int) -> Dataset:
    """The same as real values in [0, 1]: entries of .85 and .05 with uniform noise of up to .1 added."""
    noise = torch.rand(data.x.shape, generator=torch.Generator().manual_seed(seed))
    return Dataset.of(0.05 + 0.8 * data.x + 0.1 * noise, data.y, name=data.name)


def _net() -> nn.Sequential:
    def node() -> neuron.LIFNode:
        return neuron.LIFNode(tau=2.0, decay_input=False, surrogate_function=surrogate.ATan(), step_mode="m")

    return nn.Sequential(
        layer.Conv2d(2, 8, 3, padding=1, stride=2, step_mode="m"),
        node(),
        nn.Flatten(2),
        nn.Linear(8 * 5 * 5, 64),
        node(),
        nn.Linear(64, CLASSES),
    )


def trained(data: Dataset, epochs: int, domain: Domain) -> sr.SpikingModel:
    """The net after Adam on the cross entropy of its mean output, wrapped for inputs of a domain."""
    net = trainer.initialised(_net, seed=0)
    adam = torch.optim.Adam(net.parameters(), lr=4e-3)
    order = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(data), generator=order).split(50):
            spiking.reset_net(net)
            outputs: Tensor = net(data.x[rows].transpose(0, 1))  # [T, N, K]
            loss = functional.cross_entropy(outputs.mean(0), data.y[rows])
            adam.zero_grad()
            loss.backward()
            adam.step()
    spiking.reset_net(net)
    return sr.wrap(net, name=domain, encoder=None, domain=domain)
