"""Salt-and-pepper noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.errors import InputError
from snnrobust.plugin.task import Task
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.corruptions.probability import check_probability


@dataclass(frozen=True)
class SaltAndPepper:
    """Entries replaced by the least or the greatest value, each with equal chance.

    Severity is the probability in [0, 1] that an entry is replaced, independently of the others. On images with
    channels each channel of a pixel is an entry of its own; on sequences so is each time step.

    Attributes:
        low: The pepper; the lower bound of the model's inputs.
        high: The salt; the upper bound.

    Raises:
        InputError: If `low` is not below `high`, or a severity is outside [0, 1].
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise InputError(f"expected finite low < high, got {self.low!r} and {self.high!r}; give the model's bounds")

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless `low` and `high` are the model's bounds and severities are in [0, 1]."""
        if (self.low, self.high) != model.bounds:
            raise InputError(
                f"expected low and high to be the bounds {model.bounds} of model '{model.name}', "
                f"got {(self.low, self.high)}; pass low={model.bounds[0]:g}, high={model.bounds[1]:g}"
            )
        for severity in task.strengths:
            check_probability(severity, "salt and pepper")

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Noisy inputs [N, *] for inputs x [N, *] of the samples `index` [N]."""
        check_probability(severity, "salt and pepper")
        rng = rng.on(x)
        replaced = rng.sub("replaced").uniform(index, x.shape[1:]) < severity
        salt = rng.sub("salt").uniform(index, x.shape[1:]) < 0.5
        return torch.where(replaced, torch.where(salt, x.new_tensor(self.high), x.new_tensor(self.low)), x)
