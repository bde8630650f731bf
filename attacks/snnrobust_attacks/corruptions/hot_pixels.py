"""Hot pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.plugin.task import Task
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.corruptions.probability import check_probability
from snnrobust_attacks.corruptions.shared import check_events


@dataclass(frozen=True)
class HotPixels:
    """Lines of entries that fire at every step: max(x, 1) there.

    Severity is the probability in [0, 1] that a line, one pixel and polarity or one channel, is hot. Each sample sees a
    sensor of its own.

    Raises:
        InputError: For a severity outside [0, 1].
    """

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are sequences of spikes or event counts and severities in [0, 1]."""
        check_events(model, "hot pixels")
        for severity in task.strengths:
            check_probability(severity, "hot pixels")

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Sequences [N, T, *] with hot lines, for sequences x [N, T, *] of the samples `index` [N]."""
        check_probability(severity, "hot pixels")
        hot = rng.on(x).uniform(index, (1, *x.shape[2:])) < severity  # (N, 1, *)
        return torch.where(hot, x.clamp(min=1), x)
