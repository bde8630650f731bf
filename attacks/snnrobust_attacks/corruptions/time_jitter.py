"""Jitter of spike times."""

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


@dataclass(frozen=True)
class TimeJitter:
    """Each spike moved in time by round(severity n) steps, n standard normal.

    Severity is the standard deviation in time steps. Times are clamped to the sequence (without padding), and spikes
    of one entry that meet at a step merge into one: the number of spikes can only fall.

    Raises:
        InputError: For a severity that is negative or not finite.
    """

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are sequences of binary spikes."""
        if model.static or model.domain != "binary":
            raise InputError(
                f"expected sequences of binary spikes for time jitter, got {'static' if model.static else 'temporal'} "
                f"data of domain '{model.domain}' of model '{model.name}'; wrap with encoder=None, domain='binary'"
            )

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Jittered sequences [N, T, *] for sequences x [N, T, *] of the samples `index` [N]."""
        if not (severity >= 0 and math.isfinite(severity)):
            raise InputError(f"expected a finite severity >= 0 for time jitter, got {severity}; give time steps")
        steps = x.shape[1]
        clock = torch.arange(steps, device=x.device).reshape(steps, *[1] * (x.ndim - 2))
        shift = torch.round(severity * rng.on(x).normal(index, x.shape[1:]))  # [N, T, *]
        time = (clock + shift).clamp(0, steps - 1).long()
        return torch.zeros_like(x).scatter_reduce(1, time, x, "amax")
