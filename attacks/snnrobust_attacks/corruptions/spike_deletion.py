"""Deletion of spikes and events."""

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


@dataclass(frozen=True)
class SpikeDeletion:
    """Each spike or event is removed independently: a count n becomes Binomial(n, 1 - severity).

    Severity is the probability in [0, 1] that a spike is removed.

    Raises:
        InputError: For a severity outside [0, 1].
    """

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are sequences of spikes or event counts and severities in [0, 1]."""
        if model.static or model.domain == "real" or model.bounds[0] < 0:
            raise InputError(
                f"expected sequences of spikes or event counts for spike deletion, got "
                f"{'static' if model.static else 'temporal'} data of domain '{model.domain}' in {model.bounds} of "
                f"model '{model.name}'; wrap with encoder=None and domain='binary' or 'integer'"
            )
        for severity in task.strengths:
            check_probability(severity, "spike deletion")

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Thinned sequences [N, T, *] for sequences x [N, T, *] of the samples `index` [N]."""
        check_probability(severity, "spike deletion")
        if severity == 0:
            return x
        rng = rng.on(x)
        left = torch.zeros_like(x)
        for event in range(int(x.max())):  # the first, second ... event of each entry
            survives = rng.uniform(index, x.shape[1:], draw=event) >= severity
            left += (x > event) & survives
        return left
