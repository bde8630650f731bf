"""Dead pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.plugin.task import Task
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.corruptions.probability import check_probability
from snnrobust_attacks.corruptions.shared import FRAMES, check_sequences


@dataclass(frozen=True)
class DeadPixels:
    """Pixels without an event at any step, of either polarity; on sequences [N, T, F] channels.

    Severity is the probability in [0, 1] that a pixel is dead. Each sample sees a sensor of its own. Every entry of a
    dead pixel becomes `fill`: 0 removes events; for real-valued sequences give the value of silence.

    Attributes:
        fill: The value of a lost entry.

    Raises:
        InputError: For a severity outside [0, 1].
    """

    fill: float = 0.0

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are sequences with the value `fill` and severities in [0, 1]."""
        check_sequences(model, "dead pixels", self.fill)
        for severity in task.strengths:
            check_probability(severity, "dead pixels")

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Sequences [N, T, *] with dead pixels, for sequences x [N, T, *] of the samples `index` [N]."""
        check_probability(severity, "dead pixels")
        polarities = 1 if x.ndim == FRAMES else x.shape[2]
        dead = rng.on(x).uniform(index, (1, polarities, *x.shape[3:])) < severity  # (N, 1, 1, H, W) or (N, 1, F)
        return torch.where(dead, x.new_tensor(self.fill), x)
