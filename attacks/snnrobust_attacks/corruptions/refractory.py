"""A refractory period."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.plugin.task import Task
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.corruptions.shared import check_events, check_severity


@dataclass(frozen=True)
class Refractory:
    """An event is lost if another one of its line was kept at most `severity` steps before.

    Severity is the refractory period in steps. A line is one pixel and polarity, or one channel. Events are taken in
    order of time, and only kept ones start a period; of a count, one event is kept where the severity is above 0.

    Raises:
        InputError: For a severity that is negative or not finite.
    """

    deterministic: ClassVar[bool] = True

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are sequences of spikes or event counts."""
        check_events(model, "a refractory period")

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Thinned sequences [N, T, *] for sequences x [N, T, *]."""
        check_severity(severity, "a refractory period", "time steps")
        if severity == 0:
            return x
        kept = torch.zeros_like(x)
        last = torch.full_like(x[:, 0], -torch.inf)  # (N, *), step of the last kept event
        for step in range(x.shape[1]):
            fires = (x[:, step] > 0) & (step - last > severity)
            kept[:, step] = fires.to(x)
            last = last.masked_fill(fires, step)
        return kept
