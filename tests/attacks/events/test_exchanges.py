"""Annealing on sets of changes: its proposals, and smallest sets where there is no gradient."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.plugin.protocols import Queries
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust_attacks.events.exchanges import REACH, _proposed, annealed

SHAPE = torch.Size((6, 5, 4))


def test_proposals_change_one_entry_or_exchange_one() -> None:
    generator = torch.Generator().manual_seed(0)
    origin = (torch.rand(3000, 120, generator=generator) < 0.4).float()
    x = torch.where(torch.rand(origin.shape, generator=generator) < 0.05, 1 - origin, origin)
    x[:, 0] = 1 - origin[:, 0]  # never without a change
    size = (x != origin).sum(dim=1)
    unit = torch.rand(3000, 8, generator=generator)
    threat = ThreatModel("l0", 10.0, domain="binary")
    proposal = _proposed(x, origin, size, unit, SHAPE, threat)
    assert set(proposal.unique().tolist()) == {0.0, 1.0}
    back = (x != origin) & (proposal == origin)
    made = (x == origin) & (proposal != origin)
    torch.testing.assert_close(x != proposal, back | made)
    assert (back.sum(dim=1) <= 1).all()
    assert (made.sum(dim=1) <= 1).all()
    both = back.any(dim=1) & made.any(dim=1)
    # Of the exchanges that were proposed, most are near: along one axis, not farther than the reach.
    place = torch.stack(torch.unravel_index(back[both].int().argmax(dim=1), SHAPE), dim=1)
    other = torch.stack(torch.unravel_index(made[both].int().argmax(dim=1), SHAPE), dim=1)
    moved = (place - other).abs()
    near = ((moved > 0).sum(dim=1) == 1) & (moved.amax(dim=1) <= REACH)
    assert 0.3 < near.float().mean() < 0.8
    for kind in (back.any(dim=1) & ~both, made.any(dim=1) & ~both, both):
        assert kind.float().mean() > 0.1


class Oracle:
    """Logits of a net without any gradient: a weighted sum of all entries, rounded."""

    def __init__(self, weight: Tensor, bias: float) -> None:
        self.weight, self.bias, self.queries = weight, bias, 0

    def logits(self, x: Tensor, index: Tensor, query: int) -> Tensor:
        self.queries += len(x)
        score = ((x * self.weight).sum(dim=(1, 2)) + self.bias).ceil()
        return torch.stack([score, -score], dim=1)


def smallest_sets(x: Tensor, weight: Tensor, bias: float) -> Tensor:
    """The smallest number of flips that takes a positive score to 0 or less, a tie, from the sorted gains, [N]."""
    gain = ((2 * x - 1) * weight).flatten(1).clamp_min(0).sort(dim=1, descending=True).values.cumsum(dim=1)
    return ((((x * weight).sum(dim=(1, 2)) + bias)[:, None] - gain) > 0).sum(dim=1) + 1


def searched(steps: int, enough: float = 1.0) -> tuple[Tensor, Tensor, int]:
    """Flips of what is found [N], of the smallest sets [N], and the queries."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(10, 12, generator=generator)
    x = (torch.rand(40, 10, 12, generator=generator) < 0.3).float()
    bias = 9.0 - float((x * weight).sum(dim=(1, 2)).min())
    oracle = Oracle(weight, bias)
    start = torch.where((2 * x - 1) * weight > 0, 1 - x, x)  # all flips that lower the score
    found = annealed(
        cast(Queries, oracle),
        start,
        x,
        torch.zeros(40, dtype=torch.long),
        ThreatModel("l0", 120.0, domain="binary"),
        Draws(0, "exchanges"),
        torch.arange(40),
        steps=steps,
        first=0,
        query=0,
        enough=enough,
    )
    assert (oracle.logits(found, torch.arange(40), 0)[:, 0] <= 0).all()
    return (found != x).flatten(1).sum(dim=1), smallest_sets(x, weight, bias), oracle.queries


def test_small_sets_are_found_without_a_gradient() -> None:
    """Negative control: after a few steps the sets are still large."""
    flips, truth, _ = searched(3000)
    assert (flips >= truth).all()
    assert flips.sum() <= 1.1 * truth.sum()
    assert searched(30)[0].sum() > 2 * truth.sum()


def test_a_search_ends_at_enough_changes() -> None:
    flips, _, queries = searched(1500, enough=30)
    assert (flips <= 30).all()
    assert queries < 0.5 * searched(1500)[2]
