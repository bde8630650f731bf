"""Brighter and darker images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_choice
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.plugin.task import Task
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.corruptions.images import check_images, check_range, from_unit, to_unit, torchvision_functional
from snnrobust_attacks.corruptions.shared import check_severity


@dataclass(frozen=True)
class Brightness:
    """Values scaled by f about `low`, and clipped to [low, high], by torchvision's `adjust_brightness`.

    Severity s gives f = 1 + s for "brighter" and f = 1 / (1 + s) for "darker".

    Attributes:
        direction: "brighter" or "darker".
        low: Black: the lower bound of the model's inputs.
        high: White: the upper bound.

    Raises:
        InputError: For an unknown direction, if `low` is not below `high`, or for a severity that is negative or not
            finite.
        MissingExtraError: If torchvision is not installed.
    """

    direction: Literal["brighter", "darker"] = "brighter"
    low: float = 0.0
    high: float = 1.0
    deterministic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_choice("direction", self.direction, ("brighter", "darker"))
        check_range(self.low, self.high)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are images [N, 1 or 3, H, W] in [low, high]."""
        check_images(model, data, "brightness", (self.low, self.high), colours=True)

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Brighter or darker images [N, C, H, W] for images x [N, C, H, W]."""
        check_severity(severity, "brightness", "a relative change")
        if severity == 0:
            return x
        factor = 1 + severity if self.direction == "brighter" else 1 / (1 + severity)
        adjust = torchvision_functional("brightness").adjust_brightness
        return from_unit(adjust(to_unit(x, self.low, self.high), factor), self.low, self.high)
