"""The fewest changes by taking back and exchanging those of an adversarial example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_count, check_share
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.plugin.protocols import Queries
from snnrobust.plugin.task import Task
from snnrobust.threat_models.selection import largest_mask
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.events.changed_entries import allowed, check_whole_numbers, lead, most_changes, target
from snnrobust_attacks.minimum_norm.shared import wrong
from snnrobust_attacks.optimisers.shared import per_sample


@dataclass(frozen=True)
class FewestFlips:
    """Sets of changes that shrink while the net stays wrong, by simulated annealing; led by the gradient.

    First 1, 2, 4, .. changes of largest gradient are added until the net is wrong, whatever the budget. Then each step
    proposes, for each sample, to take changes back (half of the proposals; one of them, or a random part), to
    exchange one, or to add one. A proposal at which the net is right is refused. One that leaves more changes is taken
    with a probability that falls from `heat` to 0; an exchange that gives the true class a smaller margin or the same,
    always, else with the probability `heat` + .2.

    Changes are taken back by small (x_i - x0_i) g_i and made by large (t_i - x_i) g_i, plus Gumbel noise, where g is
    the gradient of the objective at a recent accepted set. The smallest set counts at every budget from its size on, so
    that one search serves all of them.

    A search at a fixed budget has to raise a margin that hardly any single change moves, since the outputs of a
    spiking net take few values; here the size of the set tells better proposals from worse. Taking single changes
    back is the pointwise attack (Schott et al. 2019, arXiv 1805.09190).

    Attributes:
        steps: Proposals after the net is wrong, each a forward pass.
        refresh: Proposals after which the gradient is taken again.
        heat: First probability of taking a larger set.
    """

    steps: int = 2000
    refresh: int = 20
    heat: float = 0.1

    minimum_norm: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_count("refresh", self.refresh)
        check_share("heat", self.heat, "give a probability", zero=True)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are whole numbers and the norm counts changed entries."""
        check_whole_numbers(model, task)

    def perturb(self, oracle: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> Tensor:
        """The examples of fewest changes found [N, *] for inputs x [N, *] with labels y [N]."""
        if not most_changes(threat, x[0].numel()):
            return x.clone()
        at, fooled, query = _grown(oracle, x, y, threat, index)
        rows = fooled.nonzero()[:, 0]
        best = at.clone()
        if len(rows):
            ids = index[rows.to(index.device)]
            best[rows] = self._shrunk(oracle, at[rows], x[rows], y[rows], threat, rng.on(x), ids, query)
        return torch.where(per_sample(allowed(best, x, threat), x), best, threat.project(best, x))

    def _shrunk(
        self,
        oracle: Queries,
        at: Tensor,
        x0: Tensor,
        y: Tensor,
        threat: ThreatModel,
        rng: Draws,
        index: Tensor,
        query: int,
    ) -> Tensor:
        """The smallest sets of changes found [N, *] from sets `at` [N, *] at which the net is wrong."""
        best, size = at.clone(), _size(at, x0)
        gradient, _, logits = oracle.gradient(at, y, index, query)
        margins = lead(logits, y)
        for step in range(self.steps):
            if step and step % self.refresh == 0:
                gradient = oracle.gradient(at, y, index, query + 2 * step)[0]
            heat = self.heat * (1 - step / self.steps)
            unit = rng.uniform(index, (x0[0].numel() + 4,), step)
            proposal = self._proposed(at, x0, gradient, threat, unit)
            logits = oracle.logits(proposal, index, query + 2 * step + 1)
            now = lead(logits, y)
            change = _size(proposal, x0) - _size(at, x0)
            luck = unit[:, -1]
            taken = (change < 0) | ((change == 0) & ((now <= margins) | (luck < heat + 0.2))) | (luck < heat)
            taken &= wrong(logits, y)
            at = torch.where(per_sample(taken, at), proposal, at)
            margins = torch.where(taken, now, margins)
            smaller = _size(at, x0) < size
            best = torch.where(per_sample(smaller, at), at, best)
            size = torch.minimum(size, _size(at, x0))
        return best

    def _proposed(self, at: Tensor, x0: Tensor, gradient: Tensor, threat: ThreatModel, unit: Tensor) -> Tensor:
        """Sets with some changes taken back, one exchanged, or one added, [N, *]."""
        x, origin, g = at.flatten(1), x0.flatten(1), gradient.flatten(1)
        noise = -torch.log(-torch.log(unit[:, :-4].clamp(1e-7, 1 - 1e-7)))
        kind, part, heat, _ = unit[:, -4:].unbind(dim=1)
        changed = x != origin
        held = changed.sum(dim=1)
        # Half of those that take back do it for one change, others for up to a quarter.
        several = ((part - 0.5).clamp_min(0) * 0.5 * held).long().clamp_min(1)
        back = torch.where(kind < 0.5, several, (kind < 0.8).long())
        made = (kind >= 0.5).long()
        scale = g.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(g.dtype).tiny)
        spread = heat[:, None] * noise
        leave = (spread - (x - origin) * g / scale).masked_fill(~changed, -torch.inf)
        gone = changed & largest_mask(leave, back)
        new = target(at, gradient, threat).flatten(1)
        enter = (spread + (new - x) * g / scale).masked_fill(changed, -torch.inf)
        added = ~changed & largest_mask(enter, made)
        return torch.where(gone, origin, torch.where(added, new, x)).reshape(at.shape)


def _size(x: Tensor, x0: Tensor) -> Tensor:
    return (x != x0).flatten(1).sum(dim=1)


def _grown(oracle: Queries, x: Tensor, y: Tensor, threat: ThreatModel, index: Tensor) -> tuple[Tensor, Tensor, int]:
    """Inputs [N, *] with 1, 2, 4, .. changes added until the net is wrong, whether it is [N], and the next query."""
    at, fooled, count, query = x.clone(), torch.zeros_like(y, dtype=torch.bool), 1, 0
    while True:
        rows = (~fooled).nonzero()[:, 0]
        if not len(rows):
            break
        ids = index[rows.to(index.device)]
        gradient, _, logits = oracle.gradient(at[rows], y[rows], ids, query)
        query += 1
        fooled[rows] = wrong(logits, y[rows])
        if count > x[0].numel():
            break
        here = (~fooled[rows]).nonzero()[:, 0]
        new = target(at[rows], gradient, threat)
        gain = ((new - at[rows]) * gradient).flatten(1).masked_fill((at != x)[rows].flatten(1), -torch.inf)
        made = largest_mask(gain, count).reshape(new.shape) & (at == x)[rows]
        at[rows[here]] = torch.where(made, new, at[rows])[here]
        count *= 2
    return at, fooled, query
