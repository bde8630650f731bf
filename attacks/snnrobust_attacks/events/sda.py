"""The sparse dynamic attack on spikes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_count, check_flag
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.plugin.protocols import Queries
from snnrobust.plugin.task import Task
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.events.changed_entries import (
    REDUCTION,
    allowed,
    check_whole_numbers,
    lead,
    measure,
    most_changes,
    reduced,
    take_back,
    target,
)
from snnrobust_attacks.minimum_norm.shared import wrong
from snnrobust_attacks.optimisers.shared import per_sample


@dataclass(frozen=True)
class SDA:
    """Sparse Dynamic Attack (Lun et al. 2025, CVPR, "Towards effective and sparse adversarial attack on SNNs").

    Step n = 0, 1, .. takes the k = `candidates` (n + 1) legal flips of largest gradient, 0 -> 1 where g > 0 and 1 -> 0
    where g < 0, among the entries not flipped yet; measures the finite difference of each,

        FD_i = L(flips and i) - L(flips),

    and makes all those that do not lower the objective L (published with L = max_{j != y} z_j - z_y: objective
    "margin"). Once the net is wrong, flips are taken back in order of rising |FD|, as many as a binary search finds.
    Event counts go to the bound that the gradient points to.

    It differs from the authors' code, which works on one sample at a time, in this:
    - Illegal entries, and those whose gradient is zero, never fill up the k. Random entries are tried only where no
      legal one is left.
    - An entry whose flip lowered L is tried again once another flip was made, not before.
    - A candidate that makes the net wrong ends the search as the only new flip of its step.
    - The authors do not measure the finite differences of kept flips again, though later flips change them. With
      `remeasure`, the reduction ends with what each flip is worth in the final set, until none can be taken back alone.
    - Success is as in the whole package: an all-silent output is wrong.
    - More flips than epsilon count for nothing: then it returns the input within epsilon with the least margin, of its
      steps and candidates. (The authors' failures return the original and count as no flips.)

    A set counts at every budget down to its size, so one run at the largest epsilon gives the whole curve.

    Attributes:
        steps: Most steps, each a backward pass and up to k forward passes.
        candidates: By how much k grows in a step.
        remeasure: Whether flips are measured again before they are taken back.
    """

    steps: int = 500
    candidates: int = 10
    remeasure: bool = True

    minimum_norm: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_count("candidates", self.candidates)
        check_flag("remeasure", self.remeasure)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are whole numbers and the norm counts changed entries."""
        check_whole_numbers(model, task)

    def perturb(self, oracle: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> Tensor:
        """The examples of fewest flips found [N, *] for inputs x [N, *] with labels y [N]."""
        if not most_changes(threat, x[0].numel()):
            return x.clone()
        search = _Search(oracle, x, y, threat, rng.on(x), index)
        for n in range(self.steps):
            if not search.step(n, self.candidates * (n + 1)):
                break
        found, at = search.fooled.nonzero()[:, 0], search.at
        if not len(found):
            return search.best
        origin, labels, ids = x[found], y[found], index[found.to(index.device)]
        few, asked = take_back(oracle, at[found], origin, labels, ids, search.difference[found].abs(), REDUCTION)
        if self.remeasure:
            few = reduced(oracle, few, origin, labels, ids, asked)
        result = search.best.clone()
        result[found] = torch.where(per_sample(allowed(few, origin, threat), x), few, search.best[found])
        return result


class _Search:
    """The flips of a batch of samples.

    Attributes:
        at: The flipped inputs, [N, *].
        difference: The finite difference of each flip when it was made, [N, D].
        fooled: For which samples the net is wrong, [N].
        best: The input of least margin that the threat model allows, [N, *].
    """

    def __init__(self, oracle: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> None:
        self._oracle, self._x, self._y, self._threat, self._rng, self._index = oracle, x, y, threat, rng, index
        self.at, self.best = x.clone(), x.clone()
        self.difference = torch.zeros_like(x).flatten(1)
        self.fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self._stuck = self.fooled.clone()
        self._least = torch.full((len(x),), torch.inf, device=x.device)
        # Tried since the last flip was made, with a lower objective.
        self._refused = torch.zeros_like(self.difference, dtype=torch.bool)

    def step(self, n: int, count: int) -> bool:
        """Step number n of all samples that the net is right about, with `count` candidates; False if there are none.

        Queries 2 n and 2 n + 1.
        """
        rows = (~(self.fooled | self._stuck)).nonzero()[:, 0]
        if not len(rows):
            return False
        ids = self._index[rows.to(self._index.device)]
        gradient, objective, logits = self._oracle.gradient(self.at[rows], self._y[rows], ids, 2 * n)
        broken = wrong(logits, self._y[rows])
        self._keep(rows, self.at[rows], lead(logits, self._y[rows]))
        self.fooled[rows[broken]] = True
        values = target(self.at[rows], gradient, self._threat)
        gain = ((values - self.at[rows]) * gradient).flatten(1)
        for k in (~broken).nonzero()[:, 0].tolist():
            row = int(rows[k])
            entries = self._candidates(row, gain[k], n, count)
            if len(entries):
                self._measure(row, entries, values[k].flatten()[entries], objective[k], n)
            else:
                self._stuck[row] = True
        return True

    def _candidates(self, row: int, gain: Tensor, n: int, count: int) -> Tensor:
        """The entries that are measured, positions in the flat input [M], M <= count."""
        free = (self.at[row] == self._x[row]).flatten() & ~self._refused[row]
        legal = free & (gain > 0)
        if not bool(legal.any()):
            where = self._index[[row]]
            gain, legal = self._rng.sub("random").uniform(where, gain.shape, n)[0], free
        order = gain.masked_fill(~legal, -torch.inf).argsort(descending=True, stable=True)
        return order[: min(count, int(legal.sum()))]

    def _measure(self, row: int, entries: Tensor, values: Tensor, before: Tensor, n: int) -> None:
        """Measures flips of a sample, and makes those that do not lower the objective."""
        one = slice(row, row + 1)
        found = measure(self._oracle, self.at[one], self._y[one], self._index[[row]], entries, values, query=2 * n + 1)
        objective, leads, fooled = found
        difference = (objective - before).to(self.difference)
        strongest = int(leads.argmin())
        single = self.at[one].flatten(1).clone()
        single[0, entries[strongest]] = values[strongest]
        self._keep(entries.new_tensor([row]), single.reshape(self.at[one].shape), leads[[strongest]])
        if bool(fooled.any()):
            made = fooled & (leads == leads[fooled].min())
            made &= made.cumsum(dim=0) == 1  # the first of them
            self.fooled[row] = True
        else:
            made = difference >= 0
        at = self.at[row].flatten().clone()
        at[entries[made]] = values[made]
        self.at[row] = at.reshape(self.at.shape[1:])
        self.difference[row, entries[made]] = difference[made]
        if bool(made.any()):
            self._refused[row] = False
        else:
            self._refused[row, entries] = True

    def _keep(self, rows: Tensor, x: Tensor, leads: Tensor) -> None:
        """Keeps inputs of the samples `rows` that are allowed and have the least margin so far."""
        better = (leads < self._least[rows]) & allowed(x, self._x[rows], self._threat)
        self.best[rows[better]] = x[better]
        self._least[rows[better]] = leads[better].to(self._least)
