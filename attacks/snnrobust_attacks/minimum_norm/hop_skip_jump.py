"""A decision-based minimum-norm attack."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_count, check_positive
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.plugin.protocols import Queries
from snnrobust.plugin.task import Task
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.minimum_norm.shared import bisect_to_boundary, check_inputs_and_norm, length, wrong
from snnrobust_attacks.optimisers.shared import per_sample

#: Bisections of the line to the boundary.
BISECTIONS = 16
#: Lengths that the step away from the boundary is tried at, each half of the one before.
LENGTHS = 8
#: Random directions that are drawn at once, and inputs that go through the net at once where there are fewer samples.
GROUP, BATCH = 8, 128


@dataclass(frozen=True)
class HopSkipJump:
    """Decision-based attack (Chen, Jordan & Wainwright 2020, arXiv 1904.02144): sees only if the net is wrong.

    Starts at a random image that the net gets wrong, bisects the line to the original down to the boundary, and then
    repeats, for t = 1 .. steps: estimate the boundary's normal at x from B = queries sqrt(t) random unit directions u,

        v = sum_b (phi_b - mean phi) u_b,  phi = 1 where x + delta u is wrong, else -1,

    or mean phi times the mean direction where all decisions agree; step to x + xi v / |v|_2 (L2) or x + xi sign(v)
    (L-inf) with the largest xi = |x - x0| / (2^j sqrt(t)), j = 0 .. 7, at which the net is wrong; bisect again.

    It differs from its source in the distance of the probes: delta = probe |x - x0|_2, where the source has
    |x - x0|_2 / d for d entries. The boundary of a spiking net is made of many small pieces, one for each spike that
    comes or goes, and probes that near see the normal of one piece. (An MLP on MNIST, T = 4, 1500 queries: median L2
    distance 3.8 with 1 / d, 2.1 with 0.2, 1.6 with 0.5 and 1.8 with 1.)

    Every sample gets the same number of queries, so outcomes do not depend on the batch. A starting image is one of
    `starts` keyed uniform ones, or the image with each entry at its further bound; where the net is right at all of
    them nothing is changed.

    Returns the closest example that the net gets wrong if it is within epsilon, or else its projection onto the ball.
    An example counts at every radius down to its distance. Uses no gradients: a check on gradient-based attacks.

    Attributes:
        steps: Steps along the boundary.
        queries: Directions of the first step; they grow with the square root of the step.
        starts: Random images to start from.
        probe: How far from the boundary the directions are tried, as a share of the distance to the original.
    """

    steps: int = 20
    queries: int = 100
    starts: int = 20
    probe: float = 0.5

    minimum_norm: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("queries", 2), ("starts", 1)):
            check_count(name, getattr(self, name), least)
        check_positive("probe", self.probe, "give a share of the distance to the original")

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are real and the norm is L-inf or L2."""
        check_inputs_and_norm(model, task, ("linf", "l2"))

    def perturb(self, oracle: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> Tensor:
        """The closest adversarial examples found [N, *] for inputs x [N, *] with labels y [N]."""
        if threat.epsilon == 0:
            return x.clone()
        rng, decisions = rng.on(x), _Decisions(oracle, y, index)
        at, broken = self._start(decisions, x, threat, rng, index)
        at = bisect_to_boundary(at, x, broken, threat.norm, decisions, BISECTIONS)
        for t in range(1, self.steps + 1):
            count = math.ceil(self.queries * math.sqrt(t))
            normal = _normal(decisions, at, x, threat, rng.sub("probe", t), index, count, self.probe)
            away = _step_away(decisions, at, normal, length(at - x, threat.norm) / math.sqrt(t), threat)
            candidate = bisect_to_boundary(away, x, broken, threat.norm, decisions, BISECTIONS)
            closer = broken & (length(candidate - x, threat.norm) < length(at - x, threat.norm))
            at = torch.where(per_sample(closer, x), candidate, at)
        within = length(at - x, threat.norm) <= threat.epsilon
        return torch.where(per_sample(within, x), at, threat.project(at, x))

    def _start(
        self, decisions: _Decisions, x: Tensor, threat: ThreatModel, rng: Draws, index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """An input that the net gets wrong, [N, *], or the original where none was found; and whether it was, [N]."""
        low, high = threat.bounds
        at, broken = x, decisions(x)
        furthest = torch.where(x - low > high - x, x.new_tensor(low), x.new_tensor(high))
        for start in range(self.starts + 1):
            last = start == self.starts
            image = furthest if last else rng.sub("start").uniform(index, x.shape[1:], start, low, high)
            fresh = decisions(image) & ~broken
            at, broken = torch.where(per_sample(fresh, x), image, at), broken | fresh
        return at, broken


class _Decisions:
    """Queries whether the net is wrong, with fresh draws each time."""

    def __init__(self, oracle: Queries, y: Tensor, index: Tensor) -> None:
        self._oracle, self._y, self._index = oracle, y, index
        self._query = 0

    def __call__(self, x: Tensor) -> Tensor:
        """For one input a sample, [N, *] -> [N]."""
        self._query += 1
        return wrong(self._oracle.logits(x, self._index, self._query), self._y)

    def several(self, x: Tensor) -> Tensor:
        """For several inputs a sample, [N, G, *] -> [N, G]."""
        samples, several = x.shape[:2]
        index, y = (each.repeat_interleave(several) for each in (self._index, self._y))  # [N G]
        query = self._query + 1 + torch.arange(several).repeat(samples)
        self._query += several
        parts = torch.split(torch.arange(samples * several), max(samples, BATCH))
        flat = x.flatten(0, 1)
        found = [wrong(self._oracle.logits(flat[p], index[p], query[p]), y[p]) for p in parts]
        return torch.cat(found).reshape(samples, several)


def _normal(
    decisions: _Decisions,
    at: Tensor,
    x0: Tensor,
    threat: ThreatModel,
    rng: Draws,
    index: Tensor,
    count: int,
    probe: float,
) -> Tensor:
    """The boundary's estimated normal [N, *] at `at`, towards the wrong side, from `count` decisions around it."""
    reach = per_sample(probe * length(at - x0, "l2"), at)
    signed, plain = torch.zeros_like(at), torch.zeros_like(at)
    votes = at.new_zeros(len(at))
    for first in range(0, count, GROUP):
        drawn = rng.normal(index, (GROUP, *at.shape[1:]), first)[:, : count - first]  # [N, G, *]
        unit = drawn / per_sample(length(drawn.flatten(0, 1), "l2"), drawn.flatten(0, 1)).reshape(
            *drawn.shape[:2], *[1] * (at.ndim - 1)
        )
        probes = (at.unsqueeze(1) + reach.unsqueeze(1) * unit).clamp(*threat.bounds)
        phi = 2 * decisions.several(probes).to(at) - 1  # [N, G]
        for g in range(drawn.shape[1]):  # one at a time: a sum in another order would round otherwise
            taken = probes[:, g] - at  # the direction, clipped to the bounds
            signed, plain, votes = signed + per_sample(phi[:, g], at) * taken, plain + taken, votes + phi[:, g]
    mean = votes / count
    agreed = per_sample(mean.abs() == 1, at)
    return torch.where(agreed, per_sample(mean, at) * plain, signed - per_sample(mean, at) * plain)


def _step_away(decisions: _Decisions, at: Tensor, normal: Tensor, size: Tensor, threat: ThreatModel) -> Tensor:
    """The furthest of some points from `at` [N, *] along the normal at which the net is wrong; `at` where none is."""
    if threat.norm == "linf":
        way = normal.sign()
    else:
        way = normal / per_sample(length(normal, "l2").clamp_min(torch.finfo(at.dtype).tiny), at)
    result, settled = at, torch.zeros(len(at), dtype=torch.bool, device=at.device)
    for j in range(LENGTHS):
        candidate = (at + per_sample(size / 2**j, at) * way).clamp(*threat.bounds)
        fresh = decisions(candidate) & ~settled
        result, settled = torch.where(per_sample(fresh, at), candidate, result), settled | fresh
    return result
