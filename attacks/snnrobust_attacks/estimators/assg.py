"""The adaptive-sharpness surrogate gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snnrobust.common.validate import check_positive
from snnrobust.errors import InputError


@dataclass(frozen=True)
class ASSG:
    """An arctangent with a sharpness for each neuron's membrane potentials (Wang et al., CVPR 2026, arXiv 2512.22522).

    For each sample, neuron and time step, over the iterates of an attack, from M = 1 and D = 0 on:

        M <- decay M + (1 - decay) |u|
        D <- decay D + (1 - decay) ||u| - M|        with the new M
        alpha = omega / (M + gamma D + 1e-4),       omega = (2 / pi) tan(pi vanishing / 2)
        H'(u) ~ alpha / 2 / (1 + (pi alpha u / 2)^2)

    M and D are updated once per iterate: further draws of a stochastic net at it use the same sharpness.

    Attributes:
        vanishing: Upper bound A of the expected degree of gradient vanishing, in (0, 1); larger is sharper. The
            authors' code searches 0.7 to 0.98 for each model: choose it on samples that you don't report.
        gamma: Weight of the deviation D.
        decay: Share of M and D that is kept at each iterate.

    Example:
        >>> estimator, u, state = ASSG(vanishing=0.5, gamma=0.0), torch.tensor([0.0]), {"memory": {}}
        >>> estimator.backward(u, state)  # M = 0.9: alpha = 2 / pi / 0.9
        tensor([0.3536])
    """

    vanishing: float = 0.86
    gamma: float = 1.5
    decay: float = 0.9

    def __post_init__(self) -> None:
        check_positive("vanishing", self.vanishing)
        if self.vanishing >= 1:
            raise InputError(f"expected 0 < vanishing < 1, got {self.vanishing!r}; 0.86 is the authors' middle choice")
        if not (self.gamma >= 0 and math.isfinite(self.gamma)):
            raise InputError(f"expected gamma >= 0, got {self.gamma!r}; give the weight of the deviation")
        if not 0 <= self.decay < 1:
            raise InputError(f"expected 0 <= decay < 1, got {self.decay!r}; give the share that an iterate keeps")

    @property
    def omega(self) -> float:
        """The sharpness at M + gamma D = 1."""
        return 2 / math.pi * math.tan(math.pi * self.vanishing / 2)

    def backward(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        """The estimated derivative at u, of the shape of u."""
        memory = state.get("memory", {})
        start = torch.zeros_like(u)
        mean: Tensor = 1 + memory.get("excess", start)  # kept as M - 1, which is zero at the start
        deviation: Tensor = memory.get("deviation", start)
        if not state.get("frozen", False):
            size = u.detach().abs()
            mean = self.decay * mean + (1 - self.decay) * size
            deviation = self.decay * deviation + (1 - self.decay) * (size - mean).abs()
            memory["excess"], memory["deviation"] = mean - 1, deviation
        alpha = self.omega / (mean + self.gamma * deviation + 1e-4)
        scaled = (math.pi / 2) * alpha * u
        return (alpha / 2) / (1 + scaled * scaled)
