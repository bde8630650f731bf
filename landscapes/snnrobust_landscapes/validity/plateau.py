"""The plateau around the weights: how far they can move before the loss of a spiking net changes at all."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.errors import InputError, PluginError
from snnrobust.spike_gradients.swap import SpikeGradient
from snnrobust_landscapes.loss.weights import WeightLandscape

#: Doublings from the smallest radius that is tried to the largest: from .01 down to the rounding of float32.
DOUBLINGS = 16
#: Bisections of the last doubling: an edge is known to a relative error of 2^-7.
HALVINGS = 7


@dataclass(frozen=True)
class Plateau:
    """How flat the loss is around the weights, along random filter-normalised directions in the hidden weights.

    Attributes:
        width: Median over directions of the width of the plateau, in filter-relative radius; a lower bound of it where
            `high` is infinite.
        low: Lower end of a 95 % interval of the median over directions, from order statistics, which make no assumption
            on the distribution. For 8 directions these are the smallest and the largest.
        high: Upper end; infinite where it is that of a direction with a side on which no loss changes within `reach`.
        distinct: Different mean losses at `points` points, evenly spaced over -reach to reach, on the first direction.
        points: How many points these are.
        reach: Largest radius that was tried.
        directions: Number of directions, over which the width is the median.
    """

    width: float
    low: float
    high: float
    distinct: int
    points: int
    reach: float
    directions: int


def plateau(
    landscape: WeightLandscape, rng: Draws, *, directions: int = 8, points: int = 401, reach: float = 0.01
) -> Plateau | None:
    """Measures the plateau of the true loss around the weights.

    The loss of a spiking net depends on its hidden weights only through spikes, which change one at a time. Between two
    changes it is constant, and its derivatives are zero. Only hidden weights move here: the loss is smooth in read-out
    weights.

    An edge is searched on both sides of the weights, among radii reach / 2^16, reach / 2^15 ... reach, and then by
    bisection between the last radius at which no sample's loss has changed and the next. Losses that change and change
    back between two of these radii are not seen.

    Args:
        landscape: The training loss.
        rng: Keyed draws, for the directions.
        directions: Directions, over which the width is the median.
        points: Points on the first direction.
        reach: Largest filter-relative radius.

    Returns:
        The plateau; None for a net without spikes of a supported framework, or without hidden weights that can move.

    Raises:
        InputError: For a count or reach out of range, or a loss that is not finite.
    """
    if directions < 1 or points < 2 or not (reach > 0 and math.isfinite(reach)):
        raise InputError(
            f"expected at least 1 direction and 2 points, and a finite reach > 0, got {directions}, {points} and "
            f"{reach!r}; the defaults are 8, 401 and .01"
        )
    mask = _hidden_mask(landscape)
    along = [mask * landscape.direction(rng.sub("plateau", number)) for number in range(directions)]
    if not bool(along[0].any()):
        return None
    here = landscape.loss(torch.zeros_like(mask)).losses
    flat, changed = zip(*(_width(landscape, here, d, reach) for d in along), strict=True)
    # At 95 % the median lies between the order statistics number `rank` from either end (David & Nagaraja 2003, 7.1).
    rank = max(1, int(stats.binom.ppf(0.025, directions, 0.5)))
    return Plateau(
        width=statistics.median(flat),
        low=sorted(flat)[rank - 1],
        high=sorted(changed)[-rank],
        distinct=distinct_losses(landscape, along[0], points, reach),
        points=points,
        reach=reach,
        directions=directions,
    )


def hidden_parameters(landscape: WeightLandscape) -> list[str]:
    """Names of the parameters from which every path to the loss goes through a spike.

    Parameters that have a gradient while spikes are constants are read-out parameters; all others are hidden. Empty for
    a net without spikes, with spikes of an unsupported framework, or with smooth ones.
    """
    chunk = landscape.chunks[0]
    try:
        with SpikeGradient(landscape.model, _Constant()), torch.enable_grad():
            leaves = landscape.leaves(chunk)
            total = landscape.losses(landscape.logits(leaves, chunk), chunk).sum()
    except (InputError, PluginError):  # no spikes that can be replaced
        return []
    finally:
        landscape.model.reset()  # the nodes' state holds the graph
    if not total.requires_grad:
        return list(landscape.names)
    paths = torch.autograd.grad(total, leaves, allow_unused=True)
    return [name for name, path in zip(landscape.names, paths, strict=True) if path is None]


def distinct_losses(landscape: WeightLandscape, direction: Tensor, points: int = 401, reach: float = 0.01) -> int:
    """Different mean losses at `points` evenly spaced points from -reach to reach along a direction [P]."""
    at = torch.linspace(-reach, reach, points, dtype=torch.float64)
    return len({landscape.loss(float(r) * direction).mean for r in at})


class _Constant:
    """Spikes without a gradient: a `Relaxation` with the value of the spike itself."""

    def primitive(self, u: Tensor, state: dict[str, object]) -> Tensor:
        return (u >= 0).to(u)


def _hidden_mask(landscape: WeightLandscape) -> Tensor:
    """1 for hidden weights, 0 for others, [P]."""
    names = set(hidden_parameters(landscape))
    parts = [torch.full_like(p, float(name in names)) for name, p in landscape.theta.items()]
    return landscape.flatten(parts)


def _width(landscape: WeightLandscape, here: Tensor, direction: Tensor, reach: float) -> tuple[float, float]:
    """A width over which no sample's loss changes in a direction, and one at which it has changed on both sides."""
    ahead, behind = (_edge(landscape, here, side * direction, reach) for side in (1, -1))
    return ahead[0] + behind[0], ahead[1] + behind[1]


def _edge(landscape: WeightLandscape, here: Tensor, direction: Tensor, reach: float) -> tuple[float, float]:
    """The radius up to which no sample's loss changes, and one at which it has.

    The first is 0 if it has changed at the smallest radius, the second infinite if it has not changed at `reach`.
    """

    def same(radius: float) -> bool:
        return torch.equal(landscape.loss(radius * direction).losses, here)

    flat, changed = 0.0, math.inf
    for doubling in range(DOUBLINGS, -1, -1):
        radius = math.ldexp(reach, -doubling)
        if not same(radius):
            changed = radius
            break
        flat = radius
    if flat == 0 or math.isinf(changed):
        return flat, changed
    for _ in range(HALVINGS):
        middle = (flat + changed) / 2
        flat, changed = (middle, changed) if same(middle) else (flat, middle)
    return flat, changed
