"""The fewest changes: parts of an adversarial example's changes are taken back, and others made along the gradient."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_count, check_positive
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.errors import InputError
from snnrobust.plugin.protocols import Queries
from snnrobust.plugin.task import Task
from snnrobust.threat_models.selection import largest_mask, places_of
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.events.changed_entries import allowed, check_whole_numbers, most_changes, target
from snnrobust_attacks.events.exchanges import annealed
from snnrobust_attacks.minimum_norm.shared import wrong
from snnrobust_attacks.optimisers.shared import per_sample

#: Draws of noise in a step; the changes of a larger set share them.
DRAWS = 256
#: Steps of annealing for each step along the gradient.
EXCHANGES = 3


@dataclass(frozen=True)
class FewestFlips:
    """Sets of changes that shrink while the net stays wrong: a part is taken back, and others are made by the gradient.

    First 1, 2, 4, .. changes of largest gradient are added until the net is wrong, whatever the budget. Each round
    then starts from the smallest set S found last, and

    - takes back 1 + u^2 |S| of its changes, rounded down, with u uniform in [0, 1): those of small
      (x_i - x0_i) g_i / max_j |(x_j - x0_j) g_j| plus Gumbel noise of a strength uniform in [0, noise);
    - makes one change at a time, with the gradient at the inputs reached so far: that of the r-th largest
      (t_i - x_i) g_i, where log r is uniform in [0, s log `candidates`) and s, uniform in [0, 1), is drawn for the
      round;
    - ends when the net is wrong, and then keeps the set, which has no more changes than S; or when it has as many as S.

    Three times as many steps of simulated annealing without gradients follow: they take changes back, make some, and
    exchange one for another, mostly one next to it, as long as the net stays wrong.

    A search at a fixed budget has to raise a margin that hardly any single change moves, since the outputs of a
    spiking net take few values; here the size of the set tells better ones from worse. The smallest set counts at every
    budget from its size on, so one search serves all of them. The scheme is ruin and recreate (Schrimpf et al. 2000,
    doi:10.1006/jcph.1999.6413).

    Inputs may be spikes, event counts or real numbers; a change goes to a bound.

    Attributes:
        steps: Forward and backward passes after the net is wrong; three times as many forward passes follow.
        candidates: Changes of largest gradient that one is drawn from.
        noise: Greatest strength of the noise on what is taken back.
        enough: Number of changes at which the search of a sample ends. As a member of an ensemble it is the smallest
            radius.
    """

    steps: int = 1000
    candidates: int = 8
    noise: float = 1.0
    enough: float = 1.0

    minimum_norm: ClassVar[bool] = True
    bisectable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_count("candidates", self.candidates)
        check_positive("enough", self.enough)
        if not 0 <= self.noise < float("inf"):
            raise InputError(f"expected noise >= 0, got {self.noise!r}; 0 takes back by the gradient alone")

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless the norm counts changed entries."""
        if model.domain != "real":
            check_whole_numbers(model, task)
        elif task.attack is not None and task.attack.norm != "l0":
            raise InputError(
                f"expected norm 'l0' for '{task.label}', got '{task.attack.norm}'; it searches sets of changed entries"
            )

    def perturb(self, oracle: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> Tensor:
        """The examples of fewest changes found [N, *] for inputs x [N, *] with labels y [N]."""
        if not most_changes(threat, x[0].numel()):
            return x.clone()
        at, fooled, query = _grown(oracle, x, y, threat, index)
        rows = (fooled & ((at != x).flatten(1).sum(dim=1) > self.enough)).nonzero()[:, 0]
        sets = _Sets.of(at[rows], x[rows], rows)
        for step in range(self.steps):
            if not len(sets.rows):
                break
            ids = index[sets.rows.to(index.device)]
            inputs = sets.x.reshape(-1, *x.shape[1:])
            gradient, _, logits = oracle.gradient(inputs, y[sets.rows], ids, query + step)
            sets.keep(gradient.flatten(1), wrong(logits, y[sets.rows]))
            done = sets.size <= self.enough
            if bool(done.any()):
                at[sets.rows[done]] = sets.smallest[done].reshape(-1, *x.shape[1:])
                sets, gradient, ids = sets.select(~done), gradient[~done], ids[(~done).to(ids.device)]
            if len(sets.rows):
                sets.propose(gradient.flatten(1), rng.on(x).uniform(ids, (DRAWS + 4,), step), threat, self)
        at[sets.rows] = sets.smallest.reshape(-1, *x.shape[1:])
        left = fooled & ((at != x).flatten(1).sum(dim=1) > self.enough)
        at[left] = annealed(
            oracle,
            at[left],
            x[left],
            y[left],
            threat,
            rng,
            index[left.to(index.device)],
            steps=EXCHANGES * self.steps,
            first=self.steps,
            query=query + self.steps,
            enough=self.enough,
        )
        return torch.where(per_sample(allowed(at, x, threat), x), at, threat.project(at, x))


@dataclass
class _Sets:
    """The sets of changes of N samples: the smallest so far, which a round starts from, and what the round has reached.

    Attributes:
        rows: Positions of the samples in the batch, [N].
        origin: Originals, [N, D].
        x: What the round has reached, [N, D].
        count: Its number of changes, [N].
        smallest: Inputs of the fewest changes so far at which the net is wrong, of equally many the last, [N, D].
        gradient: The gradient there, [N, D].
        size: Their number of changes, [N].
        ended: Whether the round is over, [N].
        spread: How far from the largest the round draws its changes, 0 to 1, [N].
    """

    rows: Tensor
    origin: Tensor
    x: Tensor
    count: Tensor
    smallest: Tensor
    gradient: Tensor
    size: Tensor
    ended: Tensor
    spread: Tensor

    @classmethod
    def of(cls, x: Tensor, origin: Tensor, rows: Tensor) -> _Sets:
        """The sets of inputs x [N, *] at which the net is wrong."""
        x, origin = x.flatten(1), origin.flatten(1)
        count = (x != origin).sum(dim=1)
        ended = torch.zeros_like(count, dtype=torch.bool)
        spread = x.new_zeros(len(x))
        return cls(rows, origin, x.clone(), count, x.clone(), torch.zeros_like(x), count.clone(), ended, spread)

    def select(self, mask: Tensor) -> _Sets:
        """Those of the samples in `mask` [N]."""
        return _Sets(**{each.name: getattr(self, each.name)[mask] for each in fields(self)})

    def keep(self, gradient: Tensor, fooled: Tensor) -> None:
        """Keeps what the rounds have reached where the net is wrong, `fooled` [N]; it has at most `size` changes."""
        rows = fooled.nonzero()[:, 0]
        self.smallest[rows], self.gradient[rows], self.size[rows] = self.x[rows], gradient[rows], self.count[rows]
        self.ended = fooled | (self.count >= self.size)

    def propose(self, gradient: Tensor, unit: Tensor, threat: ThreatModel, plugin: FewestFlips) -> None:
        """Starts the next round of the samples whose round is over, and makes one more change at the others.

        Args:
            gradient: The gradient at `x`, [N, D].
            unit: Uniform draws, [N, DRAWS + 4].
            threat: The threat model.
            plugin: The attack.
        """
        share, strength, spread, rank = unit[:, -4:].unbind(dim=1)
        rows = self.ended.nonzero()[:, 0]
        if len(rows):
            x, origin, size = self.smallest[rows], self.origin[rows], self.size[rows]
            places, counted = places_of(x != origin)  # (n, K)
            harm = ((x - origin) * self.gradient[rows]).gather(1, places)
            harm /= harm.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(harm.dtype).tiny)
            uniform = unit[rows][:, torch.arange(places.shape[1], device=unit.device) % DRAWS].clamp(1e-7, 1 - 1e-7)
            noise = plugin.noise * strength[rows, None] * -torch.log(-torch.log(uniform))
            back = (1 + share[rows].square() * size).long().minimum(size)
            gone = largest_mask((noise - harm).masked_fill(~counted, -torch.inf), back) & counted
            x.scatter_(1, places, torch.where(gone, origin.gather(1, places), x.gather(1, places)))
            self.x[rows], self.count[rows], self.spread[rows] = x, size - gone.sum(dim=1), spread[rows]
        rows = (~self.ended).nonzero()[:, 0]
        if len(rows):
            x = self.x[rows]
            new = target(x, gradient[rows], threat)
            unchanged = threat.may_change(self.origin[rows]) & (x == self.origin[rows])
            gain = ((new - x) * gradient[rows]).masked_fill_(~unchanged, -torch.inf)
            among = gain.topk(min(plugin.candidates, x.shape[1]), dim=1).indices
            # A round that is not over has fewer changes than entries.
            chosen = (plugin.candidates ** (self.spread[rows] * rank[rows])).long().minimum(unchanged.sum(dim=1)) - 1
            entry = among.gather(1, chosen[:, None])
            self.x[rows] = x.scatter(1, entry, new.gather(1, entry))
            self.count[rows] += 1


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
        gain = ((new - at[rows]) * gradient).flatten(1)
        unchanged = (at == x)[rows] & threat.may_change(x[rows])
        made = largest_mask(gain.masked_fill(~unchanged.flatten(1), -torch.inf), count).reshape(new.shape) & unchanged
        at[rows[here]] = torch.where(made, new, at[rows])[here]
        count *= 2
    return at, fooled, query
