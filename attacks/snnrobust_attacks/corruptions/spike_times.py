"""Deletion and insertion of spikes where inputs are spike times. Jitter of spike times is the corruption `gaussian`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_real
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.errors import InputError
from snnrobust.plugin.task import Task
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.corruptions.probability import check_probability


def _check(model: SpikingModel, task: Task, silent: float) -> None:
    if model.silent is None:
        raise InputError(
            f"expected spike times for '{task.label}', got model '{model.name}' without silent=; wrap spike times with "
            f"silent= the end of the window, or use 'spike-deletion' for sequences"
        )
    if silent != model.silent:
        raise InputError(f"expected silent={model.silent:g}, that of model '{model.name}', got {silent:g}; pass it")
    for severity in task.strengths:
        check_probability(severity, task.name)


@dataclass(frozen=True)
class SpikeTimeDeletion:
    """Each input spike is removed independently: its time becomes `silent`.

    Severity is the probability in [0, 1] that a spike is removed.

    Attributes:
        silent: Time of spikes that are absent, that of `wrap`.

    Raises:
        InputError: For a severity outside [0, 1].
    """

    silent: float = 1.0

    def __post_init__(self) -> None:
        check_real("silent", self.silent)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are spike times and severities in [0, 1]."""
        _check(model, task, self.silent)

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Spike times [N, *] for spike times x [N, *] of the samples `index` [N]."""
        check_probability(severity, "spike-time-deletion")
        lost = rng.on(x).uniform(index, x.shape[1:]) < severity
        return torch.where(lost, torch.full_like(x, self.silent), x)


@dataclass(frozen=True)
class SpikeTimeInsertion:
    """Each absent input spike appears independently, at a time uniform in [0, silent).

    Severity is the probability in [0, 1] that an absent spike appears.

    Attributes:
        silent: Time of spikes that are absent, that of `wrap`.

    Raises:
        InputError: For a severity outside [0, 1].
    """

    silent: float = 1.0

    #: Entries that hold no spike may change, which the core undoes otherwise.
    adds_spikes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_real("silent", self.silent)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are spike times and severities in [0, 1]."""
        _check(model, task, self.silent)

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Spike times [N, *] for spike times x [N, *] of the samples `index` [N]."""
        check_probability(severity, "spike-time-insertion")
        rng = rng.on(x)
        appears = (x == self.silent) & (rng.sub("which").uniform(index, x.shape[1:]) < severity)
        return torch.where(appears, self.silent * rng.sub("time").uniform(index, x.shape[1:]), x)
