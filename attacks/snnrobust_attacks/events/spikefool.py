"""A sparse attack on spikes after SpikeFool: a linear boundary, then as few entries as cross it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_count, check_positive
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.errors import InputError
from snnrobust.plugin.protocols import Queries
from snnrobust.plugin.task import Task
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.events.changed_entries import allowed, check_whole_numbers, lead, most_changes, reduced, target
from snnrobust_attacks.minimum_norm.shared import wrong
from snnrobust_attacks.optimisers.shared import per_sample

#: Shortest step of DeepFool, also where the boundary is nearer.
SHORTEST = 1e-4


@dataclass(frozen=True)
class SpikeFool:
    """Sparse attack after SpikeFool (Buchel et al. 2022, doi 10.3389/fnins.2022.1068193): DeepFool and SparseFool.

    Each of `steps` rounds starts from whole numbers x.

    1. DeepFool (Moosavi-Dezfooli et al. 2016): with f_k = L_y - L_k, the objective L for the label less that for class
       k, and w_k its gradient at the nearest whole numbers, the step |f_k| / |w_k|^2 w_k of the nearest rival k is
       added to r, until the net is wrong at x + (1 + overshoot) r or `inner` steps are over. For cross entropy f_k is
       the difference of logits z_k - z_y of the source, and it is zero at the boundary for every objective that treats
       classes alike.
    2. SparseFool's linear solver (Modas et al. 2019): with the unit normal n = w / |w| and the boundary moved out to
       x + stretch r, the legal flips of largest |n_i| are made (0 -> 1 where n_i > 0, 1 -> 0 where n_i < 0) until the
       plane is crossed by `margin`. Event counts go to the bound.

    The rounds end when the net is wrong; then flips that are not needed are taken back.

    It differs from its source, which works on one sample at a time, in this:
    - Every proposal is whole and legal; the source's solver moves entries by fractions and rounds them at the end.
      DeepFool's points inside are fractional, as in the source, but kept within the bounds.
    - The normal is that of DeepFool's last step, not of a further pass at its end. Only the `rivals` classes of largest
      logit are looked at, each of which costs a backward pass; the source takes all.
    - Flips are taken back by what they are measured to be worth. The source can leave out those that came last in
      order of place.
    - The source judges the number of flips afterwards. Here a round with more flips than epsilon goes on, since flips
      can be taken back in the end, but it is also tried with the flips of largest n_i alone. If no set within epsilon
      is a success, the one of least margin is returned.
    - Without any gradient nothing is changed, where the source stops with an error.

    A set counts at every budget down to its size, so one run at the largest epsilon gives the whole curve.

    Attributes:
        steps: Most rounds.
        inner: Most steps of DeepFool in a round. Only those at which the nearest whole numbers change cost backward
            passes.
        stretch: How far out the boundary is moved, in units of DeepFool's distance (lambda).
        overshoot: By what share DeepFool's point must be beyond the boundary.
        margin: By how much the plane must be crossed.
        rivals: Number of other classes that DeepFool looks at.
    """

    steps: int = 20
    inner: int = 50
    stretch: float = 2.0
    overshoot: float = 0.02
    margin: float = 0.01
    rivals: int = 3

    minimum_norm: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("steps", "inner", "rivals"):
            check_count(name, getattr(self, name))
        check_positive("stretch", self.stretch, "give a multiple of DeepFool's distance")
        for name in ("overshoot", "margin"):
            value = getattr(self, name)
            if isinstance(value, bool) or not 0 <= value < float("inf"):
                raise InputError(f"expected a finite {name} >= 0, got {value!r}; 0 leaves it out")

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are whole numbers and the norm counts changed entries."""
        check_whole_numbers(model, task)

    def perturb(self, oracle: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> Tensor:
        """The examples of fewest flips found [N, *] for inputs x [N, *] with labels y [N]."""
        if not most_changes(threat, x[0].numel()):
            return x.clone()
        at, best = x.clone(), x.clone()
        least = torch.full((len(x),), torch.inf, device=x.device)
        fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        going = ~fooled
        for n in range(self.steps + 1):
            rows = going.nonzero()[:, 0]
            if not len(rows):
                break
            ids, first = index[rows.to(index.device)], n * (2 * self.inner + 2)
            logits = oracle.logits(at[rows], ids, first)
            leads, broken = lead(logits, y[rows]).to(least), wrong(logits, y[rows])
            better = (leads < least[rows]) & allowed(at[rows], x[rows], threat)
            best[rows[better]], least[rows[better]] = at[rows[better]], leads[better]
            fooled[rows[broken]], going[rows[broken]] = True, False
            rows, logits, ids = rows[~broken], logits[~broken], ids[~broken.to(ids.device)]
            if not len(rows) or n == self.steps:
                continue
            normal, reach = self._deep_fool(oracle, at[rows], y[rows], logits, threat, ids, first + 1)
            moved = self._cross(at[rows], normal, reach, threat)
            going[rows] = (moved != at[rows]).flatten(1).any(dim=1)
            at[rows] = moved
            over = (~allowed(moved, x[rows], threat)).nonzero()[:, 0]
            if len(over):
                rows, normal = rows[over], normal[over]
                held = _held(moved[over], x[rows], normal, threat)
                logits = oracle.logits(held, index[rows.to(index.device)], first + 2 * self.inner + 1)
                leads, broken = lead(logits, y[rows]).to(least), wrong(logits, y[rows])
                better = leads < least[rows]
                best[rows[better]], least[rows[better]] = held[better], leads[better]
                at[rows[broken]] = held[broken]
        found = fooled.nonzero()[:, 0]
        if len(found):
            few = reduced(oracle, at[found], x[found], y[found], index[found.to(index.device)])
            best[found] = torch.where(per_sample(allowed(few, x[found], threat), x), few, best[found])
        return best

    def _deep_fool(
        self, oracle: Queries, x: Tensor, y: Tensor, logits: Tensor, threat: ThreatModel, index: Tensor, query: int
    ) -> tuple[Tensor, Tensor]:
        """Normals [N, *] of the boundary, zero where there is no gradient; and its distance along them, [N].

        Queries `query` and the 2 `inner` - 1 that follow.
        """
        others = logits.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)
        others = others[:, : min(self.rivals, logits.shape[1] - 1)]  # [N, R]
        total, normal, size = torch.zeros_like(x), torch.zeros_like(x), x.new_zeros(len(x))
        seen = torch.full_like(x, torch.nan)
        going = torch.ones(len(x), dtype=torch.bool, device=x.device)
        for m in range(self.inner):
            whole = (x + total).round().clamp(*threat.bounds)
            new = ((whole != seen).flatten(1).any(dim=1) & going).nonzero()[:, 0]
            if len(new):
                ids = index[new.to(index.device)]
                normal[new], size[new] = _nearest(oracle, whole[new], y[new], others[new], ids, query + 2 * m)
                seen[new] = whole[new]
            going &= (normal != 0).flatten(1).any(dim=1)
            rows = going.nonzero()[:, 0]
            if not len(rows):
                break
            total[rows] += per_sample(size[rows], x) * normal[rows]
            point = (x[rows] + (1 + self.overshoot) * total[rows]).clamp(*threat.bounds)
            found = oracle.logits(point, index[rows.to(index.device)], query + 2 * m + 1)
            going[rows[wrong(found, y[rows])]] = False
        return normal, (total * normal).flatten(1).sum(dim=1)

    def _cross(self, x: Tensor, normal: Tensor, reach: Tensor, threat: ThreatModel) -> Tensor:
        """x [N, *] with the legal flips of largest |normal| that cross the plane at `stretch` times `reach` [N]."""
        values = target(x, normal, threat)
        gain = ((values - x) * normal).flatten(1).clamp_min(0)
        order = gain.argsort(dim=1, descending=True, stable=True)
        sorted_gain = gain.gather(1, order).double()
        before = sorted_gain.cumsum(dim=1) - sorted_gain  # what the flips of larger gain come to
        needed = (sorted_gain > 0) & (before < (self.stretch * reach + self.margin).double()[:, None])
        made = torch.zeros_like(gain, dtype=torch.bool).scatter_(1, order, needed).reshape(x.shape)
        return torch.where(made, values, x)


