"""Random search."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_count, check_share
from snnrobust.plugin import State
from snnrobust.threat_models.selection import largest_mask, places_of
from snnrobust.threat_models.threat_model import SHIFTS, Norm, ThreatModel
from snnrobust_attacks.optimisers.retimings import propose
from snnrobust_attacks.optimisers.shared import counts_limits, project_by_priority


@dataclass(frozen=True)
class RandomSearch:
    """Random search over the extreme points of the ball; a black-box attack.

    Starts at a random point of the kind below. A step redraws a part of the best iterate and keeps the result if its
    objective is no lower. Ties count, since a rate read-out takes few values and most steps leave it where it is. Every
    iterate is projected onto the threat model.

    L-inf: vertices x0 +- epsilon; a step gives a random share of the entries new signs, or, one time in four, values
        uniform in the ball: adversarial examples of a spiking net may be isolated inside it.
    L2: x0 + epsilon n / |n| with normal n; a step redraws a random share of n.
    L0, L1: random entries moved to a random bound until the budget is spent (under L1 the last one only as far as it
        lasts). A step takes back what makes room for a new change, and each change with a probability that falls
        over the steps, p_k = exchange / (1 + 20 k / steps), and spends the budget again; one time in eight only a
        random part of it, since less may suffice. After Sparse-RS (Croce et al. 2022, arXiv 2006.12834), which
        exchanges a falling share of the changed pixels for others with extreme values. Counts per step, of additions
        and of deletions, and limits: the same, with random changes for as long as they fit.
    Shifts: random moves; a step frees a random share of the lines, one at least.
    Event lists: a random list at each step, of all that are allowed.

    A sanity check for gradient-based attacks, which have failed where it beats them, and an attack on nets without
    useful gradients. Under L-inf and L2 it is weak; use the Square attack there (Andriushchenko et al. 2020, arXiv
    1912.00049).

    Attributes:
        steps: Number of steps, each a forward pass.
        share: Probability that an entry is redrawn in a step under L-inf and L2.
        exchange: Probability that a change is taken back in the first step under L0 and L1.
    """

    steps: int = 100
    share: float = 0.1
    exchange: float = 0.5

    needs: ClassVar[Literal["loss"]] = "loss"
    norms: ClassVar[tuple[Norm, ...]] = get_args(Norm)
    event_lists: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_share("share", self.share, "give a share of the entries", one=True)
        check_share("exchange", self.exchange, "give a share of the changes", zero=True, one=True)

    def init(self, x0: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> State:
        """Starts at a random extreme point."""
        none = torch.full((len(x0),), -torch.inf, dtype=x0.dtype, device=x0.device)
        k = torch.zeros(len(x0), dtype=torch.long, device=x0.device)
        if threat.norm in SHIFTS or threat.domain == "events":
            return {"x": threat.start(x0, rng.sub("start"), index), "best": x0.clone(), "loss": none}
        start = self._propose(x0, x0, k, threat, rng.sub("start"), index, share=1.0)
        return {"x": start, "best": x0.clone(), "loss": none}

    def step(
        self,
        state: State,
        gradient: Tensor | None,
        loss: Tensor,
        x0: Tensor,
        k: Tensor,
        threat: ThreatModel,
        rng: Draws,
        index: Tensor,
    ) -> State:
        """Keeps the iterate if it is no worse than the best, and proposes the next from the best."""
        better = (loss >= state["loss"]).reshape(-1, *[1] * (x0.ndim - 1))
        best = torch.where(better, state["x"], state["best"])
        x = self._propose(best, x0, k, threat, rng, index, self.share)
        return {"x": x, "best": best, "loss": torch.maximum(loss, state["loss"])}

    def _propose(
        self, best: Tensor, x0: Tensor, k: Tensor, threat: ThreatModel, rng: Draws, index: Tensor, share: float
    ) -> Tensor:
        """An allowed input [N, *] that shares a part of its changes with `best` [N, *]."""
        rng, shape, wide = rng.on(x0), x0.shape[1:], (-1, *[1] * (x0.ndim - 1))
        if threat.domain == "events":
            return threat.start(x0, rng.sub("list"), index, k)
        if threat.norm in SHIFTS:
            score = rng.sub("where").uniform(index, shape, k)
            rate = self.exchange / (1 + 20 * (k / self.steps))
            return propose(best, x0, score, rate, threat, rng, index, k)
        if counts_limits(threat):
            return self._spend_within_limits(best, x0, k, threat, rng, index)
        if threat.norm in ("l0", "l1"):
            return self._spend(best, x0, k, threat, rng, index)
        drawn = rng.sub("where").uniform(index, shape, k) < share
        if threat.norm == "linf":
            unit = rng.sub("sign").uniform(index, shape, k, -1.0, 1.0)
            inside = (rng.sub("inside").uniform(index, (1,), k) < 0.25).reshape(wide)
            new = x0 + threat.epsilon * torch.where(inside, unit, torch.where(unit < 0, 1.0, -1.0))
            return threat.project(torch.where(drawn, threat.project(new, x0), best), x0)
        spread = threat.epsilon / math.sqrt(max(1, math.prod(shape)))  # the size of an entry at length epsilon
        change = torch.where(drawn, spread * rng.sub("sign").normal(index, shape, k), best - x0)
        length = change.flatten(1).norm(dim=1).reshape(wide)
        # Longer than epsilon, to make up for what the bounds cut off in the projection.
        return threat.project(x0 + change * (3 * threat.epsilon / length.clamp_min(1e-12)), x0)

    def _spend_within_limits(
        self, best: Tensor, x0: Tensor, k: Tensor, threat: ThreatModel, rng: Draws, index: Tensor
    ) -> Tensor:
        """Takes some changes back, and makes random ones for as long as they fit; some steps only a part of them."""
        shape, wide = x0.shape[1:], (-1, *[1] * (x0.ndim - 1))
        leave, order, side = (rng.sub(name).uniform(index, shape, k) for name in ("leave", "order", "side"))
        part = (8 * rng.sub("part").uniform(index, (1,), k)).clamp_max(1).reshape(wide)
        rate = (self.exchange / (1 + 20 * (k / self.steps))).reshape(wide)
        changed = best != x0
        # One change at least makes room for another.
        least = largest_mask(torch.where(changed, 1 - leave, -1.0).flatten(1), 1).reshape(x0.shape)
        kept = changed & ~(leave < rate) & ~least
        low, high = threat.bounds
        target = torch.where(((side < 0.5) & (x0 < high)) | (x0 <= low), high, low).to(x0)
        return project_by_priority(best, x0, kept, target, order, ~kept & (order < part), threat)

    def _spend(self, best: Tensor, x0: Tensor, k: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> Tensor:
        """The L0 and L1 proposal: takes some changes back and moves random entries to a bound with what that frees."""
        x, origin = best.flatten(1), x0.flatten(1)
        count, binary = x.shape[1], threat.domain == "binary"
        # All numbers of a sample in one draw: [N, 2 D + 1], or [N, D + 1] where an entry has one other value. The first
        # one of an entry decides: the changes with the smallest are taken back, the entries with the largest change.
        unit = rng.sub("spend").uniform(index, ((1 if binary else 2) * count + 1,), k)
        order, side = unit[:, :count], unit[:, count:-1]
        counts = threat.norm == "l0" or threat.domain != "real"
        budget = (threat.whole if counts else threat.epsilon) * (8 * unit[:, -1:].double()).clamp_max(1)
        budget = budget.ceil() if counts else budget

        rate = self.exchange / (1 + 20 * (k / self.steps))[:, None]
        places, counted = places_of(x != origin)
        leave = order.gather(1, places).masked_fill(~counted, -1.0)
        # Something must be left to spend: room for one more entry, or under L1 what the first change cost.
        keep = budget[:, 0].long() - 1 if threat.norm == "l0" else counted.sum(dim=1) - 1
        back = counted & ((leave < rate) | ~largest_mask(leave, keep))
        row, place = back.nonzero()[:, 0], places[back]
        x = x.index_put((row, place), origin[row, place])

        low, high = threat.bounds
        if binary:
            target = low + high - origin
        else:
            target = torch.where(((side < 0.5) & (origin < high)) | (origin <= low), high, low).to(origin)
        free = (x == origin) & threat.may_change(origin)
        order = torch.where(free, order, -1.0)
        if threat.norm == "l0":
            left = budget[:, 0].long() - (x != origin).sum(dim=1)
            return torch.where(free & largest_mask(order, left), target, x).reshape(x0.shape)
        left = budget - (x - origin).double().abs().sum(dim=1, keepdim=True)
        moved = _spent(left, origin, target, -order, free)
        return threat.project(torch.where(free, moved, x).reshape(x0.shape), x0)


def _spent(left: Tensor, origin: Tensor, target: Tensor, order: Tensor, free: Tensor) -> Tensor:
    """The `free` entries of `origin` [N, D] moved to `target` by rising `order`, as far as `left` [N, 1] pays."""
    order = order.argsort(dim=1, stable=True)
    cost = (free * (target - origin).double().abs()).gather(1, order)
    paid = ((left - (cost.cumsum(dim=1) - cost)) / cost.clamp_min(1e-12)).clamp(0, 1) * (cost > 0)
    part = torch.empty_like(paid).scatter_(1, order, paid)
    moved = origin + (part * (target - origin).double()).to(origin)
    return torch.where(part == 1, target, moved)
