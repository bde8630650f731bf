"""Jitter of spike times."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.plugin.task import Task
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.corruptions.shared import check_events, check_high, check_severity, move_in_time


@dataclass(frozen=True)
class TimeJitter:
    """Each spike or event moved in time by round(severity n) steps, n standard normal.

    Severity is the standard deviation in time steps. The events of a count move independently. Times are clamped to the
    sequence (without padding), and events of one line that meet at a step add up to at most `high`: on binary data
    they merge into one, and the number of events can only fall.

    Attributes:
        high: The greatest count of an entry: the model's upper bound, 1 for binary data.

    Raises:
        InputError: If `high` is no count, or for a severity that is negative or not finite.
    """

    high: float = 1.0

    def __post_init__(self) -> None:
        check_high(self.high)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are sequences of spikes or event counts up to `high`."""
        check_events(model, "time jitter", self.high)

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Jittered sequences [N, T, *] for sequences x [N, T, *] of the samples `index` [N]."""
        check_severity(severity, "time jitter", "time steps")
        if severity == 0:
            return x
        rng = rng.on(x)

        def shift(event: int) -> Tensor:
            return torch.round(severity * rng.normal(index, x.shape[1:], draw=event))  # (N, T, *)

        return move_in_time(x, shift, self.high, clamp=True)
