"""Euclidean projections onto balls, boxes and whole numbers, one row a sample."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def project_whole_l1(delta: Tensor, low: Tensor, high: Tensor, budget: int | Tensor) -> Tensor:
    """The nearest whole d to `delta` [N, *] with |d|_1 <= budget and low <= d <= high, where low <= 0 <= high.

    `budget` is one number, or one for each sample [N].

    The j-th unit of a change of t saves (t - j + 1)^2 - (t - j)^2 = 2 (t - j) + 1, less with each unit, so the units
    that save most are taken: d = clip(round(t - m), 0, room) for the least m that fits the budget, found by bisection;
    what is left goes to the entries tied at m, the first of them first.
    """
    if isinstance(budget, Tensor):
        budget = budget[:, None]
    size, room = delta.flatten(1).double().abs(), torch.where(delta > 0, high, -low).flatten(1).double()

    def at(m: Tensor) -> Tensor:
        return torch.minimum((size - m + 0.5).floor().clamp_min(0), room)

    upper = size.amax(dim=1, keepdim=True)
    lower = torch.zeros_like(upper)
    whole = at(lower)
    fits = whole.sum(dim=1, keepdim=True) <= budget
    for _ in range(60):
        middle = (lower + upper) / 2
        outside = at(middle).sum(dim=1, keepdim=True) > budget
        lower, upper = torch.where(outside, middle, lower), torch.where(outside, upper, middle)
    taken = at(upper)
    tied = at(lower) - taken
    left = budget - taken.sum(dim=1, keepdim=True)
    taken = taken + torch.minimum((left - (tied.cumsum(dim=1) - tied)).clamp_min(0), tied)
    taken = torch.where(fits, whole, taken).to(delta.dtype)
    return delta.sign() * taken.reshape(delta.shape)


def project_ball_and_box(delta: Tensor, low: Tensor, high: Tensor, epsilon: float, norm: Literal["l2", "l1"]) -> Tensor:
    """Euclidean projection of `delta` [N, *] onto {|d|_p <= epsilon, low <= d <= high}, where low <= 0 <= high.

    With a multiplier m >= 0 the minimiser is clip(shrink(delta, m), low, high), where shrink is d / (1 + m) for L2
    and soft thresholding by m for L1; its norm falls with m, so m is found by bisection per sample. For L1 this is
    the projection that Croce & Hein 2021 ("Mind the box") show to matter for L1 attacks.
    """
    shape = delta.shape
    delta, low, high = delta.flatten(1), low.flatten(1), high.flatten(1)

    def length(d: Tensor) -> Tensor:
        return d.norm(dim=1, keepdim=True) if norm == "l2" else d.abs().sum(dim=1, keepdim=True)

    def at(m: Tensor) -> Tensor:
        shrunk = delta / (1 + m) if norm == "l2" else delta.sign() * (delta.abs() - m).clamp_min(0)
        return shrunk.clamp(low, high)

    inside = delta.clamp(low, high)
    if bool((length(inside) <= epsilon).all()):
        return inside.reshape(shape)
    if epsilon == 0:
        return torch.zeros_like(delta).reshape(shape)
    # At the upper end the shrunk vector fits even without the box: |delta|_2 / (1 + m) = epsilon, or threshold max|d|.
    upper = (length(delta) / epsilon - 1).clamp_min(0) if norm == "l2" else delta.abs().amax(dim=1, keepdim=True)
    lower = torch.zeros_like(upper)
    for _ in range(40):
        middle = (lower + upper) / 2
        outside = length(at(middle)) > epsilon
        lower, upper = torch.where(outside, middle, lower), torch.where(outside, upper, middle)
    projected = at(upper)
    projected = projected * (epsilon / length(projected).clamp_min(epsilon))  # float rounding of the L2 upper end
    return torch.where(length(inside) <= epsilon, inside, projected).reshape(shape)
