"""Wider bins of time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_flag
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.plugin.task import Task
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.corruptions.shared import (
    check_events,
    check_high,
    check_other_steps,
    check_severity,
    move_steps,
)


@dataclass(frozen=True)
class BinWidth:
    """Events binned again into bins of `severity` steps: an event at step t goes to bin floor(t / severity).

    Severity is the width of a bin in steps of the data; up to 1 nothing changes. The events of a bin are summed and cut
    at `high`: on binary data a bin is 1 where any of its steps is. With `keep_steps=False` the sequence has a step a
    bin, T' = floor((T - 1) / severity) + 1 of T, so that the net sees fewer steps than in training; the net must take
    sequences of any number of steps. Otherwise the sum is at the first step of the bin, the other steps of it are
    empty, and T stays: only the times are coarser.

    Bins narrower than those of the data can't be made from it: bin the raw events again.

    Attributes:
        keep_steps: Whether the number of steps stays.
        high: The greatest count of an entry: the model's upper bound, 1 for binary data.

    Raises:
        InputError: If `high` is no count, or for a severity that is negative or not finite.
        InputTypeError: If `keep_steps` is not a bool.
    """

    keep_steps: bool = True
    high: float = 1.0
    deterministic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_flag("keep_steps", self.keep_steps)
        check_high(self.high)

    @property
    def changes_steps(self) -> bool:
        """Whether sequences get another number of steps."""
        return not self.keep_steps

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are sequences of spikes or event counts up to `high`.

        Where steps change, the net must take as few as the largest severity leaves.
        """
        check_events(model, "wider bins", self.high)
        if self.changes_steps:
            steps = data.test.x.shape[1]
            fewest = math.floor((steps - 1) / max(1.0, *task.strengths)) + 1
            check_other_steps(model, data, fewest, "wider bins", "pass keep_steps=True")

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Sequences [N, T', *] in wider bins, for sequences x [N, T, *]."""
        check_severity(severity, "wider bins", "steps")
        if severity <= 1:
            return x
        bins = (torch.arange(x.shape[1], device=x.device, dtype=torch.float64) / severity).floor()
        if self.keep_steps:
            return move_steps(x, (bins * severity).ceil().long(), x.shape[1], self.high)
        return move_steps(x, bins.long(), int(bins[-1]) + 1, self.high)
