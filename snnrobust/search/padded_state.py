"""The state of an optimiser whose samples differ in length: it sees none of them with padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from snnrobust.data.batch import Batch
from snnrobust.data.padding import by_length, with_padding, without_padding
from snnrobust.errors import PluginError
from snnrobust.plugin.protocols import Optimiser, State
from snnrobust.search.attack_context import AttackContext

#: By length and name: the shape of an entry of the state, for one sample.
Shapes: TypeAlias = dict[int | None, dict[str, torch.Size]]


def initial_state(context: AttackContext, optimiser: Optimiser, samples: Batch) -> tuple[State, Shapes]:
    """The optimiser's state before the first step, and the shapes of its entries: it sees no padding."""
    shapes: Shapes = {}
    joined: State = {}
    groups = by_length(samples.lengths, len(samples))
    for steps, at in groups:
        part = samples if steps is None else samples.select(at)
        x0 = without_padding(part.x, steps)
        state = optimiser.init(x0, context.threat, context.rng.on(x0), part.index)
        x = state.get("x")
        if x is None or x.shape != x0.shape:
            raise PluginError(
                f"expected '{context.name}' to put iterates of shape {tuple(x0.shape)} into state['x'], "
                f"got {None if x is None else tuple(x.shape)}; see Optimiser.init"
            )
        shapes[steps] = {name: value.shape[1:] for name, value in state.items()}
        if steps is not None:
            state = {**state, "x": with_padding(x, part.x)}
        joined = joined_state(joined, state) if joined else state
    if len(groups) > 1:
        back = torch.cat([at for _, at in groups]).argsort()
        joined = {name: value[back.to(value.device)] for name, value in joined.items()}
    return joined, shapes


def within(shape: Sequence[int]) -> tuple[slice, ...]:
    """Where an entry of this shape lies in one that may be larger, [n, *]."""
    return (slice(None), *(slice(size) for size in shape))


def part_of(value: Tensor, shape: Sequence[int]) -> Tensor:
    """The part of this shape of what `joined_state` filled up."""
    return value if value.shape[1:] == torch.Size(shape) else value[within(shape)].contiguous()


def joined_state(a: State, b: State) -> State:
    """The states of some samples and of others, smaller entries filled up with zeros."""
    joined = {}
    for name, value in a.items():
        other = b[name]
        if value.shape[1:] != other.shape[1:]:
            shape = [max(sizes) for sizes in zip(value.shape[1:], other.shape[1:], strict=True)]
            value, other = _filled(value, shape), _filled(other, shape)
        joined[name] = torch.cat([value, other])
    return joined


def _filled(value: Tensor, shape: Sequence[int]) -> Tensor:
    filled = value.new_zeros(len(value), *shape)
    filled[within(value.shape[1:])] = value
    return filled
