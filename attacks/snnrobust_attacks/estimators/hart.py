"""Hybrid adversarial attack based on rate and temporal information."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snnrobust.common.validate import check_positive
from snnrobust.kernels.straight_through import straight_through
from snnrobust.plugin import AnyEstimator, NodeRun
from snnrobust.spike_gradients.swap import Own
from snnrobust_attacks.estimators.triangle import Triangle


@dataclass(frozen=True)
class HART:
    """Single-step gradients, without backpropagation through time, averaged over steps (Hao et al., ICLR 2024).

    At each step the node's state is a constant, and H'(u) ~ max(0, gamma - |u|) / gamma^2. The gradient with
    respect to the node's input is averaged over the steps, so it is the same at every step.

    Attributes:
        gamma: Width of the triangle. Choose it on samples that you don't report.
    """

    gamma: float = 1.0

    def __post_init__(self) -> None:
        check_positive("gamma", self.gamma)

    def backward(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        """The estimated derivative at u, of the shape of u."""
        return Triangle(self.gamma).backward(u, state)

    def through(self, node: NodeRun, x: Tensor) -> Tensor:
        """The node's spikes [T, N, *] for x [T, N, *], without a gradient between steps."""
        x = straight_through(x.mean(dim=0, keepdim=True).expand_as(x), x)  # backward: the mean over steps
        spikes = []
        for step in x:
            node.detach()
            spikes.append(node.step(step))
        return torch.stack(spikes)


@dataclass(frozen=True)
class HARTMix:
    """The mean of the input gradients of `HART` and of the model's own surrogate gradient ("mix" of Hao et al. 2024).

    Attributes:
        gamma: Width of HART's triangle.
    """

    gamma: float = 1.0

    def __post_init__(self) -> None:
        check_positive("gamma", self.gamma)

    @property
    def parts(self) -> Sequence[AnyEstimator]:
        """HART and the model's own surrogate gradient."""
        return HART(self.gamma), Own()
