"""Jitter of the places of events."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.plugin.task import Task
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.corruptions.shared import FRAMES, check_axes, check_events, check_high, check_severity


@dataclass(frozen=True)
class SpatialJitter:
    """Each event moved by round(severity n) pixels in each direction of the sensor, n standard normal.

    Severity is the standard deviation in pixels; on sequences [N, T, F], whose channels must have an order (frequency,
    position), in channels. Step and polarity stay. The events of a count move independently. Events that leave the
    sensor are lost, and those that meet add up to at most `high`: on binary data they merge into one.

    Attributes:
        high: The greatest count of an entry: the model's upper bound, 1 for binary data.

    Raises:
        InputError: If `high` is no count, or for a severity that is negative or not finite.
    """

    high: float = 1.0

    def __post_init__(self) -> None:
        check_high(self.high)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are events up to `high`, [N, T, F] or [N, T, C, H, W]."""
        check_events(model, "spatial jitter", self.high)
        check_axes(data, "spatial jitter")

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Jittered sequences [N, T, *] for sequences x [N, T, *] of the samples `index` [N]."""
        check_severity(severity, "spatial jitter", "pixels")
        if severity == 0:
            return x
        rng = rng.on(x)
        axes = (x.ndim - 2, x.ndim - 1) if x.ndim == FRAMES else (x.ndim - 1,)
        flat = x.flatten(axes[0])  # (N, T, C, H * W) or (N, T, F)
        moved = torch.zeros_like(flat)
        for event in range(int(x.max())):
            inside, target = x > event, torch.zeros_like(x)
            for axis in axes:
                size = x.shape[axis]
                place = torch.arange(size, device=x.device).reshape(-1, *[1] * (x.ndim - 1 - axis))
                place = place + torch.round(severity * rng.sub(axis).normal(index, x.shape[1:], draw=event))
                inside = inside & (place >= 0) & (place < size)
                target = target * size + place.clamp(0, size - 1)
            moved.scatter_add_(-1, target.long().flatten(axes[0]), inside.to(x).flatten(axes[0]))
        return moved.clamp(max=self.high).reshape(x.shape)
