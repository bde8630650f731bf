"""Whether an operator predicts the curvature of the true loss: predicted and measured, over directions and radii.

The true loss of a spiking net is piecewise constant in its hidden weights, so that it has curvature only at a scale.
In a direction d and at the radius r that is

    c(d, r) = E_z[L(o + r z + r d) + L(o + r z - r d) - 2 L(o + r z)] / r^2

over points o + r z around the origin o, where z are random directions of the same relative norm as d, the same z for
each d (common random numbers). An operator M predicts d^T M d. Spearman's rank correlation measures whether it has the
right order of directions; the slope of the measured on the predicted curvature measures whether it has the right size.

Measured curvature is noisy: which spikes flip depends on the samples and on z. The *noise ceiling* is the correlation
that the true curvature itself would reach, estimated from split halves: the covariance, over directions, of curvatures
from disjoint halves of the samples and of the z is the variance that both have in common, so

    ceiling = sqrt(cov(half, other half) / var(all))

(the reliability of classical test theory, Lord & Novick 1968, section 3.4). An effect of only these samples
is noise in this sense: an operator that is computed on the same samples may exceed the ceiling.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.session_cache import CacheKey
from snnrobust.errors import InputError
from snnrobust.results.checkpoint import MeasurementCheckpoint
from snnrobust.results.records import Record
from snnrobust_landscapes.loss.landscape import Landscape, landscape_fingerprint
from snnrobust_landscapes.operators.operator import Operator

Where = Literal["random", "leading"]
#: Radii at which curvature is measured, as shares of each filter's norm.
RADII = (0.01, 0.03, 0.1)
#: Splits of samples and points into halves, over which the ceiling is averaged.
SPLITS = 20
#: Groups of samples whose means are stored, so that memory does not grow with the number of samples.
GROUPS = 32


@dataclass(frozen=True, eq=False)
class Agreement:
    """Predicted and measured curvature in some directions at one radius.

    Attributes:
        where: "random" directions, or "leading" ones of the operator.
        radius: The radius r.
        predicted: d^T M d, [n].
        measured: c(d, r), [n].
        by_point: The same at each of the points o + r z, [n, draws]; their mean is `measured`.
        ceiling: Noise ceiling: the correlation that the true curvature would reach; 0 where all of it is noise.
    """

    where: Where
    radius: float
    predicted: np.ndarray
    measured: np.ndarray
    by_point: np.ndarray
    ceiling: float

    @property
    def correlation(self) -> float:
        """Spearman's rank correlation; NaN where all predictions, or all measured values, are the same."""
        if len(np.unique(self.predicted)) < 2 or len(np.unique(self.measured)) < 2:
            return float("nan")
        return float(stats.spearmanr(self.predicted, self.measured).statistic)

    @property
    def slope(self) -> float:
        """The factor of the predictions in a least-squares fit: sum(predicted measured) / sum(predicted^2)."""
        size = float(self.predicted @ self.predicted)
        return float(self.predicted @ self.measured) / size if size > 0 else float("nan")

    def records(self, unit: str) -> list[Record]:
        """Correlation, slope and ceiling; `unit` is that of the radius."""
        values = {"validity": self.correlation, "validity_slope": self.slope, "validity_ceiling": self.ceiling}
        return [
            Record(
                f"{quantity}:{self.where}",
                value,
                count=len(self.predicted),
                strength=self.radius,
                unit=unit,
                quantity=quantity,
                directions=self.where,
            )
            for quantity, value in values.items()
        ]


def in_random_directions(
    operator: Operator,
    rng: Draws,
    *,
    directions: int = 64,
    draws: int = 8,
    checkpoint: MeasurementCheckpoint | None = None,
) -> list[Agreement]:
    """Agreement in random filter-normalised directions, one for each of `RADII`.

    The measured curvature is the same for each operator of a landscape, and cached for the length of a session.

    Args:
        operator: The operator.
        rng: Draws; for numbers that are to be compared between operators, the same.
        directions: Random directions, n.
        draws: Points o + r z around which curvature is measured.
        checkpoint: Where finished values of a long measurement are stored.
    """
    landscape, model = operator.landscape, operator.landscape.model
    if not model.in_session:
        raise InputError("expected an open session of the model, got none; use `with model.session():`")
    chosen = random_directions(landscape, rng, directions)
    found = []
    for radius in RADII:
        key = CacheKey[np.ndarray](
            "measured curvature", (*landscape_fingerprint(landscape), rng, directions, draws, radius)
        )
        name = f"{rng.label}/random/{radius:g}"
        measure = partial(measured_curvatures, landscape, chosen, radius, rng, draws, checkpoint, name)
        found.append(
            _compared("random", radius, predicted_curvatures(operator, chosen), model.cache.get(key, measure), rng)
        )
    return found


def in_leading_directions(
    operator: Operator, vectors: Tensor, rng: Draws, *, draws: int = 8, checkpoint: MeasurementCheckpoint | None = None
) -> list[Agreement]:
    """Agreement in an operator's leading directions, scaled to the same relative norm as random ones.

    Args:
        operator: The operator.
        vectors: Its leading eigenvectors, [n, P] or [n, N, D].
        rng: Draws.
        draws: Points o + r z around which curvature is measured.
        checkpoint: Where finished values of a long measurement are stored.
    """
    landscape = operator.landscape
    chosen = torch.stack([scaled_to_relative_norm_1(landscape, vector) for vector in vectors])
    predicted = predicted_curvatures(operator, chosen)
    return [
        _compared(
            "leading",
            radius,
            predicted,
            measured_curvatures(landscape, chosen, radius, rng, draws, checkpoint, f"{rng.label}/leading/{radius:g}"),
            rng,
        )
        for radius in RADII
    ]


