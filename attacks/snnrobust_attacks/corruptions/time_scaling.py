"""Faster and slower sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_choice
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.plugin.task import Task
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.corruptions.shared import check_events, check_high, check_severity, move_steps


@dataclass(frozen=True)
class TimeScaling:
    """Times scaled about the start: an event at step t goes to floor((t + 1/2) f).

    Severity s gives f = 1 + s for "stretch" and f = 1 / (1 + s) for "compress": 1 is half or twice the speed. The
    number of steps stays: events past the end are lost, and after a compressed sequence there is silence. Events of one
    line that meet at a step add up to at most `high`: on binary data they merge into one.

    Attributes:
        direction: "stretch" (slower) or "compress" (faster).
        high: The greatest count of an entry: the model's upper bound, 1 for binary data.

    Raises:
        InputError: For an unknown direction, if `high` is no count, or for a severity that is negative or not finite.
    """

    direction: Literal["stretch", "compress"] = "stretch"
    high: float = 1.0
    deterministic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_choice("direction", self.direction, ("stretch", "compress"))
        check_high(self.high)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are sequences of spikes or event counts up to `high`."""
        check_events(model, "time scaling", self.high)

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Sequences [N, T, *] at another speed, for sequences x [N, T, *]."""
        check_severity(severity, "time scaling", "a relative change of speed")
        factor = 1 + severity if self.direction == "stretch" else 1 / (1 + severity)
        middle = torch.arange(x.shape[1], device=x.device, dtype=torch.float64) + 0.5
        return move_steps(x, (middle * factor).floor().long(), x.shape[1], self.high) if severity else x
