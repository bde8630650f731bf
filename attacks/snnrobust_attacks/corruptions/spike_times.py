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
from snnrobust.threat_models.selection import absent
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.corruptions.probability import check_probability


@dataclass(frozen=True)
class _SpikeTimes:
    """What both have: the time of spikes that are absent, and severities that are probabilities."""

    silent: float = 1.0

    def __post_init__(self) -> None:
        check_real("silent", self.silent)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are spike times and severities in [0, 1]."""
        if model.silent is None:
            raise InputError(
                f"expected spike times for '{task.label}', got model '{model.name}' without silent=; wrap spike times "
                f"with silent= the end of the window, or use 'spike-deletion' for sequences"
            )
        if self.silent != model.silent:
            raise InputError(
                f"expected silent={model.silent:g} for '{task.label}', that of model '{model.name}', got "
                f"{self.silent:g}; pass silent={model.silent:g}"
            )
        for severity in task.strengths:
            check_probability(severity, task.name)


@dataclass(frozen=True)
class SpikeTimeDeletion(_SpikeTimes):
    """Each input spike is removed independently: its time becomes `silent`.

    Severity is the probability in [0, 1] that a spike is removed.

    Attributes:
        silent: Time of spikes that are absent, that of `wrap`.

    Raises:
        InputError: For a severity outside [0, 1].
    """

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Spike times [N, *] for spike times x [N, *] of the samples `index` [N]."""
        check_probability(severity, "spike-time-deletion")
        lost = rng.on(x).uniform(index, x.shape[1:]) < severity
        return torch.where(lost, torch.full_like(x, self.silent), x)


@dataclass(frozen=True)
class SpikeTimeInsertion(_SpikeTimes):
    """Each absent input spike appears independently, at a time uniform in [0, silent).

    Severity is the probability in [0, 1] that an absent spike appears.

    Attributes:
        silent: Time of spikes that are absent, that of `wrap`.

    Raises:
        InputError: For a severity outside [0, 1].
    """

    #: Entries that hold no spike may change, which the core undoes otherwise.
    adds_spikes: ClassVar[bool] = True

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Spike times [N, *] for spike times x [N, *] of the samples `index` [N]."""
        check_probability(severity, "spike-time-insertion")
        rng = rng.on(x)
        appears = absent(x, self.silent) & (rng.sub("which").uniform(index, x.shape[1:]) < severity)
        return torch.where(appears, self.silent * rng.sub("time").uniform(index, x.shape[1:]), x)
