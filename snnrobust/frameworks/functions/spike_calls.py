"""Which calls of Functions are spikes: their output is a step, or a count of steps, of one of their arguments."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from snnrobust.frameworks.functions.calls import Call, FunctionClass, replayed
from snnrobust.frameworks.functions.levels import Levels, Position, find_levels
from snnrobust.frameworks.functions.sites import Axes
from snnrobust.frameworks.functions.upstream import Upstream


@dataclass(frozen=True)
class Shapes:
    """Sizes of axes: samples N, steps T if known, and how many calls of all Functions a pass makes in a module."""

    samples: int
    steps: int | None
    calls: int

    def axes(self, shape: torch.Size) -> Axes | None:
        """How a tensor is arranged; None if it has no axis of samples."""
        if self.steps is not None and self.steps > 1 and self.calls < self.steps:
            if shape[:2] == (self.samples, self.steps):
                return "NT"
            if shape[:1] == (self.steps * self.samples,):
                return "merged"
        if shape[:1] == (self.samples,):
            return "N"
        if len(shape) > 1 and shape[1] == self.samples:
            return "TN"
        flat = self.steps is not None and shape[:1] == (self.steps,) and len(shape) == 2
        return "flat" if flat and shape[1] % self.samples == 0 else None


@dataclass(frozen=True)
class SpikeCall:
    """That a call is a spike; attributes as of a `Site`."""

    argument: int
    levels: Levels
    axes: Axes
    threshold_learns: bool


def kinds_of(
    calls: Sequence[Call], upstream: Upstream, shapes: Shapes, named: Collection[FunctionClass]
) -> list[SpikeCall | str | None]:
    """What each call in a module is: a spike if any call of its Function there is one.

    A single call may not show it: at the first step all membrane potentials may be whole numbers.
    """
    kinds = [_kind(call, upstream, shapes, call.function in named) for call in calls]
    found = [(call.function, kind) for call, kind in zip(calls, kinds, strict=True) if isinstance(kind, SpikeCall)]
    spikes = dict(reversed(found))  # of several, the first
    return [
        spikes.get(call.function, kind) if call.node in upstream else None
        for call, kind in zip(calls, kinds, strict=True)
    ]


def _kind(call: Call, upstream: Upstream, shapes: Shapes, named: bool) -> SpikeCall | str | None:
    """A spike; or why what looks like one can't be swapped; or None for what is no spike or passes no gradient."""
    if call.node not in upstream:
        return None
    if not isinstance(call.output, Tensor):
        several = isinstance(call.output, tuple) and any(
            isinstance(each, Tensor) and shapes.axes(each.shape) and _whole(each) for each in call.output
        )
        return "it returns several tensors, spikes among them, from one Function" if several else None
    axes = shapes.axes(call.output.shape)
    if axes is None:
        return None  # e.g. quantised weights
    inputs = {i: each for i, each in enumerate(call.args) if isinstance(each, Tensor) and each.is_floating_point()}
    same = {i: each for i, each in inputs.items() if each.shape == call.output.shape}
    if not named and (not _spikes(call.output) or any(_whole(each) for each in same.values())):
        return None  # neither what emits other values, nor what hands spikes on
    for at, v in same.items():
        levels = find_levels(_emitter(call, at), v, call.args, at)
        if levels is not None or named:
            return SpikeCall(at, levels or Levels(), axes, levels is not None and _threshold_learns(call, levels))
    return "its output is no step of one of its arguments"


def _spikes(values: Tensor) -> bool:
    """Whether values are whole numbers, or whole multiples of one size."""
    return _whole(values) or _whole(values / (values.abs().max() or 1.0))


def _threshold_learns(call: Call, levels: Levels) -> bool:
    if not isinstance(levels.first, Position) or not isinstance(call.args[levels.first.of], Tensor):
        return False
    with torch.enable_grad():
        threshold = call.args[levels.first.of].detach().clone().requires_grad_()
        spikes = replayed(call, {levels.first.of: threshold})
        found = torch.autograd.grad(spikes.sum(), threshold, allow_unused=True)[0] if spikes.requires_grad else None
    return found is not None and bool((found != 0).any())


def _emitter(call: Call, at: int) -> Callable[[Tensor], Tensor]:
    def emit(v: Tensor) -> Tensor:
        with torch.no_grad():
            return replayed(call, {at: v}).detach()

    return emit


def _whole(values: Tensor) -> bool:
    return not values.is_complex() and bool((values == values.round()).all())
