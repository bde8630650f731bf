"""Padding of sequences of different lengths."""

from __future__ import annotations

import torch
from torch import Tensor


def by_length(lengths: Tensor | None, count: int) -> list[tuple[int | None, Tensor]]:
    """The positions of `count` sequences by their length, shortest first; one group of length None without lengths.

    Attacks and noise get each group without its padding (`without_padding`), so that no budget, direction, window or
    draw of theirs can depend on how far a sequence is padded.

    Example:
        >>> by_length(torch.tensor([3, 2, 3]), 3)
        [(2, tensor([1])), (3, tensor([0, 2]))]
    """
    if lengths is None:
        return [(None, torch.arange(count))]
    return [(length, (lengths == length).nonzero()[:, 0].cpu()) for length in sorted(set(lengths.tolist()))]


def without_padding(x: Tensor, steps: int | None) -> Tensor:
    """The first `steps` of the sequences x [N, T, *]; all of them for None."""
    return x if steps is None else x[:, :steps].contiguous()


def with_padding(x: Tensor, like: Tensor) -> Tensor:
    """The sequences x [N, L, *], followed by the padding of `like` [N, T, *]."""
    if x.shape == like.shape or x.ndim != like.ndim or x.shape[2:] != like.shape[2:] or x.shape[1] >= like.shape[1]:
        return x  # nothing is missing, or `verify` reports a wrong shape
    return torch.cat([x, like[:, x.shape[1] :]], dim=1)


def keep_padding(x: Tensor, x0: Tensor, lengths: Tensor | None) -> Tensor:
    """The sequences x [N, T, *] with the padding, the steps past each one's length, taken from `x0`.

    A change of the padding would use budget without effect, or affect a net with a read-out of its own over all steps.
    """
    if lengths is None or x.shape != x0.shape:  # `verify` reports a wrong shape
        return x
    clock = torch.arange(x0.shape[1], device=x0.device)
    valid = clock < lengths.to(x0.device)[:, None]  # [N, T]
    return torch.where(valid.reshape(*valid.shape, *[1] * (x0.ndim - 2)), x, x0)
