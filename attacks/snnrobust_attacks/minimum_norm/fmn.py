"""A gradient-based minimum-norm attack."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_count, check_positive, check_share
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.objectives.logits import margin
from snnrobust.plugin.protocols import Queries
from snnrobust.plugin.task import Task
from snnrobust.threat_models.threat_model import Norm, ThreatModel
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.minimum_norm.shared import bisect_to_boundary, check_inputs_and_norm, length, wrong
from snnrobust_attacks.optimisers.shared import per_sample

#: Bisections of the line from the original to an adversarial example: closer by up to 2^10 each time.
BISECTIONS = 10


@dataclass(frozen=True)
class MinimumNorm:
    """Fast minimum-norm attack (Pintor et al. 2021, arXiv 2102.12827): a gradient search in a ball that shrinks.

    Each sample has a radius r of its own. A step goes along the gradient and back into the ball and the box:

        r <- min(r (1 - s_k), closest so far)   if the net is wrong at x,
             r (1 + s_k)                        if it is right, but was wrong before,
             epsilon                            if it was never wrong;
        x <- P_r(x + a_k r d),  d = sign(g) under L-inf, g / |g|_2 under L2, g / max |g| under L1,

    with g the objective's gradient; a_k and s_k fall over the steps as a cosine, from `step` to a hundredth of it and
    from `shrink` to 0.

    It differs from its source where spiking nets need it. The radius starts at the threat model's epsilon, beyond
    which nothing counts, instead of at margin / |gradient|: a surrogate gradient has no such scale. After the first
    step and after the last, the line to the closest example is bisected, which brings the radius to its order of
    magnitude at once. The step is a share of the radius. Where a gradient is zero, a random direction leaves the
    plateau. P_r is the projection onto ball and box together, which matters for L1 (Croce & Hein 2021).

    Returns the closest example that the net gets wrong within epsilon, or else the iterate of least margin. An
    example counts at every radius down to its distance, so one run at the largest epsilon gives the whole curve.

    Attributes:
        steps: Gradient steps.
        step: Length of the first step as a share of the radius.
        shrink: Share of the radius by which it first shrinks and grows.
    """

    steps: int = 100
    step: float = 1.0
    shrink: float = 0.2

    minimum_norm: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_positive("step", self.step, "give a share of the radius")
        check_share("shrink", self.shrink, "give a share of the radius")

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are real and the norm is L-inf, L2 or L1."""
        check_inputs_and_norm(model, task, ("linf", "l2", "l1"))

    def perturb(self, oracle: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> Tensor:
        """The closest adversarial examples found [N, *] for inputs x [N, *] with labels y [N]."""
        if threat.epsilon == 0:
            return x.clone()
        search = _Search(oracle, x, y, threat.norm, index)
        at, radius = x, x.new_full((len(x),), threat.epsilon)
        for k in range(self.steps):
            fall = (1 + math.cos(math.pi * k / self.steps)) / 2  # from 1 towards 0
            gradient, broken = search.gradient(at)
            step, change = self.step * (0.01 + 0.99 * fall), self.shrink * fall
            shrunk = torch.minimum(radius * (1 - change), search.distance)
            grown = (radius * (1 + change)).clamp_max(threat.epsilon)
            radius = torch.where(broken, shrunk, torch.where(search.found, grown, threat.epsilon))
            direction = _direction(gradient, threat, rng.on(x).sub("kick"), index, k)
            delta = at - x + per_sample(step * radius, x) * direction
            at = x + _project(delta, threat.bounds[0] - x, threat.bounds[1] - x, radius, threat.norm)
            at = at.clamp(*threat.bounds)  # x + (high - x) rounds to just above high
            if k == 0:
                at = bisect_to_boundary(at, x, search.is_wrong(at), threat.norm, search.is_wrong, BISECTIONS)
                radius = search.distance.clamp_max(threat.epsilon)
        search.is_wrong(at)
        bisect_to_boundary(search.closest, x, search.found, threat.norm, search.is_wrong, BISECTIONS)
        return search.closest


class _Search:
    """Queries the model and keeps the best input of each sample.

    Attributes:
        closest: The closest input that the net gets wrong; of least margin where there is none, [N, *].
        distance: Its distance; infinite where there is none, [N].
    """

    def __init__(self, oracle: Queries, x0: Tensor, y: Tensor, norm: Norm, index: Tensor) -> None:
        self.closest = x0
        self.distance = x0.new_full((len(x0),), torch.inf)
        self._margin = x0.new_full((len(x0),), torch.inf)
        self._oracle, self._x0, self._y, self._norm, self._index = oracle, x0, y, norm, index
        self._query = 0

    @property
    def found(self) -> Tensor:
        """For which samples the net was wrong at some query, [N]."""
        return torch.isfinite(self.distance)

    def is_wrong(self, x: Tensor) -> Tensor:
        """Whether the net is wrong at x [N, *], [N]."""
        self._query += 1
        return self._update(x, self._oracle.logits(x, self._index, self._query))

    def gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The objective's gradient at x [N, *], and whether the net is wrong there, [N]."""
        self._query += 1
        gradient, _, logits = self._oracle.gradient(x, self._y, self._index, self._query)
        return gradient, self._update(x, logits)

    def _update(self, x: Tensor, logits: Tensor) -> Tensor:
        broken, size = wrong(logits, self._y), margin(logits, self._y).nan_to_num(nan=torch.inf)
        distance = length(x - self._x0, self._norm)
        closer = broken & (distance < self.distance)
        weaker = ~broken & ~self.found & (size < self._margin)
        self.closest = torch.where(per_sample(closer | weaker, x), x, self.closest)
        self.distance = torch.where(closer, distance, self.distance)
        self._margin = torch.where(weaker, size, self._margin)
        return broken


def _direction(gradient: Tensor, threat: ThreatModel, rng: Draws, index: Tensor, k: int) -> Tensor:
    """Step directions [N, *]: the gradient, or a random direction for samples whose gradient is zero."""
    flat = (gradient == 0).flatten(1).all(dim=1)  # [N]
    if flat.any():
        gradient = gradient.clone()
        gradient[flat] = rng.normal(index[flat.to(index.device)], gradient.shape[1:], k)
    if threat.norm == "linf":
        return gradient.sign()
    # Scaled first: the square of 1e-25 is zero in float32.
    unit = gradient / per_sample(length(gradient, "linf"), gradient)
    return unit if threat.norm == "l1" else unit / per_sample(length(unit, "l2"), unit)


def _project(delta: Tensor, low: Tensor, high: Tensor, radius: Tensor, norm: Norm) -> Tensor:
    """Euclidean projection of delta [N, *] onto {|d|_p <= radius, low <= d <= high}, one radius [N] a sample.

    The minimiser is clip(shrink(delta, m), low, high) with shrink d / (1 + m) under L2 and soft thresholding by m
    under L1, for the least m >= 0 at which it fits; m is found by bisection, from the side that fits.
    """
    reach = per_sample(radius, delta)
    if norm == "linf":
        return torch.minimum(torch.maximum(delta, -reach), reach).clamp(low, high)

    def at(m: Tensor) -> Tensor:
        shrunk = delta / (1 + m) if norm == "l2" else delta.sign() * (delta.abs() - m).clamp_min(0)
        return shrunk.clamp(low, high)

    lower = torch.zeros_like(reach)
    largest = length(delta, "linf") if norm == "l1" else length(delta, "l2") / radius.clamp_min(1e-12) - 1
    upper = per_sample(largest.clamp_min(0), delta)
    for _ in range(30):
        middle = (lower + upper) / 2
        outside = per_sample(length(at(middle), norm), delta) > reach
        lower, upper = torch.where(outside, middle, lower), torch.where(outside, upper, middle)
    free = delta.clamp(low, high)
    fits = per_sample(length(free, norm) <= radius, delta)
    return torch.where(fits, free, at(upper))
