"""Greedy flips, each the best of many that are measured: a control for faster attacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_count
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.plugin.protocols import Queries
from snnrobust.plugin.task import Task
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.events.changed_entries import allowed, check_whole_numbers, lead, measure, most_changes, target
from snnrobust_attacks.minimum_norm.shared import wrong


@dataclass(frozen=True)
class GreedyFlips:
    """Flips one entry at a time, the one that raises the objective most, until the net is wrong.

    Each step measures the objective with one more flip, for the `candidates` legal flips of largest gradient (0 -> 1
    where g > 0, 1 -> 0 where g < 0), or for every entry, whatever its gradient, where inputs have at most `exhaustive`
    of them. A flip that makes the net wrong comes before all others, then the largest objective; of equal ones, the
    largest gradient. A flip is made even if it lowers the objective. Where no legal flip is left, random entries are
    candidates. No flip is taken back. Event counts go to the bound that the gradient points to.

    A slow control: what a faster attack misses that greedy flips find is a failure of its search. The sets of fewer
    flips are parts of those of more, so one run at the largest epsilon gives the whole curve.

    Attributes:
        candidates: Flips that are measured in a step.
        exhaustive: Number of entries up to which all are measured.
    """

    candidates: int = 256
    exhaustive: int = 512

    minimum_norm: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count("candidates", self.candidates)
        check_count("exhaustive", self.exhaustive, least=0)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are whole numbers and the norm counts changed entries."""
        check_whole_numbers(model, task)

    def perturb(self, oracle: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> Tensor:
        """The first examples that the net is wrong at, or those of least margin, [N, *], for x [N, *], y [N]."""
        at, best = x.clone(), x.clone()
        least = torch.full((len(x),), torch.inf, device=x.device)
        going = torch.ones(len(x), dtype=torch.bool, device=x.device)
        for n in range(most_changes(threat, x[0].numel())):
            rows = going.nonzero()[:, 0]
            if not len(rows):
                break
            gradient, _, logits = oracle.gradient(at[rows], y[rows], index[rows.to(index.device)], 2 * n)
            values = target(at[rows], gradient, threat)
            gain = ((values - at[rows]) * gradient).flatten(1)
            if n == 0:
                least[rows] = lead(logits, y[rows]).to(least)
            going[rows[wrong(logits, y[rows])]] = False
            for k in going[rows].nonzero()[:, 0].tolist():
                one = slice(row := int(rows[k]), row + 1)
                free = (at[one] == x[one]).flatten()  # [D]
                entries = self._candidates(free, gain[k], rng.on(x).sub("random"), index[[row]], n)
                new = values[k].flatten()[entries]
                found = measure(oracle, at[one], y[one], index[[row]], entries, new, query=2 * n + 1)
                chosen = _best_allowed(at[one], x[one], entries, new, *found, threat=threat)
                if chosen is None:
                    going[row] = False
                    continue
                at[row], leads, fooled = chosen
                going[row] = not fooled
                if leads < least[row]:
                    best[row], least[row] = at[row], leads.to(least)
        return best

    def _candidates(self, free: Tensor, gain: Tensor, rng: Draws, index: Tensor, n: int) -> Tensor:
        """The entries that are measured, positions in the flat input [M], those of largest gain first."""
        if len(gain) > self.exhaustive:
            legal = free & (gain > 0)
            if not bool(legal.any()):
                gain, legal = rng.uniform(index, gain.shape, n)[0], free
            count = min(self.candidates, int(legal.sum()))
        else:
            legal, count = free, int(free.sum())
        return gain.masked_fill(~legal, -torch.inf).argsort(descending=True, stable=True)[:count]


def _best_allowed(
    x: Tensor,
    x0: Tensor,
    entries: Tensor,
    values: Tensor,
    objective: Tensor,
    leads: Tensor,
    fooled: Tensor,
    threat: ThreatModel,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The best candidate that the threat model allows: the input [*], its margin, whether the net is wrong there.

    None where no candidate is allowed. Candidates [M] are those of `measure`.
    """
    score = torch.where(fooled, -leads, objective).nan_to_num(nan=-torch.inf)
    order = score.argsort(descending=True, stable=True)
    order = order[(~fooled[order]).long().argsort(stable=True)]
    for m in order.tolist():
        changed = x.flatten(1).clone()
        changed[0, entries[m]] = values[m]
        changed = changed.reshape(x.shape)
        if bool(allowed(changed, x0, threat)):
            return changed[0], leads[m], fooled[m]
    return None
