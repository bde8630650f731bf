"""Sharpness: how much the training loss rises nearby, in balls invariant to rescaling and in one that is not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.validate import is_positive
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.errors import InputError
from snnrobust.plugin.task import Task
from snnrobust.results.artifacts import Artifact, Profile
from snnrobust.results.checkpoint import MeasurementCheckpoint
from snnrobust.results.records import Record
from snnrobust.wrapping.model import SpikingModel
from snnrobust_landscapes.loss.landscape import RADIUS_UNITS, Landscape
from snnrobust_landscapes.loss.weights import WeightLandscape
from snnrobust_landscapes.measurements import section_points
from snnrobust_landscapes.measurements.curvature_measurement import Space
from snnrobust_landscapes.measurements.directions import surrogate_gradient
from snnrobust_landscapes.measurements.loss_ascent import LossAscent
from snnrobust_landscapes.measurements.scaled_norm import ScaledNorm
from snnrobust_landscapes.measurements.setting_checks import require_counts, require_positive
from snnrobust_landscapes.validity.preliminary_checks import require_finite_loss

#: Units of strengths, by space and ball.
UNITS = {
    "weights": {"relative": RADIUS_UNITS["weights"], "L2": "L2 radius", "elementwise": "weight-relative radius"},
    "inputs": {"relative": RADIUS_UNITS["inputs"], "L2": "L2 radius"},
}
#: Search -> at each radius, the rises whose mean is the sharpness: [N], or one for each random direction.
Curves = dict[str, list[Tensor]]
GRADIENT, RANDOM = "true loss along surrogate gradients", "true loss along random directions"


@dataclass(frozen=True)
class Sharpness:
    """How much the training loss L rises within a radius r of the weights (or of each input).

    All rises are of the true loss, batch norm in eval mode; surrogate gradients g only choose the direction. Where they
    are uninformative, rises along them are too small: an ascent that finds less than random directions is a sign of
    that, not of flatness.

    - "sharpness:sam": L(theta + r g / |g|) - L(theta), as in sharpness-aware minimisation (Foret et al. 2021, arXiv
      2010.01412, equation 2), at each L2 radius of `rho`. "sharpness:ascent_l2": the largest rise at the steps of an
      ascent of `steps` gradients in the same ball. Both change when weights are rescaled and the net's function is
      not, as in front of a batch norm: don't compare nets by them.
    - "sharpness:asam": L(theta + r T^2 g / |T g|) - L(theta) with T = diag |theta|, the adaptive version (Kwon et al.
      2021, arXiv 2102.11600, sections 3 and 4), at each of `asam_rho`, the norm |d / theta|. Weights of zero do not
      move: the authors' small constant, which moves them, is left out, since it depends on scale. In weights only.
    - "sharpness:one_step", "sharpness:ascent": one step, and an ascent, in the filter-relative ball, where T contains
      each filter's norm (ibid.) and the norm is the root mean square of |d_f| / |theta_f| over filters f. At each of
      `radii`. The logits of an SNN are bounded, so that rises level off: compare nets by the radius where they do.
    - "sharpness:random_mean", "sharpness:random_max": over `directions` random filter-normalised directions, which end
      on the edge of that ball at each of `radii`.

    All but the L2 ones are invariant to rescaling filters where the net's function does not change. An ascent's value
    is a lower bound of the largest rise in the ball; it is never below that of one step, or of a smaller radius. In
    inputs each sample has its own ascent, in a ball as large as `radii` times its own norm.

    Intervals are 95 %, Student's t, of the mean over samples of the rise at the point that was found; that of
    "random_mean" in weights is over directions.

    Yields a `Profile` of rises over `radii`, and one over `rho` where it has several.

    Attributes:
        radii: Filter-relative radii (in inputs: relative to each input).
        rho: L2 radii.
        asam_rho: Radii relative to each weight; comparable radii grow with the root of the number of weights.
        steps: Gradients of an ascent.
        directions: Random directions.
        space: "weights" or "inputs".
        samples: Number of training samples, the first ones (all if there are fewer).
        chunk: Samples that go through the net together, at most the evaluation's batch size.
        logit_scale: Factor of the logits before the cross entropy, as in training.

    Raises:
        InputError: For a count, radius, scale or space out of range.
    """

    radii: tuple[float, ...] = (0.01, 0.03, 0.1)
    rho: tuple[float, ...] = (0.05,)
    asam_rho: tuple[float, ...] = (0.5,)
    steps: int = 20
    directions: int = 200
    space: Space = "weights"
    samples: int = 500
    chunk: int = 64
    logit_scale: float = 1.0

    resumable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("radii", "rho", "asam_rho"):
            value: Any = getattr(self, name)
            if not isinstance(value, Sequence) or not value or not all(map(is_positive, value)):
                raise InputError(f"expected {name} > 0, one or more, got {value!r}; give radii")
            object.__setattr__(self, name, tuple(sorted(set(value))))  # a list, as a configuration file has it
        require_counts(self, steps=1, directions=2, samples=2, chunk=1)
        require_positive(self, "logit_scale")
        if self.space not in UNITS:
            raise InputError(f"expected space to be one of {', '.join(UNITS)}, got {self.space!r}; choose one")

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless there are at least two training samples, and weights that can be moved.

        The loss and its surrogate gradient must be finite, and the gradient must not be zero.
        """
        self._require(model, data)
        with model.session():
            landscape = self._landscape(model, data)
            require_finite_loss(landscape)
            surrogate_gradient(landscape)

    def _require(self, model: SpikingModel, data: EvaluationData) -> None:
        section_points.check_fits(model, data, self.space)
        if (count := len(data.training("sharpness"))) < 2:
            raise InputError(f"expected at least 2 training samples for sharpness, got {count}; pass more")

    def measure(
        self, model: SpikingModel, data: EvaluationData, rng: Draws, checkpoint: MeasurementCheckpoint | None = None
    ) -> Iterable[Record | Artifact]:
        """Records and profiles; the net is left as it was.

        Raises:
            InputError: If a loss or gradient is not finite, or all gradients are zero.
        """
        self._require(model, data)
        with model.session():
            checkpoint = MeasurementCheckpoint() if checkpoint is None else checkpoint
            ascent = LossAscent(self._landscape(model, data), self.steps, checkpoint)
            balls = _BallByBall(self, ascent, rng)
            return [*balls.filter_relative(), *balls.l2(), *balls.elementwise()]

    def _landscape(self, model: SpikingModel, data: EvaluationData) -> Landscape:
        return section_points.training_landscape(
            model, data, space=self.space, samples=self.samples, chunk=self.chunk, logit_scale=self.logit_scale
        )


