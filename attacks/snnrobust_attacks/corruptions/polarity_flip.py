"""Wrong polarities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.errors import InputError
from snnrobust.plugin.task import Task
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.corruptions.probability import check_probability
from snnrobust_attacks.corruptions.shared import FRAMES, check_events, check_high


@dataclass(frozen=True)
class PolarityFlip:
    """Each event gets the other polarity independently; place and step stay.

    Severity is the probability in [0, 1] that an event's polarity flips. Inputs are frames [N, T, 2, H, W]. Events that
    meet at an entry add up to at most `high`: on binary data they merge into one.

    Attributes:
        high: The greatest count of an entry: the model's upper bound, 1 for binary data.

    Raises:
        InputError: If `high` is no count, or for a severity outside [0, 1].
    """

    high: float = 1.0

    def __post_init__(self) -> None:
        check_high(self.high)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are events [N, T, 2, H, W] up to `high` and severities in [0, 1]."""
        check_events(model, "polarity flips", self.high)
        shape = tuple(data.test.x.shape)
        if len(shape) != FRAMES or shape[2] != 2:
            raise InputError(
                f"expected frames with two polarities [N, T, 2, H, W] for polarity flips, got {shape}; reshape the "
                f"data, or use 'spike-deletion'"
            )
        for severity in task.strengths:
            check_probability(severity, "polarity flips")

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Frames [N, T, 2, H, W] with flipped polarities, for frames x of the samples `index` [N]."""
        check_probability(severity, "polarity flips")
        if severity == 0:
            return x
        rng = rng.on(x)
        flipped = torch.zeros_like(x)
        for event in range(int(x.max())):  # the first, second ... event of each entry
            flipped += (x > event) & (rng.uniform(index, x.shape[1:], draw=event) < severity)
        return (x - flipped + flipped.flip(2)).clamp(max=self.high)
