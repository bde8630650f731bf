"""Greedy search over sets of changed entries: flips of binary inputs, L0 changes of others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_count, check_share
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.errors import InputError
from snnrobust.plugin import State
from snnrobust.plugin.task import Task
from snnrobust.threat_models.selection import largest_mask, places_of
from snnrobust.threat_models.threat_model import COUNTS, Norm, ThreatModel
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.optimisers.shared import counts_limits, from_original, project_by_priority


@dataclass(frozen=True)
class Flips:
    """Greedy search over sets of floor(epsilon) changed entries, led by the input gradient.

    Changing entry i from x_i to t_i raises the objective by about a_i = (t_i - x_i) g_i. A change is legal if a_i > 0:
    t_i is the bound in the gradient's direction (for binary inputs the flip, legal if (1 - 2 x_i) g_i > 0; under L-inf,
    for event counts, the projection leaves floor(epsilon) of it). From the best set so far and its gradient, a step

        takes back m changes, by small c_i = (x_i - x0_i) g_i, what the change is worth,
        makes other changes, by large a_i, until the budget is spent,

    and keeps the result if the measured objective is no lower: most flips leave a rate read-out where it is. Both
    choices are made with Gumbel noise, score + T noise (Gumbel-top-k: a draw without replacement with probability
    ~ score^(1/T)), where the score is log a_i and T is uniform in [0, temperature) for each proposal, so that some
    proposals are greedy and some are not. Every other proposal may make illegal changes too, with the score log `floor`
    (legal ones are measured in units of their mean), so that zero or wrong gradients leave a random search. m is a
    random part, at most p_k = exchange (1 - k / steps), of the changes, and at least one where the budget is spent. One
    step in eight spends only a random part of the budget, since fewer changes may suffice.

    After the Sparse Dynamic Attack (Lun et al. 2025, CVPR: legal flips by gradient, kept if the measured objective
    agrees) and random search over sets (Sparse-RS, Croce et al. 2022, arXiv 2006.12834).

    For norm "l0" in every domain, for L1 of binary inputs, for L-inf of whole numbers, where at most half of the
    entries change, and for counts of changes per step, of additions and of deletions, alone or as limits: there each
    proposal makes the changes of largest score that the budgets allow.

    Attributes:
        steps: Number of steps, each a forward and a backward pass.
        exchange: Greatest share of the changes that the first step takes back.
        temperature: Greatest strength of the noise.
        floor: Weight of a change against the gradient.
    """

    steps: int = 50
    exchange: float = 0.5
    temperature: float = 1.0
    floor: float = 0.3

    needs: ClassVar[Literal["gradient"]] = "gradient"
    norms: ClassVar[tuple[Norm, ...]] = COUNTS

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_share("exchange", self.exchange, "give a share of the changes", zero=True, one=True)
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"expected temperature >= 0, got {self.temperature!r}; 0 follows the gradient alone")
        check_share("floor", self.floor, "give a weight beside a legal change's 1", one=True)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` for a norm that does not count changes."""
        norm = "l0" if task.attack is None else task.attack.norm
        counts = ("l0-step", "additions", "deletions")
        known = {
            "real": ("l0",),
            "integer": ("l0", "linf", *counts),
            "binary": ("l0", "linf", "l1", *counts),
        }.get(model.domain, ())
        if norm not in known:
            raise InputError(
                f"expected norm in {list(known)} for '{task.label}' in domain '{model.domain}', got '{norm}'; "
                f"it searches sets of changed entries"
            )

    def init(self, x0: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> State:
        """Starts at the original, whose gradient makes the first proposal."""
        return from_original(x0)

    def step(
        self,
        state: State,
        gradient: Tensor,
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
        gradient = torch.where(better, gradient, state["gradient"])
        x = self._propose(best, gradient, x0, k, threat, rng.on(x0), index)
        return {
            "x": x,
            "best": best,
            "gradient": gradient,
            "loss": torch.maximum(loss, state["loss"]),
        }

    def _propose(
        self, best: Tensor, gradient: Tensor, x0: Tensor, k: Tensor, threat: ThreatModel, rng: Draws, index: Tensor
    ) -> Tensor:
        """An allowed set [N, *]: the best one with some of its changes exchanged for others."""
        x, g, origin = best.flatten(1), gradient.flatten(1), x0.flatten(1)
        count, limited = x.shape[1], counts_limits(threat)
        # All numbers of a sample in one draw: [N, D + 4]; [N, 2 D + 4] where sides are drawn.
        drawn = count if threat.domain == "binary" and not limited else 2 * count
        unit = rng.sub("flips").uniform(index, (drawn + 4,), k)
        noise, side = unit[:, :count].clamp(1e-7, 1 - 1e-7), unit[:, count:drawn]
        part, heat, size, coin = unit[:, drawn:].unbind(dim=1)
        gumbel = self.temperature * heat[:, None] * -torch.log(-torch.log(noise))

        changed = x != origin
        held = changed.sum(dim=1)
        back = (self.exchange * (1 - k / self.steps) * part * held).floor().long()
        # A set below the budget may grow without taking anything back: one entry may matter more than all others.
        least = (part < 0.5).long()
        wanted = held
        if not limited:
            budget = min(threat.whole, count) if threat.norm in ("l0", "l1") else (count + 1) // 2
            wanted = (budget * (8 * size).clamp_max(1)).ceil().long()
            back, least = torch.maximum(back, held - wanted), torch.where(held < wanted, least, 1)
        # Of the changed entries alone, which are few.
        places, counted = places_of(changed)
        value = ((x - origin) * g).gather(1, places)
        # Harmful changes are taken back before useless ones.
        worth = self._score(value, counted) * torch.where(value < 0, 2, 1)
        leave = (gumbel.gather(1, places) - worth).masked_fill(~counted, -torch.inf)
        taken = counted & largest_mask(leave, back.maximum(least))
        removed = torch.zeros_like(changed)
        removed[taken.nonzero()[:, 0], places[taken]] = True
        kept = changed & ~removed

        target = self._target(origin, g, side, threat)
        # Not the changes that were just taken back, which would undo the step. In one proposal of two, no changes
        # against the gradient, unless there are no others, and it did not help to take changes back alone.
        others = ~kept & ~(removed & (target == x)) & threat.may_change(origin)
        along = others & ((target - origin) * g > 0)
        only_along = (coin < 0.5) & (along.any(dim=1) | (taken & (value < 0)).any(dim=1))
        eligible = torch.where(only_along[:, None], along, others)
        if limited:  # one step in eight spends only a part of the budget: a random part of the entries may change
            eligible &= (side < 8 * size[:, None]) | (size[:, None] >= 1 / 8)
        gain = (self._score((target - origin) * g, eligible) + gumbel).masked_fill(~eligible, -torch.inf)
        if limited:
            priority = (gain.argsort(dim=1, stable=True).argsort(dim=1, stable=True) / count).to(x0)
            kept, target, priority, eligible = (each.reshape(x0.shape) for each in (kept, target, priority, eligible))
            return project_by_priority(best, x0, kept, target, priority, eligible, threat)
        made = eligible & largest_mask(gain, wanted - kept.sum(dim=1))
        changes = torch.where(made, target, torch.where(kept, x, origin))
        changes = changes.reshape(x0.shape)
        return threat.project(changes, x0) if threat.norm == "linf" else changes  # others are within the budget

    def _score(self, gain: Tensor, among: Tensor) -> Tensor:
        """The logarithm of the estimated gains [N, D], in units of the mean legal gain of the entries `among`."""
        legal = gain.clamp_min(0) * among
        mean = legal.sum(dim=1, keepdim=True) / (legal > 0).sum(dim=1, keepdim=True).clamp_min(1)
        weight = torch.where(mean > 0, legal / mean, 0.0)  # no gradient, no preference
        return torch.log(weight.clamp_min(self.floor))

    def _target(self, x0: Tensor, gradient: Tensor, side: Tensor, threat: ThreatModel) -> Tensor:
        """The bound in the gradient's direction, or the other where an entry is there already; random without one."""
        low, high = threat.bounds
        if threat.domain == "binary":
            return low + high - x0
        up = torch.where(gradient == 0, side < 0.5, gradient > 0)
        up = torch.where(x0 <= low, True, torch.where(x0 >= high, False, up))
        return torch.where(up, high, low).to(x0)
