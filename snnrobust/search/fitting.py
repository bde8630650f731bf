"""Fits a perturbation on held-out samples, before any test sample is attacked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from snnrobust.data.padding import keep_padding, without_padding
from snnrobust.errors import PluginError, ViolationError
from snnrobust.plugin.protocols import Fitted, State
from snnrobust.search.attack_context import AttackContext
from snnrobust.search.batch_queries import BatchQueries
from snnrobust.threat_models.verify import verify

R = TypeVar("R", bound=tuple[Tensor, ...])

#: Most samples that go through the model together. The rounding of a pass may depend on their number, and what is
#: fitted should not depend on the batch size of the evaluation.
CHUNK = 64


@dataclass(frozen=True)
class Fit:
    """What was fitted, and what it took.

    Attributes:
        state: What `Fitted.fit` returned.
        samples: How many samples it was fitted on.
        forwards: Forward passes, all samples together.
        backwards: Backward passes, all samples together.
    """

    state: State
    samples: int
    forwards: int
    backwards: int


def fit(context: AttackContext, plugin: Fitted) -> Fit:
    """Fits a perturbation on the samples of `context`, which are held out: none of them is a test sample.

    Raises:
        PluginError: If it asks about anything but allowed inputs around these samples, or returns no dict of tensors.
        MemoryLimitError: If memory runs out with a single sample.
    """
    asked = _HeldOutQueries(context)
    samples, before = asked.samples, context.queries.spent.copy()
    try:
        rng = context.rng.sub("fit").on(samples.x)
        # Nothing that is fitted may depend on how far sequences are padded, or with what.
        shown = keep_padding(samples.x, torch.zeros_like(samples.x), samples.lengths)
        state = plugin.fit(asked, shown, samples.y, context.threat, rng, samples.index)
    finally:
        context.queries.forget(samples.index)
    if not isinstance(state, dict) or not all(isinstance(each, Tensor) for each in state.values()):
        raise PluginError(f"expected a dict of tensors from fit of '{context.name}', got {type(state).__name__}")
    spent = context.queries.spent.since(before)
    return Fit(state, len(samples), spent.forwards, spent.backwards)


class _HeldOutQueries:
    """Queries about the samples that a perturbation is fitted on, in any order or subset, and about nothing else.

    Args:
        context: The attack; its data are the samples.

    Attributes:
        samples: The samples, up to the end of the longest. Shorter ones have their padding, which no query changes.
    """

    def __init__(self, context: AttackContext) -> None:
        samples = context.batch(torch.arange(len(context.data)))
        longest = None if samples.lengths is None else int(samples.lengths.max())
        self.samples = samples.with_inputs(without_padding(samples.x, longest))
        self._context = context
        self._queries = BatchQueries(context.queries, self.samples)
        self._sizer = context.sizer.at_most(CHUNK)
        self._order = self.samples.index.argsort()
        self._sorted = self.samples.index[self._order].contiguous()

    @property
    def static(self) -> bool:
        """Whether inputs have no time axis of their own."""
        return self._queries.static

    def logits(self, x: Tensor, index: Tensor, query: int | Tensor = 0) -> Tensor:
        """Logits [N, K] without a gradient for inputs x [N, *] of the samples `index` [N]."""
        x = self._allowed(x, index)
        (found,) = self._over(x, lambda at: (self._queries.logits(x[at], index[at], _of(query, at)),))
        return found

    def value(self, x: Tensor, y: Tensor, index: Tensor, query: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        """Objective [N] and logits [N, K] at x, without a gradient."""
        x = self._allowed(x, index)
        return self._over(x, lambda at: self._queries.value(x[at], y[at], index[at], _of(query, at)))

    def gradient(self, x: Tensor, y: Tensor, index: Tensor, query: int | Tensor = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Objective gradient [N, *], objective [N] and logits [N, K] at x."""
        x = self._allowed(x, index)
        return self._over(x, lambda at: self._queries.gradient(x[at], y[at], index[at], _of(query, at)))

    def encoded_gradient(self, x: Tensor, y: Tensor, index: Tensor, query: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        """Static inputs x [N, *] as the encoder makes them sequences, and the objective's gradient, [N, T, *] each."""
        x = self._allowed(x, index)
        return self._over(x, lambda at: self._queries.encoded_gradient(x[at], y[at], index[at], _of(query, at)))

    def as_module(self, index: Tensor) -> nn.Module:
        """Not available: its queries can't be checked.

        Raises:
            PluginError: Always.
        """
        raise PluginError("expected queries through logits, value and gradient in fit, got as_module; use those")

    def _allowed(self, x: Tensor, index: Tensor) -> Tensor:
        """The inputs x [N, *] with their samples' own padding, if the threat model allows them around these samples.

        What is near a test sample is not: so no perturbation is fitted on test data.
        """
        x0 = self.samples.select(self._rows(index))
        x = keep_padding(x, x0.x, x0.lengths)
        try:
            verify(x, x0.x, self._context.threat, index.tolist(), self._context.name)
        except ViolationError as error:
            raise PluginError(
                f"expected fit of '{self._context.name}' to ask about allowed inputs around the held-out samples, got "
                f"others ({error}); fit on the samples that it was given, and project with threat.project"
            ) from error
        return x

    def _rows(self, index: Tensor) -> Tensor:
        """Positions of the sample ids `index` [N]."""
        at = torch.searchsorted(self._sorted, index.cpu()).clamp(max=len(self._sorted) - 1)
        rows = self._order[at]
        if not torch.equal(self.samples.index[rows], index.cpu()):
            raise PluginError(
                f"expected ids of held-out samples from fit of '{self._context.name}', got {index.tolist()}; pass the "
                f"ids that it was given"
            )
        return rows

    def _over(self, x: Tensor, work: Callable[[Tensor], R]) -> R:
        """What `work` returns for the positions of a part of x [N, *], for all parts together."""
        parts = [found for _, found in self._sizer.over(torch.arange(len(x)), work)]
        joined: R = tuple(torch.cat(each) for each in zip(*parts, strict=True))  # type: ignore[assignment]  # of the same length
        return joined


def _of(query: int | Tensor, at: Tensor) -> int | Tensor:
    return query[at] if isinstance(query, Tensor) else query
