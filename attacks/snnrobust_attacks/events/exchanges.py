"""Simulated annealing on sets of changed entries, without gradients: changes are taken back, made, and exchanged."""

from __future__ import annotations

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.plugin.protocols import Queries
from snnrobust.threat_models.selection import places_of
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust_attacks.events.changed_entries import target
from snnrobust_attacks.minimum_norm.shared import wrong

#: Shares of the proposals that take a change back, and that exchange one; the others make one.
BACK, EXCHANGE = 0.2, 0.6
#: Share of the changes made that stand next to the one taken back, and how far along one axis at most.
NEAR, REACH = 0.6, 3
#: Probability that a larger set is accepted; it falls linearly to zero.
UPHILL = 0.1


def annealed(
    oracle: Queries,
    x: Tensor,
    origin: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: Draws,
    index: Tensor,
    *,
    steps: int,
    first: int,
    query: int,
    enough: float,
) -> Tensor:
    """Inputs with fewer changes at which the net is still wrong, [N, *].

    A proposal that takes a change back, makes one, or does both, is accepted if the net is wrong there; one that adds a
    change only with a small probability. Equally small sets replace each other, so the search moves along a plateau.
    Where an effect lasts over time, as a membrane potential does, a change next to one that works often works, too.

    Args:
        oracle: The net.
        x: Inputs at which the net is wrong, [N, *].
        origin: Originals, [N, *].
        y: Labels, [N].
        threat: The threat model, for the bounds.
        rng: Draws.
        index: Of the samples, [N].
        steps: Proposals.
        first: Number of the first draw.
        query: Number of the first query.
        enough: Number of changes at which the search of a sample ends.
    """
    shape = x.shape[1:]
    now, best, x0 = x.flatten(1).clone(), x.flatten(1).clone(), origin.flatten(1)
    size = (now != x0).sum(dim=1)
    fewest = size.clone()
    for step in range(steps):
        rows = (fewest > enough).nonzero()[:, 0]
        if not len(rows):
            break
        ids = index[rows.to(index.device)]
        unit = rng.on(x).uniform(ids, (8,), first + step)
        proposal = _proposed(now[rows], x0[rows], size[rows], unit, shape, threat)
        count = (proposal != x0[rows]).sum(dim=1)
        fooled = wrong(oracle.logits(proposal.reshape(-1, *shape), ids, query + step), y[rows])
        accepted = fooled & ((count <= size[rows]) | (unit[:, -1] < UPHILL * (1 - step / steps)))
        at = rows[accepted]
        now[at], size[at] = proposal[accepted], count[accepted]
        better = at[size[at] <= fewest[at]]
        best[better], fewest[better] = now[better], size[better]
    return best.reshape(x.shape)


def _proposed(x: Tensor, origin: Tensor, size: Tensor, unit: Tensor, shape: torch.Size, threat: ThreatModel) -> Tensor:
    """Inputs [N, D] of this shape with one of their `size` [N] changes taken back, one made, or both."""
    kind, leaving, anywhere, nearby, axis, distance, sign, _ = unit.unbind(dim=1)
    places, _ = places_of(x != origin)
    out = places.gather(1, (leaving * size).long().minimum(size - 1)[:, None])
    extents = torch.tensor(shape, device=x.device)
    strides = extents.flip(0).cumprod(0).flip(0) // extents
    along = (axis * len(shape)).long().clamp_max(len(shape) - 1)[:, None]
    shift = (distance[:, None] * (2 * REACH + 1)).long() - REACH
    there = out // strides[along] % extents[along] + shift
    inside = (there >= 0) & (there < extents[along]) & (nearby < NEAR)[:, None]
    enter = (anywhere[:, None] * x.shape[1]).long().clamp_max(x.shape[1] - 1)
    enter = torch.where(inside, out + shift * strides[along], enter)
    old = x.gather(1, enter)
    new = target(old, sign[:, None] - 0.5, threat)
    before = origin.gather(1, enter)
    made = (kind >= BACK)[:, None] & (old == before) & threat.may_change(before)
    back = (kind < BACK + EXCHANGE)[:, None]
    proposal = x.scatter(1, out, torch.where(back, origin.gather(1, out), x.gather(1, out)))
    return proposal.scatter(1, enter, torch.where(made, new, proposal.gather(1, enter)))
