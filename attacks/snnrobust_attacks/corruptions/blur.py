"""Blurred images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.plugin.task import Task
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.corruptions.images import check_images, torchvision_functional
from snnrobust_attacks.corruptions.shared import check_severity


@dataclass(frozen=True)
class Blur:
    """Convolution with a Gaussian, by torchvision's `gaussian_blur`; the image is mirrored at its border.

    Severity is the standard deviation in pixels. The kernel reaches three of them, or less in a smaller image.

    Raises:
        InputError: For a severity that is negative or not finite.
        MissingExtraError: If torchvision is not installed.
    """

    deterministic: ClassVar[bool] = True

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are real-valued images [N, C, H, W]."""
        check_images(model, data, "blur")

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Blurred images [N, C, H, W] for images x [N, C, H, W]."""
        check_severity(severity, "blur", "pixels")
        reach = min(math.ceil(3 * severity), *(size - 1 for size in x.shape[2:]))
        if reach == 0:
            return x
        blur = torchvision_functional("blur").gaussian_blur
        # One by one: a convolution may round in another way in another batch.
        images = [blur(image, [2 * reach + 1] * 2, [severity] * 2) for image in x]
        return torch.stack(images)
