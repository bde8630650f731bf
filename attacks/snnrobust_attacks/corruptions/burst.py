"""Bursts of events."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_count
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.plugin.task import Task
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.corruptions.probability import check_probability
from snnrobust_attacks.corruptions.shared import add_events, check_events, check_high, clock


@dataclass(frozen=True)
class Burst:
    """Many events in one short window: min(x + b, high) with b ~ Bernoulli(severity) for each entry of it.

    Severity is the probability in [0, 1] that an entry of the window fires. The window starts at any step at which it
    fits with equal chance; it is the whole of a shorter sequence.

    Attributes:
        width: Steps of the window.
        high: The greatest count of an entry: the model's upper bound, 1 for binary data.

    Raises:
        InputError: If `width` is below 1, `high` is no count, or for a severity outside [0, 1].
    """

    width: int = 2
    high: float = 1.0

    def __post_init__(self) -> None:
        check_count("width", self.width, remedy="give steps")
        check_high(self.high)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are sequences of events up to `high` and severities in [0, 1]."""
        check_events(model, "a burst", self.high)
        for severity in task.strengths:
            check_probability(severity, "a burst")

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Sequences [N, T, *] with a burst, for sequences x [N, T, *] of the samples `index` [N]."""
        check_probability(severity, "a burst")
        rng = rng.on(x)
        width = min(self.width, x.shape[1])
        start = (rng.sub("start").uniform(index, [1] * (x.ndim - 1)) * (x.shape[1] - width + 1)).floor()  # (N, 1, ...)
        window = (clock(x) >= start) & (clock(x) < start + width)  # (N, T, 1, ...)
        fires = rng.sub("events").uniform(index, x.shape[1:]) < severity
        return add_events(x, window & fires, self.high)
