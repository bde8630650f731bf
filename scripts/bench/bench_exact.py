"""Compares the accelerated model with the net, for `bench.py`: each spike, and the sign of each gradient entry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from bench_nets import Setting
from torch import Tensor, nn
from torch.nn import functional

import snnrobust as sr
from snnrobust.acceleration.model import AcceleratedModel
from snnrobust.acceleration.node import FastNode
from snnrobust.data import Dataset, Splits
from snnrobust.spike_gradients.swap import Own

#: Samples that are compared at once.
BATCH = 100
#: Steps to an adversarial input.
ASCENTS = 5

Spikes = dict[str, Tensor]


def exact(nets: Iterable[tuple[Setting, nn.Module, Splits]], neuron_steps: int) -> list[dict[str, Any]]:
    """Compares nets until `neuron_steps` membrane potentials were compared, half of them on adversarial inputs.

    Each net gets an equal part; the part that small data sets can't use goes to the other nets.
    """
    compared = [_Compared(*each) for each in nets]
    left = neuron_steps
    for number, each in enumerate(sorted(compared, key=lambda one: one.available)):
        left -= each.run(left // (len(compared) - number))
    return [each.row for each in compared]


class _Compared:
    """Compares one net with its accelerated model."""

    def __init__(self, setting: Setting, net: nn.Module, splits: Splits) -> None:
        self._setting = setting
        self._model = setting.wrap(net)
        self._parts = [splits.test, splits.train, splits.validation]
        with self._model.session():
            few = splits.test.take(min(8, len(splits.test)))
            self._accelerated = AcceleratedModel(self._model, Own())
            self._accelerated.compare(few.x, few.index)
            self._a_sample = sum(each[:, 0].numel() for each in self._eager(few.x[:1], few.y[:1])[0].values())
        counts = ("neuron_steps", "adversarial_neuron_steps", "spikes", "spikes_off", "samples_off")
        signs = ("gradient_entries", "signs_off", "zeros", "zeros_off")
        self.row: dict[str, Any] = {"setting": setting.name, "about": setting.about, **dict.fromkeys(counts + signs, 0)}

    @property
    def available(self) -> int:
        """Neuron-steps of all the data, each sample once clean and once attacked."""
        return 2 * self._a_sample * sum(map(len, self._parts))

    def run(self, neuron_steps: int) -> int:
        """Compares up to about `neuron_steps`; returns the number compared."""
        samples = -(-neuron_steps // (2 * self._a_sample))
        with self._model.session():
            for number, part in enumerate(self._batches(samples)):
                self._compare(part.x, part.y, adversarial=False)
                radius = self._setting.epsilons[number % len(self._setting.epsilons)]
                self._compare(self._attacked(part, radius), part.y, adversarial=True)
        return int(self.row["neuron_steps"])

    def _batches(self, samples: int) -> Iterator[Dataset]:
        for part in self._parts:
            for at in range(0, min(samples, len(part)), BATCH):
                yield part.select(torch.arange(at, min(at + BATCH, samples, len(part))))
            samples -= min(samples, len(part))

    def _attacked(self, part: Dataset, radius: float) -> Tensor:
        x = part.x
        for _ in range(ASCENTS):
            moved = x + 2.5 * radius / ASCENTS * self._fast(x, part.y)[1].sign()
            x = (part.x + (moved - part.x).clamp(-radius, radius)).clamp(0, 1)
        return x

    def _compare(self, x: Tensor, y: Tensor, *, adversarial: bool) -> None:
        (spikes, gradient), (ours, our_gradient) = self._eager(x, y), self._fast(x, y)
        row, off = self.row, torch.zeros(len(x), dtype=torch.bool)
        for name, each in spikes.items():  # [T, N, *]
            differs = each != ours[name]
            row["neuron_steps"] += each.numel()
            row["adversarial_neuron_steps"] += each.numel() if adversarial else 0
            row["spikes"] += int(each.sum())
            row["spikes_off"] += int(differs.sum())
            off |= differs.transpose(0, 1).flatten(1).any(dim=1)
        row["samples_off"] += int(off.sum())
        row["gradient_entries"] += gradient.numel()
        row["signs_off"] += int((gradient.sign() != our_gradient.sign()).sum())
        row["zeros"] += int((gradient == 0).sum())
        row["zeros_off"] += int(((gradient == 0) != (our_gradient == 0)).sum())

    def _eager(self, x: Tensor, y: Tensor) -> tuple[Spikes, Tensor]:
        """Spikes of each node that has a fast kernel, and the gradient to the input, of the net itself."""
        spikes: Spikes = {}
        with ExitStack() as stack:
            for name in self._accelerated.fast:
                hook = self._model.net.get_submodule(name).register_forward_hook(
                    lambda module, inputs, out, name=name: spikes.__setitem__(name, out.detach())
                )
                stack.callback(hook.remove)
            return spikes, _gradient(self._model, x, y)

    def _fast(self, x: Tensor, y: Tensor) -> tuple[Spikes, Tensor]:
        """The same of the accelerated model: its spikes before any pooling that is fused with a node."""
        currents: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for name, fast in self._accelerated.fast.items():
                hook = fast.register_forward_pre_hook(
                    lambda module, inputs, name=name: currents.__setitem__(name, inputs[0].detach())
                )
                stack.callback(hook.remove)
            gradient = _gradient(self._accelerated, x, y)
        spikes = {name: _unpooled(self._accelerated.fast[name], current) for name, current in currents.items()}
        return {name: each[:, : len(x)] for name, each in spikes.items()}, gradient  # small batches are padded


@torch.no_grad()
def _unpooled(fast: FastNode, current: Tensor) -> Tensor:
    with _without_pooling(fast):
        spikes: Tensor = fast(current)
    return spikes


@contextmanager
def _without_pooling(fast: FastNode) -> Iterator[None]:
    pool, fast.pool = fast.pool, None
    try:
        yield
    finally:
        fast.pool = pool


def _gradient(model: sr.SpikingModel | AcceleratedModel, x: Tensor, y: Tensor) -> Tensor:
    at = x.clone().requires_grad_()
    return torch.autograd.grad(functional.cross_entropy(model.logits(at), y, reduction="sum"), at)[0]
