"""How far membrane potentials are from the threshold, which spikes flip under noise, where surrogates are active."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_count, check_positive, is_positive
from snnrobust.data.dataset import Dataset
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.data.padding import keep_padding
from snnrobust.errors import InputError
from snnrobust.measurements.recorded_layers import check_recorded
from snnrobust.plugin.task import Task
from snnrobust.results.records import Record
from snnrobust.spike_gradients.swap import Own
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.recording import SpikeFunction


@dataclass(frozen=True)
class ThresholdMargins:
    """How close the membrane potentials u are to the threshold, as shares of neurons x samples by layer and time step.

    - "near_threshold:LAYER": share with |u - threshold| < delta |threshold|, one record for each delta. Where it is
      high, small changes of the input add or remove spikes.
    - "spike_flips:LAYER": share whose spike appears or disappears with noise of size `epsilon` on the input: uniform in
      +-epsilon for real inputs; for event data each entry changes by one event, up or down, with probability `epsilon`.
      Inputs stay within bounds, and padding does not change. A random change, not a worst case.
    - "surrogate_active:LAYER": share at which the derivative of the model's own surrogate is not exactly zero. Where it
      is low, gradients vanish, and gradient-based attacks with the own surrogate are weak. 0 for CLIF nodes
      (ComplementaryLIFNode), which don't use their surrogate in eval mode.

    u is the membrane potential before the reset; the threshold of a node without one counts as 1. The record's strength
    is the step, from 1. Padding is left out. A stochastic model is measured at one draw, the same with and without
    noise.

    Attributes:
        deltas: Distances as shares of the threshold.
        epsilon: Size of the input noise, in input units; for event data a probability.
        samples: Number of test samples, the first ones (all if there are fewer).

    Raises:
        InputError: If a delta or epsilon is not positive and finite, or `samples` is below 1.
    """

    deltas: tuple[float, ...] = (0.01, 0.1)
    epsilon: float = 0.01
    samples: int = 256

    def __post_init__(self) -> None:
        check_count("samples", self.samples)
        if not isinstance(self.deltas, Sequence) or not self.deltas or not all(map(is_positive, self.deltas)):
            raise InputError(f"expected deltas > 0, one or more, got {self.deltas!r}; give shares of the threshold")
        check_positive("epsilon", self.epsilon, "give the size of the noise")
        object.__setattr__(self, "deltas", tuple(self.deltas))  # a list, as a configuration file has it

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless comparisons can be recorded, and epsilon is a probability for event data."""
        check_recorded(model, data.test, "threshold-margins", comparisons=True)
        self._check_epsilon(model)

    def _check_epsilon(self, model: SpikingModel) -> None:
        if model.domain != "real" and self.epsilon > 1:
            raise InputError(
                f"expected epsilon <= 1 in domain '{model.domain}', got {self.epsilon:g}; give the probability that an "
                f"entry changes by one event"
            )

    @torch.no_grad()
    def measure(self, model: SpikingModel, data: EvaluationData, rng: Draws) -> Iterable[Record]:
        """Records of all of the above."""
        self._check_epsilon(model)
        test = data.test.take(min(self.samples, len(data.test)))
        layers: dict[str, _Layer] = {}
        with model.session():
            for rows in torch.split(torch.arange(len(test)), data.batch_size):
                part = test.select(rows)
                clean = model.record(part.x, keys=part.index)
                noisy = model.record(self._noisy(part, model, rng), keys=part.index).spikes
                for name, u in clean.distances.items():
                    layer = layers.setdefault(name, _Layer())
                    shares = {f"near {d}": u.abs() < d * clean.thresholds[name] for d in self.deltas}
                    shares["flips"] = noisy[name] != clean.spikes[name]
                    shares["active"] = _own_gradient(clean.surrogates[name], u) != 0
                    layer.add(shares, part.lengths)
        return [record for name, layer in layers.items() for record in self._records(name, layer, model)]

    def _noisy(self, part: Dataset, model: SpikingModel, rng: Draws) -> Tensor:
        """The inputs [N, *] with keyed noise, clipped to the bounds."""
        low, high = model.bounds
        x = part.x.to(device=model.device, dtype=model.dtype)
        rng, shape = rng.on(x), x.shape[1:]
        if model.domain == "real":
            noise = rng.sub("noise").uniform(part.index, shape, 0, -self.epsilon, self.epsilon)
        else:
            up = rng.sub("sign").uniform(part.index, shape) < 0.5
            change = torch.where((up | (x <= low)) & (x < high), 1.0, -1.0)
            noise = change * (rng.sub("where").uniform(part.index, shape) < self.epsilon)
        return keep_padding((x + noise).clamp(low, high), x, part.lengths)

    def _records(self, name: str, layer: _Layer, model: SpikingModel) -> Iterator[Record]:
        if model.domain == "real":
            noise = f"uniform input noise in +-{self.epsilon:g}"
        else:
            noise = f"input entries moved by one with probability {self.epsilon:g}"
        kinds = {f"near {d}": ("near_threshold", f"|u - threshold| < {d:g} threshold") for d in self.deltas}
        kinds |= {"flips": ("spike_flips", noise), "active": ("surrogate_active", "own surrogate")}
        for kind, (quantity, what) in kinds.items():
            for step, (share, count) in enumerate(zip(layer.shares(kind), layer.samples, strict=True), start=1):
                if count:
                    yield Record(
                        f"{quantity}:{name}",
                        share,
                        count=count,
                        strength=step,
                        unit="step",
                        threat=what,
                        quantity=quantity,
                        layer=name,
                    )


@dataclass
class _Layer:
    """Counts of a layer over the batches, by step."""

    neurons: int = 0
    samples: list[int] = field(default_factory=list)
    hits: dict[str, list[int]] = field(default_factory=dict)

    def add(self, shares: dict[str, Tensor], lengths: Tensor | None) -> None:
        """Adds a batch of booleans, [N, T, *] each."""
        for kind, yes in shares.items():
            valid = torch.ones(yes.shape[:2], dtype=torch.bool, device=yes.device)  # [N, T]
            if lengths is not None:
                valid = torch.arange(yes.shape[1], device=yes.device) < lengths.to(yes.device)[:, None]
            counts = (yes.flatten(2).sum(dim=2) if yes.ndim > 2 else yes.long()) * valid  # [N, T]
            self.hits[kind] = _plus(self.hits.get(kind), counts.sum(dim=0))
        self.neurons = yes[0, 0].numel()
        self.samples = _plus(self.samples, valid.sum(dim=0))

    def shares(self, kind: str) -> list[float]:
        """The share at each step; NaN at steps that no sample reaches."""
        return [
            hits / (count * self.neurons) if count else math.nan
            for hits, count in zip(self.hits[kind], self.samples, strict=True)
        ]


def _plus(total: list[int] | None, more: Tensor) -> list[int]:
    added: list[int] = more.tolist()
    return added if not total else [a + b for a, b in zip(total, added, strict=True)]


def _own_gradient(surrogate: SpikeFunction | None, u: Tensor) -> Tensor:
    """What a gradient in eval mode is multiplied by at a spike, of the shape of u."""
    return torch.zeros_like(u) if surrogate is None else Own().backward(u, {"surrogate": surrogate})
