"""Choosing entries by score."""

from __future__ import annotations

import torch
from torch import Tensor


def largest_mask(score: Tensor, count: int | Tensor) -> Tensor:
    """Which entries of each row of `score` [N, D] are among its `count` (one, or [N]) largest; of ties, the first.

    NaN is never chosen, and takes the place of another.

    Example:
        >>> largest_mask(torch.tensor([[1.0, 3.0, 1.0, 0.0]]), 2)
        tensor([[ True,  True, False, False]])
    """
    wanted = torch.as_tensor(count, device=score.device).clamp(0, score.shape[1]).expand(len(score))[:, None]
    most = int(wanted.max()) if len(score) else 0
    if most == 0:
        return torch.zeros_like(score, dtype=torch.bool)
    # Entries from the smallest of the largest on: much faster than to sort all.
    least = score.topk(most, dim=1).values.gather(1, (wanted - 1).clamp_min(0))
    chosen = (score >= least) & (wanted > 0)
    tied = (chosen.sum(dim=1) > wanted[:, 0]).nonzero()[:, 0]
    if len(tied):  # of the entries that equal the smallest, as many as are left
        above, equal = score[tied] > least[tied], score[tied] == least[tied]
        left = wanted[tied] - above.sum(dim=1, keepdim=True)
        chosen[tied] = above | (equal & (equal.cumsum(dim=1) <= left))
    return chosen


def absent(x: Tensor, silent: float) -> Tensor:
    """Which spike times of x [N, *] mark a spike that is absent, [N, *].

    They are compared in float32, the type of data: 0.52 there is another number than in float64, where a net may be.
    """
    return x.float() == silent


def places_of(mask: Tensor) -> tuple[Tensor, Tensor]:
    """The places [N, K] of the true entries of each row of `mask` [N, D], ascending, and which of them count [N, K].

    K is the most in a row; shorter rows are filled up.

    Example:
        >>> places_of(torch.tensor([[False, True, True], [False, False, True]]))
        (tensor([[1, 2],
                [2, 0]]), tensor([[ True,  True],
                [ True, False]]))
    """
    counts = mask.sum(dim=1)
    slots = torch.arange(int(counts.max()) if len(mask) else 0, device=mask.device)
    counted = slots < counts[:, None]
    places = torch.zeros(counted.shape, dtype=torch.long, device=mask.device)
    places[counted] = mask.nonzero()[:, 1]
    return places, counted