def random_directions(landscape: Landscape, rng: Draws, count: int) -> Tensor:
    """Random directions of relative norm 1, [count, P] or [count, N, D]."""
    return torch.stack([landscape.direction(rng.sub("direction", k)) for k in range(count)])


def scaled_to_relative_norm_1(landscape: Landscape, direction: Tensor) -> Tensor:
    """A direction [P] or [N, D] divided by its relative norm, block by block; blocks of zeros stay zero."""
    norm = landscape.relative_norm(direction).to(direction)
    scale = torch.where(norm > 0, 1 / norm, torch.zeros_like(norm))
    return direction * (scale.unsqueeze(1) if direction.ndim > 1 else scale)


def predicted_curvatures(operator: Operator, directions: Tensor) -> np.ndarray:
    """d^T M d of each direction, [n]; in inputs the mean over samples."""
    if operator.landscape.blocks == 1:
        return (directions * operator.apply(directions)).sum(dim=1).cpu().numpy()
    return np.array([float((d * operator.apply(d)).sum(dim=1).mean()) for d in directions])


def measured_curvatures(
    landscape: Landscape,
    directions: Tensor,
    radius: float,
    rng: Draws,
    draws: int,
    checkpoint: MeasurementCheckpoint | None = None,
    name: str = "",
) -> np.ndarray:
    """Measured curvature at each point around the origin, for each of up to `GROUPS` groups of samples, [n, draws, G].

    In inputs all samples are one group.

    Groups are random, and their sizes differ by at most one; the sum over each is divided by N / G, so that the mean
    over points and groups is c(d, radius).

    Args:
        landscape: The loss.
        directions: d, [n, P] or [n, N, D].
        radius: r.
        rng: Draws of the points o + r z, which are the same for all operators and directions.
        draws: How many points.
        checkpoint: Where finished values are stored.
        name: Under which name; the chunk size, on which values depend, is added to it.
    """
    name = f"{name}, {landscape.chunks[0].rows.stop} at a time"
    # In inputs each sample has its own direction: halves of the samples would have nothing in common.
    groups = sample_groups(len(landscape.samples), rng) if landscape.blocks == 1 else [np.arange(landscape.blocks)]
    found = None if checkpoint is None else checkpoint.get(name)
    if found is None:
        found = np.full((len(directions), draws, len(groups)), np.nan)
    for draw in range(draws):
        if np.isfinite(found[:, draw]).all():
            continue  # measured by an earlier attempt
        point = radius * landscape.direction(rng.sub("point", draw))
        here = landscape.loss(point).losses
        for row, direction in enumerate(directions):
            ahead, behind = (landscape.loss(point + side * radius * direction).losses for side in (1.0, -1.0))
            each = ((ahead + behind - 2 * here) / radius**2).numpy()
            found[row, draw] = [each[group].sum() * len(groups) / len(each) for group in groups]
        if checkpoint is not None:
            checkpoint.put(name, found)
    return found


def sample_groups(count: int, rng: Draws) -> list[np.ndarray]:
    """0..count-1 in up to `GROUPS` random groups."""
    order = rng.sub("groups").uniform(torch.tensor([0]), (count,))[0].argsort().numpy()
    return np.array_split(order, min(GROUPS, count))


def _compared(where: Where, radius: float, predicted: np.ndarray, values: np.ndarray, rng: Draws) -> Agreement:
    by_point = values.mean(axis=2, dtype=np.float64)
    return Agreement(where, radius, predicted, by_point.mean(axis=1), by_point, noise_ceiling(values, rng))


def noise_ceiling(values: np.ndarray, rng: Draws) -> float:
    """The noise ceiling of measured curvatures [n, draws, G]; 0 where the halves are not correlated.

    With one group of all samples, [n, draws, 1], only the points are split into halves.

    Args:
        values: As from `measured_curvatures`, for at least two points.
        rng: Draws of the splits.
    """
    n, draws, groups = values.shape
    whole = values.mean(axis=(1, 2), dtype=np.float64)
    if n < 3 or draws < 2 or whole.var() == 0:
        return float("nan")
    common = []
    for split in range(SPLITS):
        points = _halves(rng.sub("split points", split), draws)
        rows = _halves(rng.sub("split samples", split), groups) if groups > 1 else (np.array([0]), np.array([0]))
        one, other = (
            values[:, at][:, :, of].mean(axis=(1, 2), dtype=np.float64) for at, of in zip(points, rows, strict=True)
        )
        common.append(np.cov(one, other)[0, 1])
    share = float(np.mean(common)) / whole.var(ddof=1)
    return float(np.sqrt(min(1.0, max(0.0, share))))


def _halves(rng: Draws, count: int) -> tuple[np.ndarray, np.ndarray]:
    """0..count-1 in a random order, cut in two."""
    order: np.ndarray = rng.uniform(torch.tensor([0]), (count,))[0].argsort().numpy()
    return order[: count // 2], order[count // 2 :]
