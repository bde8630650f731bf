"""Proposals of a search over events that move in time."""

from __future__ import annotations

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.threat_models.threat_model import ThreatModel

#: Score of an entry that holds a frozen packet: more than all other scores of a sample together could outweigh.
FROZEN = 1e3


def propose(
    best: Tensor,
    x0: Tensor,
    score: Tensor,
    share: Tensor,
    threat: ThreatModel,
    rng: Draws,
    index: Tensor,
    k: int | Tensor,
) -> Tensor:
    """A retiming of x0 [N, T, *] that keeps most lines of `best`, and puts the others where scores are high.

    A line is one entry over time. Each line with events is freed with probability `share` [N], and one at least. Where
    the budget couples the lines (total shift, number of moves), lines that have not moved are free too: the projection
    spends on them what the frozen ones leave.

    Args:
        best: The best retiming so far.
        x0: Originals.
        score: What an event at each entry is worth, of magnitude 1.
        share: Share of the lines that are freed.
        threat: A threat model on shifts.
        rng: Keyed draws.
        index: Sample ids, [N].
        k: Which draw, one or for each sample.
    """
    lines = x0.shape[2:]
    active = (x0 != 0).any(dim=1).flatten(1)  # (N, lines)
    moved = (best != x0).any(dim=1).flatten(1)
    unit = rng.sub("lines").uniform(index, lines, k).flatten(1).masked_fill(~active, 2.0)
    free = (unit < share[:, None]) | (unit == unit.amin(dim=1, keepdim=True))
    if set(threat.budgets) != {"shift-linf"}:
        free |= ~moved
    frozen = ~free.reshape(len(x0), 1, *lines)
    return threat.project(torch.where(frozen, FROZEN * (best != 0).to(score), score), x0)