class _BallByBall:
    """The sharpness of a model in each ball."""

    def __init__(self, settings: Sharpness, ascent: LossAscent, rng: Draws) -> None:
        self.settings = settings
        self.ascent = ascent
        self.rng = rng
        self.units = UNITS[settings.space]

    def filter_relative(self) -> Iterator[Record | Artifact]:
        """One step, ascents and random directions in the relative ball."""
        radii = self.settings.radii
        ball = ScaledNorm("relative", self.ascent.landscape.scale())
        along_gradients = self._along_gradients(ball, radii, "one_step", "ascent")
        random = self._random(radii)
        yield from self._records(along_gradients, radii, ball)
        yield from self._records(random, radii, ball, RANDOM)
        yield self._profile(along_gradients | random, radii, ball)

    def l2(self) -> Iterator[Record | Artifact]:
        """One step and ascents in the Euclidean ball."""
        ball = ScaledNorm("L2", torch.ones_like(self.ascent.landscape.scale()))
        curves = self._along_gradients(ball, self.settings.rho, "sam", "ascent_l2")
        yield from self._records(curves, self.settings.rho, ball)
        if len(self.settings.rho) > 1:
            yield self._profile(curves, self.settings.rho, ball)

    def elementwise(self) -> Iterator[Record]:
        """One step in the ball of adaptive sharpness-aware minimisation."""
        if isinstance(landscape := self.ascent.landscape, WeightLandscape):
            ball = ScaledNorm("elementwise", landscape.flatten(list(landscape.theta.values())).abs())
            rises = [self.ascent.step(ball, radius) for radius in self.settings.asam_rho]
            yield from self._records({"asam": rises}, self.settings.asam_rho, ball)

    def _along_gradients(self, ball: ScaledNorm, radii: Sequence[float], step: str, ascent: str) -> Curves:
        """Rises of one step, and of an ascent, at least that in a smaller ball."""
        steps = [self.ascent.step(ball, radius) for radius in radii]
        ascents = accumulate((self.ascent.ascent(ball, radius) for radius in radii), self.ascent.larger_rise)
        return {step: steps, ascent: list(ascents)}

    def _random(self, radii: Sequence[float]) -> Curves:
        """Rises in the random direction with the largest rise, for each sample in inputs; and in all directions."""
        rises = self.ascent.random(radii, self.settings.directions, self.rng)  # [directions, R, blocks]
        if self.settings.space == "inputs":
            return {"random_max": list(rises.amax(dim=0)), "random_mean": list(rises.mean(dim=0))}
        draws = rises[..., 0].argmax(dim=0).tolist()
        highest = [
            self.ascent.rise(radius * self.ascent.random_direction(draw, self.rng))
            for radius, draw in zip(radii, draws, strict=True)
        ]
        return {"random_max": highest, "random_mean": list(rises[..., 0].T)}

    def _records(
        self, curves: Curves, radii: Sequence[float], ball: ScaledNorm, about: str = GRADIENT
    ) -> Iterator[Record]:
        threat = about if self.settings.space == "weights" else f"{about}, inputs"
        for name, rises in curves.items():
            for radius, each in zip(radii, rises, strict=True):
                value, half = float(each.mean()), _half_width(each.numpy())
                interval = (value, value - half, value + half)
                yield Record(
                    f"sharpness:{name}",
                    *interval,
                    len(each),
                    radius,
                    unit=self.units[ball.name],
                    threat=threat,
                    quantity="sharpness",
                    search=name,
                    space=self.settings.space,
                )

    def _profile(self, curves: Curves, radii: Sequence[float], ball: ScaledNorm) -> Profile:
        landscape = self.ascent.landscape
        values = {name: np.array([0.0, *(float(each.mean()) for each in rises)]) for name, rises in curves.items()}
        return Profile(
            x=np.array([0.0, *radii]),
            values={f"loss rise, {name.replace('_', ' ')}": each for name, each in values.items()},
            axis=self.units[ball.name],
            caption=(
                f"Rise of the true loss, the mean cross entropy of {len(landscape.samples)} training samples, in "
                f"chunks of {len(landscape.chunks[0].y)}, along surrogate gradients and random directions."
            ),
        )


def _half_width(values: np.ndarray) -> float:
    """Half the width of the 95 % interval of a mean, Student's t."""
    return float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
