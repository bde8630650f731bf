"""How much the true loss rises nearby: along surrogate gradients, and in random directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.results.checkpoint import MeasurementCheckpoint
from snnrobust_landscapes.loss.landscape import Landscape
from snnrobust_landscapes.measurements.directions import surrogate_gradient
from snnrobust_landscapes.measurements.scaled_norm import ScaledNorm

#: Length of the steps after the first, which has the radius, as a share of it.
STEP_SHARE = 0.25


class LossAscent:
    """Rises of the true loss, sample by sample, [N] each. Surrogate gradients only choose the direction.

    Args:
        landscape: A loss over weights, or one for each sample over its input, each with its own ascent.
        steps: Gradients of an ascent.
        checkpoint: Where rises are stored.

    Raises:
        InputError: If a loss or gradient is not finite, or the gradient at the origin is zero.
    """

    def __init__(self, landscape: Landscape, steps: int, checkpoint: MeasurementCheckpoint) -> None:
        self.landscape = landscape
        self._steps = steps
        self._checkpoint = checkpoint
        self._prefix = f"chunks of {len(landscape.chunks[0].y)}"  # the rounding of a loss depends on it
        self._loss_at_origin = landscape.loss(torch.zeros_like(landscape.scale())).losses  # [N]

    def rise(self, offset: Tensor) -> Tensor:
        """L(origin + offset) - L(origin) of each sample, [N]."""
        return self.landscape.loss(offset).losses - self._loss_at_origin

    def step(self, ball: ScaledNorm, radius: float) -> Tensor:
        """The rise after one step to the edge of the ball, [N]: sharpness-aware minimisation's."""
        return self._stored(f"step {radius}", ball, lambda: self.rise(radius * ball.steepest(self._gradient)))

    def ascent(self, ball: ScaledNorm, radius: float) -> Tensor:
        """The largest rise at the steps of a projected ascent, [N], never less than after its first step.

        d_1 is the steepest point of the ball's edge and d_(k+1) = P(d_k + r / 4 s_k), with s_k the steepest step of
        length 1 at d_k, and P the projection onto the ball.
        """
        return self._stored(f"ascent {radius}", ball, lambda: self._ascent(ball, radius))

    def random(self, radii: Sequence[float], count: int, rng: Draws) -> Tensor:
        """Rises at `radii` along random directions of relative norm 1, [count, R, blocks]."""
        name = f"{self._prefix}, random"
        values = np.full((count, len(radii), self.landscape.blocks), np.nan)
        found = self._checkpoint.get(name)
        done = 0 if found is None else len(found)
        if found is not None:
            values[:done] = found
        for draw in range(done, count):
            along = self.random_direction(draw, rng)
            values[draw] = torch.stack([self.by_block(self.rise(radius * along)) for radius in radii])
            self._checkpoint.put(name, values[: draw + 1])
        return torch.from_numpy(values)

    def random_direction(self, draw: int, rng: Draws) -> Tensor:
        """The `draw`-th of the random directions."""
        return self.landscape.direction(rng.sub("random", draw))

    def by_block(self, rises: Tensor) -> Tensor:
        """The rise of each block, [blocks]: the mean over samples in weights, each sample's own in inputs."""
        return rises.mean().reshape(1) if self.landscape.space == "weights" else rises

    def larger_rise(self, first: Tensor, second: Tensor) -> Tensor:
        """The larger of two rises [N]: by their means in weights, sample by sample in inputs."""
        return torch.where(self.by_block(second) > self.by_block(first), second, first)

    @cached_property
    def _gradient(self) -> Tensor:
        return surrogate_gradient(self.landscape)

    def _ascent(self, ball: ScaledNorm, radius: float) -> Tensor:
        offset = radius * ball.steepest(self._gradient)
        best = self.step(ball, radius)
        for _ in range(self._steps - 1):
            ahead = ball.steepest(surrogate_gradient(self.landscape, offset))
            offset = ball.project(offset + STEP_SHARE * radius * ahead, radius)
            best = self.larger_rise(best, self.rise(offset))
        return best

    def _stored(self, name: str, ball: ScaledNorm, make: Callable[[], Tensor]) -> Tensor:
        """The result of `make`, stored in the checkpoint."""
        name = f"{self._prefix}, {ball.name}, {name}"
        found = self._checkpoint.get(name)
        if found is None:
            found = make().numpy()
            self._checkpoint.put(name, found)
        return torch.from_numpy(found)
