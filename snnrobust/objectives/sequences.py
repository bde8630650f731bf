"""Objectives of the output at each step, or of the output layer's membrane potential or input current."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from snnrobust.objectives.logits import margin
from snnrobust.plugin.protocols import View


@dataclass(frozen=True)
class _Graded:
    """Margin of the mean over time of the output layer's membrane potential or input current."""

    def __call__(self, sequence: Tensor, y: Tensor) -> Tensor:
        """Loss per sample, [N], for a sequence [N, T, K] and labels y [N]."""
        return -margin(sequence.mean(dim=1), y)


@dataclass(frozen=True)
class MembraneMargin(_Graded):
    """Best other minus true class of the output layer's distance to threshold, mean over time.

    A rate read-out takes T + 1 values, and most small changes of the input don't change it; membrane potentials still
    show which of them lead towards another class. The read-out alone decides what counts as a success.
    """

    of: ClassVar[View] = "membrane"


@dataclass(frozen=True)
class CurrentMargin(_Graded):
    """Best other minus true class of the output layer's input current, mean over time; see `MembraneMargin`.

    Unlike the membrane potential, the current is not cut by the layer's own resets.
    """

    of: ClassVar[View] = "current"


@dataclass(frozen=True)
class PerStepCrossEntropy:
    """Mean over time of the cross entropy at each step (the loss of TET, Deng et al. 2022, arXiv 2202.11946).

    (1 / T) sum_t CE(o_t, y): also has a gradient for steps that barely affect a read-out over all of them.
    """

    of: ClassVar[View] = "outputs"

    def __call__(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Loss per sample, [N], for outputs [N, T, K] and labels y [N]."""
        steps = outputs.shape[1]
        each = functional.cross_entropy(outputs.flatten(0, 1), y.repeat_interleave(steps), reduction="none")  # [N T]
        return each.reshape(-1, steps).mean(dim=1)
