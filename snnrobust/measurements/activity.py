"""Activity of a net: firing rates, silent neurons, operations, energy, and accuracy by time step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from spikingjelly.activation_based import op_counter
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.statistics import clopper_pearson
from snnrobust.common.validate import check_count
from snnrobust.data.dataset import Dataset
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.measurements.operations import operation_counters
from snnrobust.measurements.recorded_layers import check_recorded
from snnrobust.plugin.task import Task
from snnrobust.results.records import Record
from snnrobust.wrapping.decision import Correctness
from snnrobust.wrapping.model import SpikingModel

#: Energy of a 32-bit floating-point multiply-accumulate and accumulate in 45 nm (Horowitz 2014, ISSCC), in pJ.
MAC_PJ, AC_PJ = 4.6, 0.9
ENERGY = f"45 nm, {MAC_PJ} pJ a MAC, {AC_PJ} pJ a synaptic operation (Horowitz 2014), no memory access"


OPERATIONS = "SpikingJelly op_counter: layers with whole-number input accumulate, others multiply"


@dataclass(frozen=True)
class Activity:
    """Activity on the test data.

    - "firing_rate:LAYER": share of a layer's outputs, over neurons and steps, that are not zero: spikes of any size or
      sign count once; "silent_neurons:LAYER": share of the layer's neurons that fire in none of the samples. Padding is
      left out.
    - "synops": synaptic operations of a sample, i.e. accumulations: spikes x fan-out. "macs": multiply-accumulates of a
      sample. The counters decide by value: a layer whose input in a batch are whole numbers (spikes, signed spikes,
      counts) accumulates each entry that is not zero; any other multiplies all, e.g. graded spikes, or after mean
      pooling. Input of domain "real" without a spike encoder always multiplies. Biases, batch norm (which can be folded
      into the weights) and the neurons' own updates are not counted; padding is.
    - "energy_pj": of a sample, with 4.6 pJ a MAC and 0.9 pJ a synaptic operation in 45 nm, as commonly taken from
      Horowitz 2014; without memory access, which dominates on real hardware.
    - "accuracy_at_step": accuracy when the read-out uses only the first `strength` steps, with Clopper-Pearson
      intervals; for nets that return their outputs over time.

    A stochastic model is measured at one draw.

    Attributes:
        samples: Number of test samples, the first ones (all if there are fewer).

    Raises:
        InputError: If `samples` is below 1.
    """

    samples: int = 200

    def __post_init__(self) -> None:
        check_count("samples", self.samples)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless the net's spikes can be recorded."""
        check_recorded(model, data.test, "activity")

    @torch.no_grad()
    def measure(self, model: SpikingModel, data: EvaluationData, rng: Draws) -> Iterable[Record]:
        """Records of all of the above."""
        test = data.test.take(min(self.samples, len(data.test)))
        layers: dict[str, _Layer] = {}
        synops, macs = operation_counters()
        right: Tensor | int = 0
        with model.session():
            for rows in torch.split(torch.arange(len(test)), data.batch_size):
                part = test.select(rows)
                for name, spikes in model.record(part.x, keys=part.index).spikes.items():
                    layers.setdefault(name, _Layer()).add(spikes, part.lengths)
                with op_counter.DispatchCounterMode([synops, macs]):
                    outputs = model.outputs(_real_if_direct(part.x, model), keys=part.index, lengths=part.lengths)
                right = right + _correct_by_step(model, outputs, part)
        return list(self._records(len(test), layers, synops.get_total(), macs.get_total(), right))

    def _records(
        self, count: int, layers: dict[str, _Layer], synops: int, macs: int, right: Tensor | int
    ) -> Iterator[Record]:
        for name, layer in layers.items():
            yield Record(f"firing_rate:{name}", layer.rate, count=count, quantity="firing_rate", layer=name)
            yield Record(f"silent_neurons:{name}", layer.silent, count=count, quantity="silent_neurons", layer=name)
        yield Record("synops", synops / count, count=count, threat=OPERATIONS)
        yield Record("macs", macs / count, count=count, threat=OPERATIONS)
        yield Record("energy_pj", (MAC_PJ * macs + AC_PJ * synops) / count, count=count, threat=ENERGY)
        by_step = right.tolist() if isinstance(right, Tensor) else []
        for step, correct in enumerate(by_step, start=1):
            low, high = clopper_pearson(correct, count)
            yield Record("accuracy_at_step", correct / count, low, high, count, strength=step, unit="step")


@dataclass
class _Layer:
    """Spikes of a layer over the batches."""

    spikes: int = 0
    neuron_steps: int = 0
    fired: Tensor = field(default_factory=lambda: torch.tensor(False))

    def add(self, spikes: Tensor, lengths: Tensor | None) -> None:
        """Adds a batch [N, T, *]."""
        steps, neurons = spikes.shape[1], spikes[0, 0].numel()
        spikes = spikes.reshape(len(spikes), steps, neurons)
        valid = torch.full((len(spikes),), steps) if lengths is None else lengths
        mask = torch.arange(steps) < valid[:, None]  # [N, T]
        spikes = spikes * mask[..., None].to(spikes)
        fired = spikes != 0
        self.spikes += int(fired.sum())
        self.neuron_steps += int(mask.sum()) * neurons
        self.fired = self.fired | fired.flatten(0, 1).any(dim=0).cpu()  # [neurons]

    @property
    def rate(self) -> float:
        return self.spikes / self.neuron_steps

    @property
    def silent(self) -> float:
        return float((~self.fired).double().mean())


def _correct_by_step(model: SpikingModel, outputs: Tensor, part: Dataset) -> Tensor:
    """Number of correct samples when outputs [N, T, K] end after step 1, 2 ... T, [T]; [0] for T = 1."""
    steps, y = outputs.shape[1], part.y.to(outputs.device)
    right = []
    for step in range(1, steps + 1) if steps > 1 else ():
        lengths = torch.full_like(y, step) if part.lengths is None else part.lengths.to(y.device).clamp_max(step)
        right.append(int(Correctness(model.read(outputs, lengths), y).correct.sum()))
    return torch.tensor(right, dtype=torch.long)


def _real_if_direct(x: Tensor, model: SpikingModel) -> Tensor:
    """Prevents a real-valued batch of only 0 and 1 (e.g. a blank image) from being counted as spikes.

    Its first entry is moved to the next float: too little to change the net's output, but no longer binary.
    """
    if model.domain != "real" or model.encoder not in (None, "repeat"):
        return x
    x = x.to(model.dtype).clone()
    first = x.view(-1)[:1]
    first.copy_(torch.nextafter(first, torch.full_like(first, 0.5)))
    return x
