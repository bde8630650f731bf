"""Uniform noise."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.errors import InputError
from snnrobust.plugin.task import Task
from snnrobust.wrapping.model import SpikingModel


@dataclass(frozen=True)
class Uniform:
    """x + u with u uniform in [-severity, severity), independent in each entry.

    Severity is the largest change of an entry in input units: the random counterpart of an L-inf attack of that
    epsilon. The core clips the result to the model's bounds.
    """

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are real numbers."""
        if model.domain != "real":
            raise InputError(
                f"expected domain 'real' for uniform noise, got '{model.domain}' of model '{model.name}'; "
                f"use 'salt-and-pepper' with low={model.bounds[0]:g}, high={model.bounds[1]:g}, or 'spike-deletion' "
                f"for sequences [N, T, *]"
            )

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Noisy inputs [N, *] for inputs x [N, *] of the samples `index` [N]."""
        if severity == 0:
            return x
        return x + rng.on(x).uniform(index, x.shape[1:], low=-severity, high=severity)
