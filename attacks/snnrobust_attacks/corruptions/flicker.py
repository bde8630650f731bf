"""Flicker of the light."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_count
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.plugin.task import Task
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.corruptions.probability import check_probability
from snnrobust_attacks.corruptions.shared import FRAMES, add_events, check_events, check_high, clock


@dataclass(frozen=True)
class Flicker:
    """Events of the whole frame every `period` steps: min(x + b, high) with b ~ Bernoulli(severity) at a flash.

    Severity is the probability in [0, 1] that an entry fires at a flash. On frames with two polarities
    [N, T, 2, H, W], channel 1 (light grows) fires at steps t = phase + k period, and channel 0 (light falls)
    period // 2 steps later; other inputs fire in all channels at t = phase + k period. The phase is 0..period-1 with
    equal chance.

    Attributes:
        period: Steps from flash to flash.
        high: The greatest count of an entry: the model's upper bound, 1 for binary data.

    Raises:
        InputError: If `period` is below 1, `high` is no count, or for a severity outside [0, 1].
    """

    period: int = 4
    high: float = 1.0

    def __post_init__(self) -> None:
        check_count("period", self.period, remedy="give steps")
        check_high(self.high)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are sequences of events up to `high` and severities in [0, 1]."""
        check_events(model, "flicker", self.high)
        for severity in task.strengths:
            check_probability(severity, "flicker")

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Sequences [N, T, *] with flashes, for sequences x [N, T, *] of the samples `index` [N]."""
        check_probability(severity, "flicker")
        rng = rng.on(x)
        phase = (rng.sub("phase").uniform(index, [1] * (x.ndim - 1)) * self.period).floor()  # (N, 1, ...)
        if x.ndim == FRAMES and x.shape[2] == 2:
            falls = torch.tensor([self.period // 2, 0], device=x.device).reshape(1, 1, 2, 1, 1)
            phase = phase + falls  # (N, 1, 2, 1, 1)
        flash = (clock(x) - phase) % self.period == 0  # (N, T, ...)
        fires = rng.sub("events").uniform(index, x.shape[1:]) < severity
        return add_events(x, flash & fires, self.high)
