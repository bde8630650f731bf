"""Choosing entries by score."""

from __future__ import annotations

import torch
from torch import Tensor


def largest_mask(score: Tensor, count: int | Tensor) -> Tensor:
    """Which entries of each row of `score` [N, D] are among its `count` (one, or [N]) largest; of ties, the first.

    Example:
        >>> largest_mask(torch.tensor([[1.0, 3.0, 1.0, 0.0]]), 2)
        tensor([[ True,  True, False, False]])
    """
    order = score.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(score.shape[1], device=score.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    return rank < (count[:, None] if isinstance(count, Tensor) else count)
