"""Insertion of spikes and events."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.plugin.task import Task
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.corruptions.shared import add_events, check_events, check_high, check_severity, poisson


@dataclass(frozen=True)
class SpikeInsertion:
    """min(x + n, high) with n ~ Poisson(severity), independent in each entry.

    Severity is the expected number of added events for each entry and step. On binary data an empty entry is filled
    with probability 1 - exp(-severity), and a filled one stays as it is.

    Attributes:
        high: The greatest count of an entry: the model's upper bound, 1 for binary data.

    Raises:
        InputError: If `high` is no count, or for a severity that is negative or not finite.
    """

    high: float = 1.0

    def __post_init__(self) -> None:
        check_high(self.high)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are sequences of spikes or event counts up to `high`."""
        check_events(model, "spike insertion", self.high)

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Sequences [N, T, *] with more events, for sequences x [N, T, *] of the samples `index` [N]."""
        check_severity(severity, "spike insertion", "events for each entry and step")
        if severity == 0:
            return x
        more = poisson(rng.on(x).uniform(index, x.shape[1:]), x.new_tensor(severity), self.high)
        return add_events(x, more, self.high)
