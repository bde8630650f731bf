"""Loss of an area of the sensor."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.plugin.task import Task
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.corruptions.probability import check_probability
from snnrobust_attacks.corruptions.shared import FRAMES, check_axes, check_sequences


@dataclass(frozen=True)
class DropArea:
    """All events of a rectangle of the sensor are removed, at every step and polarity.

    Severity is the share in [0, 1] of the sensor. On frames [N, T, C, H, W] the rectangle has
    round(sqrt(severity) H) rows and round(sqrt(severity) W) columns; on sequences [N, T, F] it is a block of
    round(severity F) neighbouring channels. Each place that it fits in has equal chance. Every entry there becomes
    `fill`: 0 removes events; for real-valued sequences give the value of silence.

    Attributes:
        fill: The value of a lost entry.

    Raises:
        InputError: For a severity outside [0, 1].
    """

    fill: float = 0.0

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are [N, T, F] or [N, T, C, H, W] and severities in [0, 1]."""
        check_sequences(model, "the loss of an area", self.fill)
        check_axes(data, "the loss of an area")
        for severity in task.strengths:
            check_probability(severity, "the loss of an area")

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Sequences [N, T, *] without the area, for sequences x [N, T, *] of the samples `index` [N]."""
        check_probability(severity, "the loss of an area")
        axes = (x.ndim - 2, x.ndim - 1) if x.ndim == FRAMES else (x.ndim - 1,)
        side = math.sqrt(severity) if x.ndim == FRAMES else severity
        lost = torch.ones([1] * x.ndim, dtype=torch.bool, device=x.device)
        for axis in axes:
            lost = lost & _block(x, axis, round(side * x.shape[axis]), rng.on(x).sub(axis), index)
        return torch.where(lost, x.new_tensor(self.fill), x) if severity else x


def _block(x: Tensor, axis: int, width: int, rng: Draws, index: Tensor) -> Tensor:
    """Which entries of an axis are in a block of `width` at a random place, [N, 1, ..., size, ..., 1]."""
    size = x.shape[axis]
    start = (rng.uniform(index, [1] * (x.ndim - 1)) * (size - width + 1)).floor()
    place = torch.arange(size, device=x.device).reshape([-1 if each == axis else 1 for each in range(x.ndim)])
    return (place >= start) & (place < start + width)
