"""Sequences that end too early."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.plugin.task import Task
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.corruptions.probability import check_probability
from snnrobust_attacks.corruptions.shared import check_other_steps, check_sequences


@dataclass(frozen=True)
class Truncation:
    """The last round(severity T) of T steps are cut off; one step is always left.

    Severity is the share in [0, 1] of the sequence that is cut off. The net sees fewer steps than in training, and must
    take sequences of any number of steps. Real-valued sequences fit, too.

    Raises:
        InputError: For a severity outside [0, 1].
    """

    deterministic: ClassVar[bool] = True
    changes_steps: ClassVar[bool] = True

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are sequences, severities in [0, 1], and the net takes fewer steps."""
        check_sequences(model, "truncation", model.bounds[0])
        for severity in task.strengths:
            check_probability(severity, "truncation")
        fewest = _steps_left(data.test.x.shape[1], max(task.strengths))
        check_other_steps(model, data, fewest, "truncation", "use 'drop-window', which keeps the number of steps")

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """The first steps [N, T', *] of the sequences x [N, T, *]."""
        check_probability(severity, "truncation")
        return x[:, : _steps_left(x.shape[1], severity)]


def _steps_left(steps: int, severity: float) -> int:
    return max(1, steps - round(severity * steps))
