"""Loss of a window of time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.plugin.task import Task
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.corruptions.probability import check_probability
from snnrobust_attacks.corruptions.shared import check_sequences, clock


@dataclass(frozen=True)
class DropWindow:
    """All events of a window of k = round(severity T) steps are removed; it starts at 0..T-k with equal chance.

    Severity is the share in [0, 1] of the sequence that is lost. Every entry of those steps becomes `fill`: 0 removes
    events; for real-valued sequences give the value of silence.

    Attributes:
        fill: The value of a lost entry.

    Raises:
        InputError: For a severity outside [0, 1].
    """

    fill: float = 0.0

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are sequences with the value `fill` and severities in [0, 1]."""
        check_sequences(model, "the loss of a window", self.fill)
        for severity in task.strengths:
            check_probability(severity, "the loss of a window")

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Sequences [N, T, *] with a gap, for sequences x [N, T, *] of the samples `index` [N]."""
        check_probability(severity, "the loss of a window")
        width = round(severity * x.shape[1])
        if width == 0:
            return x
        start = (rng.on(x).uniform(index, [1] * (x.ndim - 1)) * (x.shape[1] - width + 1)).floor()  # (N, 1, ...)
        lost = (clock(x) >= start) & (clock(x) < start + width)  # (N, T, 1, ...)
        return torch.where(lost, x.new_tensor(self.fill), x)
