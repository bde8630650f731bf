"""Partly hidden images."""

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
from snnrobust_attacks.corruptions.images import check_images, torchvision_functional
from snnrobust_attacks.corruptions.probability import check_probability


@dataclass(frozen=True)
class Occlusion:
    """A rectangle of the image is replaced by `fill`, by torchvision's `erase`.

    Severity is the share in [0, 1] of the image's area. The rectangle has round(sqrt(severity) H) rows and
    round(sqrt(severity) W) columns; each place that it fits in has equal chance.

    Attributes:
        fill: The value of the hidden part, within the bounds of the model's inputs.

    Raises:
        InputError: For a severity outside [0, 1].
        MissingExtraError: If torchvision is not installed.
    """

    fill: float = 0.0

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are real-valued images [N, C, H, W] and severities in [0, 1]."""
        check_images(model, data, "occlusion")
        if not model.bounds[0] <= self.fill <= model.bounds[1]:
            raise InputError(
                f"expected fill within the bounds {model.bounds} of model '{model.name}', got {self.fill:g}; "
                f"pass fill={model.bounds[0]:g}"
            )
        for severity in task.strengths:
            check_probability(severity, "occlusion")

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Partly hidden images [N, C, H, W] for images x [N, C, H, W] of the samples `index` [N]."""
        check_probability(severity, "occlusion")
        rows, columns = (round(math.sqrt(severity) * size) for size in x.shape[2:])
        if rows == 0 or columns == 0:
            return x
        erase = torchvision_functional("occlusion").erase
        room = torch.tensor([x.shape[2] - rows + 1, x.shape[3] - columns + 1])
        corners = (rng.uniform(index, (2,)).cpu() * room).long().tolist()
        fill = x.new_tensor(self.fill)
        images = [erase(image, top, left, rows, columns, fill) for image, (top, left) in zip(x, corners, strict=True)]
        return torch.stack(images)
