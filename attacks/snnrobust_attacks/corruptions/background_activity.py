"""Background activity of an event sensor."""

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
from snnrobust_attacks.corruptions.shared import add_events, check_events, check_high, check_severity, poisson


@dataclass(frozen=True)
class BackgroundActivity:
    """min(x + n, high) with n ~ Poisson(severity 10^(spread z)), z standard normal for each line of entries over time.

    Severity is the median rate: expected events for each entry and step. Rates differ among pixels, polarities and
    channels, by `spread` decades (the lognormal spread of rates in v2e, Hu et al. 2021, arXiv 2006.07722), and stay the
    same over time. Each sample sees a sensor of its own.

    Attributes:
        spread: Standard deviation of log10 of the rate.
        high: The greatest count of an entry: the model's upper bound, 1 for binary data.

    Raises:
        InputError: If `high` is no count, `spread` is negative, or for a severity that is negative or not finite.
    """

    spread: float = 0.1
    high: float = 1.0

    def __post_init__(self) -> None:
        check_high(self.high)
        if not (self.spread >= 0 and math.isfinite(self.spread)):
            raise InputError(f"expected a finite spread >= 0, got {self.spread!r}; give decades")

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are sequences of spikes or event counts up to `high`."""
        check_events(model, "background activity", self.high)

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Sequences [N, T, *] with more events, for sequences x [N, T, *] of the samples `index` [N]."""
        check_severity(severity, "background activity", "events for each entry and step")
        if severity == 0:
            return x
        rng = rng.on(x)
        lines = rng.sub("rates").normal(index, (1, *x.shape[2:]))  # (N, 1, *)
        rate = severity * torch.exp(math.log(10) * self.spread * lines)
        more = poisson(rng.sub("events").uniform(index, x.shape[1:]), rate, self.high)
        return add_events(x, more, self.high)