def _held(x: Tensor, x0: Tensor, normal: Tensor, threat: ThreatModel) -> Tensor:
    """x [N, *] with those changes alone that the normal values most, as many as the threat model allows."""
    worth = ((x - x0) * normal).flatten(1).masked_fill((x == x0).flatten(1), -torch.inf)
    most = worth.argsort(dim=1, descending=True, stable=True)[:, : most_changes(threat, worth.shape[1])]
    kept = torch.zeros_like(worth, dtype=torch.bool).scatter_(1, most, True).reshape(x.shape)
    return threat.project(torch.where(kept, x, x0), x0)


def _nearest(oracle: Queries, x: Tensor, y: Tensor, others: Tensor, index: Tensor, query: int) -> tuple[Tensor, Tensor]:
    """The unit normal towards the boundary with the nearest of the classes `others` [N, R], [N, *]; its distance, [N].

    Zero where no class has a gradient.
    """
    own_gradient, own, _ = oracle.gradient(x, y, index, query)
    normal, distance = torch.zeros_like(x), x.new_full((len(x),), torch.inf)
    for rival in others.unbind(dim=1):
        gradient, objective, _ = oracle.gradient(x, rival, index, query)
        w = own_gradient - gradient
        largest = w.flatten(1).abs().amax(dim=1)
        unit = torch.where(per_sample(largest > 0, x), w / per_sample(largest, x), 0.0)  # tiny squares are zero
        scale = unit.flatten(1).norm(dim=1).clamp_min(1)
        length = largest * scale
        away = torch.where(length > 0, (own - objective).abs().to(x) / length, torch.inf)
        nearer = away < distance
        distance = torch.where(nearer, away, distance)
        normal = torch.where(per_sample(nearer, x), unit / per_sample(scale, x), normal)
    return normal, distance.nan_to_num(posinf=0.0).clamp_min(SHORTEST)
