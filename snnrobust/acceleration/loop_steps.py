"""Steps in the graph of a merged loop: all of all samples, [T N, *], one of them, [N, *], or T of these one by one."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from snnrobust.errors import InputError


def joined_steps(x: Tensor, steps: int, axis: int) -> Tensor:
    """The first T steps of a sequence with this time axis, as [T N, *].

    Raises:
        InputError: If it has fewer.
    """
    if x.shape[axis] < steps:
        raise InputError(
            f"expected sequences of {steps} steps, as the net's loop has, got {x.shape[axis]}; give as many"
        )
    return x.movedim(axis, 0)[:steps].flatten(0, 1)


def repeated_steps(x: Tensor, steps: int) -> Tensor:
    """One step [N, *] as all of them, [T N, *]."""
    return x.expand(steps, *x.shape).flatten(0, 1)


def reshaped_rows(x: Tensor, *sizes: int) -> Tensor:
    """Each row of x [M, *] with other sizes."""
    return x.reshape(len(x), *sizes)


def steps_of(x: Tensor, steps: int) -> tuple[Tensor, ...]:
    """[T N, *] as T tensors [N, *]."""
    return x.reshape(steps, -1, *x.shape[1:]).unbind()


def sum_of(steps: Sequence[Tensor]) -> Tensor:
    """The sum of tensors, in their order."""
    return functools.reduce(operator.add, steps)


def mean_of(steps: Sequence[Tensor]) -> Tensor:
    """The mean of tensors, added in their order."""
    return sum_of(steps) / len(steps)


#: Reductions, and what takes the place of those over a stack of steps.
SUMS: Mapping[object, Any] = {"sum": sum_of, torch.sum: sum_of, "mean": mean_of, torch.mean: mean_of}


def begins_all_steps(node: fx.Node) -> bool:
    """Whether a step of the graph makes [T N, *] of other things."""
    return node.target in (joined_steps, repeated_steps)


def ends_all_steps(node: fx.Node) -> bool:
    """Whether a step of the graph takes [T N, *] apart."""
    return node.target is steps_of
