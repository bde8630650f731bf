"""Images with less contrast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.plugin.task import Task
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.corruptions.images import check_images, check_range, from_unit, to_unit, torchvision_functional
from snnrobust_attacks.corruptions.probability import check_probability


@dataclass(frozen=True)
class Contrast:
    """(1 - severity) x + severity m with m the image's mean grey value, by torchvision's `adjust_contrast`.

    Severity is the share in [0, 1] of the contrast that is lost: 1 leaves a grey image.

    Attributes:
        low: Black: the lower bound of the model's inputs.
        high: White: the upper bound.

    Raises:
        InputError: If `low` is not below `high`, or for a severity outside [0, 1].
        MissingExtraError: If torchvision is not installed.
    """

    low: float = 0.0
    high: float = 1.0
    deterministic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range(self.low, self.high)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are images [N, 1 or 3, H, W] in [low, high], severities in [0, 1]."""
        check_images(model, data, "contrast", (self.low, self.high), colours=True)
        for severity in task.strengths:
            check_probability(severity, "contrast")

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Images [N, C, H, W] with less contrast for images x [N, C, H, W]."""
        check_probability(severity, "contrast")
        if severity == 0:
            return x
        adjust = torchvision_functional("contrast").adjust_contrast
        # One by one: a mean may be summed in another order in another batch.
        images = [adjust(image, 1 - severity) for image in to_unit(x, self.low, self.high)]
        return from_unit(torch.stack(images), self.low, self.high)
