"""The queries of an attack to a model: logits, objectives and their gradients, counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from snnrobust.data.batch import Batch
from snnrobust.data.padding import by_length, with_padding, without_padding
from snnrobust.plugin.protocols import AnyEstimator, Objective, View
from snnrobust.search.execution import CheckInputs, Execution
from snnrobust.search.pass_counter import PassCounter
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.output_layer import OutputLayer


class ModelQueries:
    """Answers an attack's queries about a model.

    For a stochastic model each answer is the mean over `eot` draws (expectation over transformation, Athalye et al.
    2018), a fresh set at each `query`.

    Args:
        model: The model.
        objective: What the attack maximises.
        estimator: Gradient estimator of the spikes.
        eot: Number of draws of a stochastic model that each result is averaged over.
        first_draw: Number of the first draw.
        accelerate: Whether the accelerated model may be used, if the model allows it.
        check_inputs: Where the accelerated model is compared with the net; None: on the first inputs.

    Attributes:
        spent: Passes so far.
    """

    def __init__(
        self,
        model: SpikingModel,
        objective: Objective,
        estimator: AnyEstimator,
        *,
        eot: int = 1,
        first_draw: int = 0,
        accelerate: bool = True,
        check_inputs: CheckInputs | None = None,
    ) -> None:
        self.spent = PassCounter()
        self.eot = eot
        self.bounds = model.bounds
        self.static = model.static
        self.stochastic = model.stochastic
        self._model = model
        self._objective = objective
        self._view: View = getattr(objective, "of", "logits")
        self._estimator = estimator
        self._first_draw = first_draw
        self._output_layer: OutputLayer | None = None
        self._encoded: ModelQueries | None = None
        reason = ""
        if not model.accelerate:
            reason = "wrapped with accelerate=False"
        elif self._view not in ("logits", "outputs"):
            reason = f"{objective!r} reads a node inside the net"
        elif not accelerate:
            reason = "not requested"
        self.execution = Execution(
            model, estimator, accelerate=not reason, not_accelerated=reason, check_inputs=check_inputs
        )

    def logits(self, batch: Batch, query: int | Tensor = 0) -> Tensor:
        """Logits [N, K] without a gradient.

        Args:
            batch: Inputs with their labels, ids, lengths and targets.
            query: Which set of draws, one for all or one per sample [N].
        """
        self.execution.prepare(batch)

        def mean(part: Batch, at: slice) -> Tensor:
            return torch.stack([self.forward(part, _of(query, at), e)[0] for e in range(self.eot)]).mean(dim=0)

        with torch.no_grad():
            return torch.cat(self.execution.by_parts(batch, mean))

    def value(self, batch: Batch, query: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        """Objective [N] and logits [N, K], without a gradient."""
        self.execution.prepare(batch)

        def mean(part: Batch, at: slice) -> tuple[Tensor, Tensor]:
            seen = [self._evaluate(part, _of(query, at), e) for e in range(self.eot)]
            losses, logits = zip(*seen, strict=True)
            return torch.stack(losses).mean(dim=0), torch.stack(logits).mean(dim=0)

        with torch.no_grad():
            losses, logits = zip(*self.execution.by_parts(batch, mean), strict=True)
        return torch.cat(losses), torch.cat(logits)

    def gradient(self, batch: Batch, query: int | Tensor = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Objective gradient [N, *], objective [N] and logits [N, K], with spikes passed by the estimator.

        The last two are those of the net itself, also for a `Relaxation`, whose gradient is that of a smooth net.

        A missing gradient is returned as zeros; rows of NaN or infinity are for the caller to find.
        """
        self.execution.prepare(batch)
        if batch.lengths is None or not any(each.over_time for each in self.execution.spike_gradients):
            return self._gradients(batch, query)
        groups = by_length(batch.lengths, len(batch))
        found = []
        for steps, at in groups:
            part = batch.select(at)
            asked = query[at] if isinstance(query, Tensor) else query
            gradient, loss, logits = self._gradients(part.with_inputs(without_padding(part.x, steps)), asked)
            found.append((with_padding(gradient, torch.zeros_like(part.x)), loss, logits))
        back = torch.cat([at for _, at in groups]).argsort()
        gradient, losses, logits = (torch.cat(each)[back.to(batch.x.device)] for each in zip(*found, strict=True))
        return gradient, losses, logits

    def encoded_gradient(self, batch: Batch, query: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        """The encoded inputs [N, T, *] of a query's first draw, and the objective's gradient there, [N, T, *]."""
        model, draw = self._model, self._first_draw + query * self.eot
        with torch.no_grad():
            sequence = model.encode(model.own_input(batch.x), batch.index, draw)
        if self._encoded is None:
            self._encoded = ModelQueries(
                model.without_encoder(), self._objective, self._estimator, first_draw=self._first_draw
            )
            self._encoded.spent = self.spent
        return sequence, self._encoded.gradient(batch.with_inputs(sequence), query)[0]

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Restores the estimator's per-sample memory if the block raises."""
        with ExitStack() as stack:
            for each in self.execution.spike_gradients:
                stack.enter_context(each.memory.all_or_nothing())
            yield

    def forget(self, index: Tensor) -> None:
        """Drops what the estimator remembers of samples that are done."""
        for each in self.execution.spike_gradients:
            each.memory.forget(index)

    def forward(self, batch: Batch, query: int | Tensor, e: int) -> tuple[Tensor, Tensor]:
        """One forward pass, the e-th of a query: logits [N, K], and what the objective is a function of."""
        self.spent.forwards += len(batch)
        model, draw = self.execution.model, self._first_draw + query * self.eot + e
        if self._view == "logits":
            logits = model.logits(batch.x, keys=batch.index, draw=draw, lengths=batch.lengths)
            return logits, logits
        sign = -1 if self._model.decide == "argmin" else 1  # objectives assume that the largest value is the prediction
        if self._view == "outputs":
            outputs = model.outputs(batch.x, keys=batch.index, draw=draw)
            return self._model.read(outputs, batch.lengths), sign * outputs
        if self._output_layer is None:
            self._output_layer = OutputLayer(self._model, batch.x.detach()[:2])
        # In one session with the pass: the end of the pass's own one would take back what the net has captured.
        with self._model.session(), self._output_layer.capture(self._view):
            outputs = model.outputs(batch.x, keys=batch.index, draw=draw)
            graded = sign * self._output_layer.captured(outputs)
            return self._model.read(outputs, batch.lengths), graded

    def _gradients(self, batch: Batch, query: int | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`gradient`, with all steps of the inputs going through the net."""
        found = self.execution.by_parts(batch, lambda part, at: self._gradient(part, _of(query, at)))
        if len(found) == 1:
            return found[0]
        gradient, losses, logits = (torch.cat(each) for each in zip(*found, strict=True))
        return gradient, losses, logits

    def _gradient(self, batch: Batch, query: int | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        leaf = batch.with_inputs(batch.x.detach().requires_grad_())
        gradient, losses, logits = torch.zeros_like(batch.x), [], []
        for e in range(self.eot):
            exact = None
            for spike_gradient in self.execution.spike_gradients:
                with torch.enable_grad(), spike_gradient.at(batch.index, frozen=e > 0):
                    objective, out = self._evaluate(leaf, query, e)
                    if objective.requires_grad:
                        (part,) = torch.autograd.grad(objective.sum(), leaf.x, allow_unused=True)
                        gradient += 0 if part is None else part / len(self.execution.spike_gradients)
                self.spent.backwards += len(batch)
                if spike_gradient.exact:
                    exact = objective.detach(), out.detach()
            if exact is None:
                with torch.no_grad():
                    exact = self._evaluate(batch, query, e)
            losses.append(exact[0])
            logits.append(exact[1])
        return gradient / self.eot, torch.stack(losses).mean(dim=0), torch.stack(logits).mean(dim=0)

    def _evaluate(self, batch: Batch, query: int | Tensor, e: int) -> tuple[Tensor, Tensor]:
        """Objective [N] and logits [N, K] of one forward pass."""
        logits, seen = self.forward(batch, query, e)
        targets = () if batch.targets is None else (batch.targets,)  # a targeted objective takes a third argument
        if self._view == "logits" or batch.lengths is None or seen.shape[1] == 1:
            return self._objective(seen, batch.y, *targets), logits
        groups = [(steps, at.to(seen.device)) for steps, at in by_length(batch.lengths, len(batch))]
        found = [
            self._objective(without_padding(seen[at], steps), batch.y[at], *(each[at] for each in targets))
            for steps, at in groups
        ]
        return torch.cat(found)[torch.cat([at for _, at in groups]).argsort()], logits


def _of(query: int | Tensor, part: slice) -> int | Tensor:
    return query[part] if isinstance(query, Tensor) else query
