"""Rotated images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.plugin.task import Task
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.corruptions.images import check_images, check_range, torchvision_functional
from snnrobust_attacks.corruptions.shared import check_severity


@dataclass(frozen=True)
class Rotation:
    """Images rotated counter-clockwise about their centre, by torchvision's `rotate` with bilinear interpolation.

    Severity is the angle in degrees. What comes in from outside of the image has the value `low`.

    Attributes:
        low: Black: the lower bound of the model's inputs.
        high: White: the upper bound.

    Raises:
        InputError: If `low` is not below `high`, or for a severity that is negative or not finite.
        MissingExtraError: If torchvision is not installed.
    """

    low: float = 0.0
    high: float = 1.0
    deterministic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range(self.low, self.high)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are real-valued images [N, C, H, W] in [low, high]."""
        check_images(model, data, "rotation", (self.low, self.high))

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Rotated images [N, C, H, W] for images x [N, C, H, W]."""
        check_severity(severity, "rotation", "degrees")
        if severity == 0:
            return x
        functional = torchvision_functional("rotation")
        bilinear = functional.InterpolationMode.BILINEAR
        rotated: Tensor = functional.rotate(x - self.low, severity, interpolation=bilinear, fill=[0.0])
        return (rotated + self.low).clamp(self.low, self.high)
