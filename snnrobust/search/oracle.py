"""What an attack may ask of a model: logits, objectives and their gradients, counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from snnrobust.acceleration.model import ROWS, AcceleratedModel, NotAccelerated, accelerated_model
from snnrobust.common.batching import out_of_memory
from snnrobust.errors import PluginError
from snnrobust.plugin.protocols import AnyEstimator, Objective, View
from snnrobust.spike_gradients.swap import Own, batch_dependent, passes
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.output_layer import OutputLayer

R = TypeVar("R")
CRAMPED = "eager, too little memory for a stand-in"


class Oracle:
    """Answers an attack's questions about a model; nothing else of the model is in reach.

    For a stochastic model each answer is the mean over `eot` draws (expectation over transformation, Athalye et al.
    2018), a fresh set at each `query`. Answers come from an accelerated twin of the model where there is one that
    agrees with it on the first inputs.

    Args:
        model: The model.
        objective: What is pushed.
        estimator: How a gradient passes a spike.
        eot: Draws of a stochastic model that an answer is the mean of.
        first_draw: The first of these.
        lengths: Sample id -> valid steps, for sequences of several lengths.
        accelerate: Whether such a twin is looked for, if the model allows it.

    Attributes:
        forwards: Forward passes so far, counted per sample.
        backwards: Backward passes so far, counted per sample.
        way: What it runs on, in words.
    """

    def __init__(
        self,
        model: SpikingModel,
        objective: Objective,
        estimator: AnyEstimator,
        eot: int,
        first_draw: int,
        lengths: Mapping[int, int] | None,
        *,
        accelerate: bool = True,
    ) -> None:
        self.bounds = model.bounds
        self.static = model.static
        self.stochastic = model.stochastic
        self.eot = eot
        self.forwards = 0
        self.backwards = 0
        self._model = model
        self._objective = objective
        self._view: View = getattr(objective, "of", "logits")
        self._estimator = estimator
        self._passes = passes(model.net, estimator)
        self._first_draw = first_draw
        self._lengths = lengths
        self._targets: Mapping[int, int] | None = None
        self._output_layer: OutputLayer | None = None
        self._twin: AcceleratedModel | None = None
        self._original = model
        self.way = "eager, not asked for more"
        if not model.accelerate:
            self.way = "eager, wrapped with accelerate=False"
        elif self._view not in ("logits", "outputs"):
            self.way = f"eager, {objective!r} listens to a node of the net"
        elif accelerate:
            try:
                self._twin = accelerated_model(model, estimator)
            except NotAccelerated as reason:
                self.way = f"eager, {reason}"

    def towards(self, targets: Mapping[int, int]) -> Oracle:
        """The same oracle for a targeted objective: sample id -> target class."""
        self._targets = targets
        return self

    def logits(self, x: Tensor, index: Tensor, query: int | Tensor = 0) -> Tensor:
        """Logits [N, K] without a gradient for inputs x [N, *] of the samples `index` [N]."""
        self._settle(x, index)
        with torch.no_grad():
            seen = self._by_parts(
                len(x), lambda at: [self._forward(x[at], index[at], _of(query, at), e)[0] for e in range(self.eot)]
            )
        return torch.cat([torch.stack(draws).mean(dim=0) for draws in seen])

    def value(self, x: Tensor, y: Tensor, index: Tensor, query: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        """Objective [N] and logits [N, K] at x, without a gradient."""
        self._settle(x, index)
        losses, logits = [], []
        with torch.no_grad():
            for seen in self._by_parts(
                len(x), lambda at: [self._evaluate(x[at], y[at], index[at], _of(query, at), e) for e in range(self.eot)]
            ):
                losses.append(torch.stack([loss for loss, _ in seen]).mean(dim=0))
                logits.append(torch.stack([out for _, out in seen]).mean(dim=0))
        return torch.cat(losses), torch.cat(logits)

    def gradient(self, x: Tensor, y: Tensor, index: Tensor, query: int | Tensor = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Objective gradient [N, *], objective [N] and logits [N, K] at x, with spikes passed by the estimator.

        The last two are those of the net itself, whatever the estimator puts in its place for the gradient.

        Raises:
            PluginError: If the gradient is not finite, or does not exist.
        """
        self._settle(x, index)
        found = self._by_parts(len(x), lambda at: self._gradient(x[at], y[at], index[at], _of(query, at)))
        gradient, losses, logits = (torch.cat(each) for each in zip(*found, strict=True))
        return gradient, losses, logits

    def _gradient(self, x: Tensor, y: Tensor, index: Tensor, query: int | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        at = x.detach().requires_grad_()
        gradient, losses, logits = torch.zeros_like(x), [], []
        for e in range(self.eot):
            real = None
            for swap in self._passes:
                with torch.enable_grad(), swap.at(index, frozen=e > 0):
                    objective, out = self._evaluate(at, y, index, query, e)
                    if objective.requires_grad:
                        (part,) = torch.autograd.grad(objective.sum(), at, allow_unused=True)
                        gradient += 0 if part is None else part / len(self._passes)
                self.backwards += len(x)
                if swap.exact:
                    real = objective.detach(), out.detach()
            if real is None:
                with torch.no_grad():
                    real = self._evaluate(x, y, index, query, e)
            losses.append(real[0])
            logits.append(real[1])
        if not torch.isfinite(gradient).all():
            bad = index.cpu()[~torch.isfinite(gradient).flatten(1).all(dim=1).cpu()][0]
            raise PluginError(
                f"expected a finite gradient of {self._objective!r} through {self._estimator!r}, got NaN or infinity "
                f"for sample {int(bad)} of model '{self._model.name}'; check the net's outputs or use another estimator"
            )
        return gradient / self.eot, torch.stack(losses).mean(dim=0), torch.stack(logits).mean(dim=0)

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Takes back what the estimator learned of samples inside, should anything fail there."""
        with ExitStack() as stack:
            for swap in self._passes:
                stack.enter_context(swap.memory.all_or_nothing())
            yield

    def forget(self, index: Tensor) -> None:
        """Drops what the estimator remembers of samples that are done."""
        for swap in self._passes:
            swap.forget(index)

    def as_module(self, index: Tensor) -> nn.Module:
        """A stateless module from inputs scaled to [0, 1] to logits, for third-party attacks on the samples `index`.

        Raises:
            PluginError: If the estimator is a mixture or a relaxation, which no single forward pass can stand for.
        """
        if len(self._passes) > 1 or not self._passes[0].exact:
            raise PluginError(
                f"expected an estimator of one pass for a third-party attack, got {self._estimator!r}; "
                f"use one of this package's own attacks with it"
            )
        return _UnitModule(self, index)

    def _settle(self, x: Tensor, index: Tensor) -> None:
        """Before the first answer: takes the accelerated twin if it agrees with the net on some of the inputs."""
        twin, self._twin = self._twin, None
        if twin is None:
            return
        try:
            twin.check_once(x, index)
        except NotAccelerated as reason:
            self.way = f"eager, {reason}"
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            if len(x) > ROWS:
                self._twin = twin
                raise
            self.way = CRAMPED
        else:
            self._model, self._passes, self.way = twin, passes(twin.net, Own()), twin.summary()

    def _asked(self, work: Callable[[slice], R], part: slice) -> R:
        """What `work` says of a part of a batch; where memory has no room for the rows that a twin needs, by the net
        itself, which can do with one."""
        try:
            return work(part)
        except (MemoryError, RuntimeError) as error:
            cramped = isinstance(self._model, AcceleratedModel) and part.stop - part.start <= ROWS
            if not (cramped and out_of_memory(error)):
                raise
        self._model, self._passes = self._original, passes(self._original.net, self._estimator)
        self.way = CRAMPED
        return work(part)

    def _by_parts(self, count: int, work: Callable[[slice], R]) -> list[R]:
        """What `work` says of the samples of a batch, as many at once as go through the net together."""
        whole = batch_dependent(self._estimator)
        return [self._asked(work, part) for part in ([slice(0, count)] if whole else self._model.parts(count))]

    def _evaluate(self, x: Tensor, y: Tensor, index: Tensor, query: int | Tensor, e: int) -> tuple[Tensor, Tensor]:
        """Objective [N] and logits [N, K] of one forward pass."""
        logits, seen = self._forward(x, index, query, e)
        return self._objective(seen, y, *self._target(index, y)), logits

    def _target(self, index: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        if self._targets is None:
            return ()
        return (torch.tensor([self._targets[int(i)] for i in index], device=y.device),)

    def _forward(self, x: Tensor, index: Tensor, query: int | Tensor, e: int) -> tuple[Tensor, Tensor]:
        """Logits [N, K], and what the objective is a function of."""
        self.forwards += len(x)
        draw = self._first_draw + query * self.eot + e
        lengths = None if self._lengths is None else torch.tensor([self._lengths[int(i)] for i in index])
        if self._view == "logits":
            logits = self._model.logits(x, keys=index, draw=draw, lengths=lengths)
            return logits, logits
        sign = -1 if self._model.decide == "argmin" else 1  # an objective takes the largest for the winner
        if self._view == "outputs":
            outputs = self._model.outputs(x, keys=index, draw=draw)
            return self._model.read(outputs, lengths), _without_padding(sign * outputs, lengths)
        if self._output_layer is None:
            self._output_layer = OutputLayer(self._model, x.detach()[:2])
        with self._output_layer.listening(self._view):
            outputs = self._model.outputs(x, keys=index, draw=draw)
            heard = sign * self._output_layer.heard(outputs)
            return self._model.read(outputs, lengths), _without_padding(heard, lengths)


def _of(query: int | Tensor, part: slice) -> int | Tensor:
    return query[part] if isinstance(query, Tensor) else query


def _without_padding(sequence: Tensor, lengths: Tensor | None) -> Tensor:
    """A sequence [N, T, K] with the mean of the valid steps in place of those past each one's length, so that a mean
    over time is that over the valid steps."""
    if lengths is None or sequence.shape[1] == 1:
        return sequence
    clock = torch.arange(sequence.shape[1], device=sequence.device)
    valid = (clock < lengths.to(sequence.device)[:, None])[..., None]  # (N, T, 1)
    mean = (sequence * valid).sum(dim=1, keepdim=True) / valid.sum(dim=1, keepdim=True)  # (N, 1, K)
    return torch.where(valid, sequence, mean)


class _UnitModule(nn.Module):
    """The oracle behind the face that torchattacks expects: a module with a parameter, inputs in [0, 1]."""

    def __init__(self, oracle: Oracle, index: Tensor) -> None:
        super().__init__()
        self._oracle = oracle
        self._index = index
        self.anchor = nn.Parameter(torch.zeros((), device=oracle._model.device), requires_grad=False)
        self._queries = 0

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K] for x [N, *] in [0, 1]."""
        oracle = self._oracle
        low, high = oracle.bounds
        index = self._index if len(x) == len(self._index) else torch.arange(len(x))
        inputs = low + x * (high - low)
        oracle._settle(inputs, index)
        with oracle._passes[0]:
            total = oracle._forward(inputs, index, self._queries, 0)[0]
            for e in range(1, oracle.eot):
                total = total + oracle._forward(inputs, index, self._queries, e)[0]
        self._queries += 1
        if total.requires_grad:
            total.register_hook(self._count)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return total / oracle.eot

    def _count(self, gradient: Tensor) -> None:
        self._oracle.backwards += len(gradient) * self._oracle.eot
