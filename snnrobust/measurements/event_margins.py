"""How far the neurons of event-driven layers are from one more spike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_count, is_positive
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.errors import InputError
from snnrobust.neurons.event_driven import EventDriven, EventDrivenConv2d
from snnrobust.plugin.task import Task
from snnrobust.results.records import Record
from snnrobust.wrapping.model import SpikingModel

EventLayer = EventDriven | EventDrivenConv2d


@dataclass(frozen=True)
class EventMargins:
    """Exact margins of event-driven neurons, max u / threshold - 1 after the last spike, by layer.

    The largest membrane potential u is taken in closed form over all intervals between events up to the end of the
    window. Neurons that have all the spikes they may have are left out, and so are those that no input spike reaches.

    - "spike_margin:LAYER": the mean over neurons x samples, from -1 (at rest) to 0 (one more spike).
    - "near_spike:LAYER": share with a margin above -delta, one record for each delta. Where it is high, small changes
      of the input add spikes.
    - "silent:LAYER": share of all neurons x samples without a spike.

    Attributes:
        deltas: Distances as shares of the threshold.
        samples: Number of test samples, the first ones (all if there are fewer).

    Raises:
        InputError: If a delta is not positive and finite, or `samples` is below 1.
    """

    deltas: tuple[float, ...] = (0.01, 0.1)
    samples: int = 256

    def __post_init__(self) -> None:
        check_count("samples", self.samples)
        if not isinstance(self.deltas, Sequence) or not self.deltas or not all(map(is_positive, self.deltas)):
            raise InputError(f"expected deltas > 0, one or more, got {self.deltas!r}; give shares of the threshold")
        object.__setattr__(self, "deltas", tuple(self.deltas))  # a list, as a configuration file has it

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless the net has event-driven layers."""
        if not _layers(model.net):
            raise InputError(
                f"expected event-driven layers for '{task.label}', got none in model '{model.name}'; use "
                f"'threshold-margins' for nets over time steps"
            )

    @torch.no_grad()
    def measure(self, model: SpikingModel, data: EvaluationData, rng: Draws) -> Iterable[Record]:
        """Records of all of the above."""
        test = data.test.take(min(self.samples, len(data.test)))
        margins: dict[str, list[Tensor]] = {}
        silent: dict[str, list[Tensor]] = {}
        with _recorded(model.net, margins, silent):
            for rows in torch.split(torch.arange(len(test)), data.batch_size):
                part = test.select(rows)
                model.logits(part.x, keys=part.index)
        return [
            record
            for name in margins
            for record in self._records(name, torch.cat(margins[name]), torch.cat(silent[name]), len(test))
        ]

    def _records(self, name: str, margins: Tensor, silent: Tensor, count: int) -> Iterator[Record]:
        known = margins[margins.isfinite()]  # none: the means are NaN
        yield Record(
            f"spike_margin:{name}",
            float(known.mean()),
            count=count,
            quantity="spike_margin",
            layer=name,
            threat="max u / threshold - 1 after the last spike",
        )
        for delta in self.deltas:
            yield Record(
                f"near_spike:{name}",
                float((known > -delta).double().mean()),
                count=count,
                strength=delta,
                unit="threshold",
                quantity="near_spike",
                layer=name,
                threat=f"margin above -{delta:g}",
            )
        yield Record(f"silent:{name}", float(silent.double().mean()), count=count, quantity="silent", layer=name)


def _layers(net: nn.Module) -> dict[str, EventLayer]:
    return {name: each for name, each in net.named_modules() if isinstance(each, EventDriven | EventDrivenConv2d)}


@contextmanager
def _recorded(net: nn.Module, margins: dict[str, list[Tensor]], silent: dict[str, list[Tensor]]) -> Iterator[None]:
    """Notes the margins and the silent neurons of each layer at each forward pass."""

    def watch(name: str, layer: EventLayer, times: Tensor, fired: Tensor) -> None:
        margins.setdefault(name, []).append(layer.margins(times, fired).flatten().cpu())
        silent.setdefault(name, []).append((~fired.isfinite()).all(dim=-1).flatten().cpu())

    with ExitStack() as hooks:
        for name, layer in _layers(net).items():
            hook = layer.register_forward_hook(
                lambda module, inputs, fired, name=name: watch(name, module, inputs[0], fired)
            )
            hooks.callback(hook.remove)
        yield
