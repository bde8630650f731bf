"""What the queries of a search run on: the accelerated model where it agrees with the net, else the net itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from snnrobust.acceleration.model import COMPARED, AcceleratedModel, NotAccelerated, accelerated_model
from snnrobust.common.batching import out_of_memory
from snnrobust.data.batch import Batch
from snnrobust.plugin.protocols import AnyEstimator
from snnrobust.results.execution_path import ExecutionPath
from snnrobust.spike_gradients.swap import Own, SpikeGradient, batch_dependent, spike_gradient_contexts
from snnrobust.wrapping.model import SpikingModel

R = TypeVar("R")
_LITTLE_MEMORY = ExecutionPath(False, "too little memory for the accelerated model")


@dataclass(frozen=True)
class CheckInputs:
    """A few samples on which an accelerated model is compared with the net.

    The same for all searches of a run, so the choice of model does not depend on task order or resuming.

    Attributes:
        x: Inputs [n, *].
        index: Sample ids [n].
    """

    x: Tensor
    index: Tensor


class Execution:
    """Runs the passes of one search.

    Args:
        model: The model.
        estimator: Gradient estimator of the spikes.
        accelerate: Whether an accelerated model may be used, if the model allows it.
        not_accelerated: Why not, where it may not.
        check_inputs: Where an accelerated model is compared with the net; None: on the first inputs.

    Attributes:
        model: Model of the forward passes.
        spike_gradients: A `SpikeGradient` for each backward pass, see `spike_gradient_contexts`.
        path: The execution path that is stored.
    """

    def __init__(
        self,
        model: SpikingModel,
        estimator: AnyEstimator,
        *,
        accelerate: bool,
        not_accelerated: str = "",
        check_inputs: CheckInputs | None = None,
    ) -> None:
        self.model: SpikingModel | AcceleratedModel = model
        self.spike_gradients: list[SpikeGradient] = spike_gradient_contexts(model, estimator)
        self.path = ExecutionPath(False, not_accelerated or "no query was made")
        self._net = model
        self._net_spike_gradients = self.spike_gradients
        self._whole_batches = batch_dependent(estimator)
        self._check_inputs = check_inputs
        self._candidate: AcceleratedModel | None = None
        if accelerate:
            try:
                self._candidate = accelerated_model(model, estimator)
            except NotAccelerated as reason:
                self.path = ExecutionPath(False, str(reason))

    def prepare(self, batch: Batch) -> None:
        """Before the first pass: takes the accelerated model if it agrees with the net."""
        candidate = self._candidate
        if candidate is None:
            return
        self._candidate = None
        check = self._check_inputs or CheckInputs(batch.x, batch.index)
        try:
            candidate.compare_once(check.x, check.index)
        except NotAccelerated as reason:
            self.path = ExecutionPath(False, str(reason))
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            if len(batch) > COMPARED:
                self._candidate = candidate
                raise
            self.path = _LITTLE_MEMORY
        else:
            self.model, self.spike_gradients, self.path = (
                candidate,
                spike_gradient_contexts(candidate.net, Own()),
                candidate.path,
            )

    def by_parts(self, batch: Batch, work: Callable[[Batch, slice], R]) -> list[R]:
        """What `work` returns for the parts of a batch that go through the model together, with their place in it."""
        if self._whole_batches:
            return [self._run(batch, work, slice(0, len(batch)))]
        return [self._run(batch, work, part) for part in self.model.parts(len(batch))]

    def _run(self, batch: Batch, work: Callable[[Batch, slice], R], part: slice) -> R:
        """Switches to the net if even `COMPARED` samples do not fit with the accelerated model."""
        samples = batch if part == slice(0, len(batch)) else batch.select(part)
        try:
            return work(samples, part)
        except (MemoryError, RuntimeError) as error:
            smallest = isinstance(self.model, AcceleratedModel) and len(samples) <= COMPARED
            if not (smallest and out_of_memory(error)):
                raise
        self.model, self.spike_gradients, self.path = self._net, self._net_spike_gradients, _LITTLE_MEMORY
        return work(samples, part)
