"""The rate gradient approximation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from snnrobust.errors import InputError
from snnrobust.kernels.straight_through import straight_through
from snnrobust.plugin import NodeRun


@dataclass(frozen=True)
class RGA:
    """The gradient of the firing rate as a function of the mean input, without BPTT (Bu et al., CVPR 2023).

    For a node u[t] = k v[t-1] + gain x[t] with threshold theta, and the mean input x_bar = gain mean_t x[t]:

        g = gamma                                                      for 0 <= x_bar < (1 - k) theta
            (1 - gamma (1 - k) theta) / ((k + beta - 1) theta)         for (1 - k) theta <= x_bar <= beta theta
            0                                                          elsewhere

    the slopes of a line from (0, 0) through ((1 - k) theta, gamma (1 - k) theta) to (beta theta, 1). The gradient of
    s[t] with respect to x[t] is gain g, the same at every step, and 0 across steps. For theta = gain = 1 and beta = 2
    this is the authors' code; other thresholds follow Wang et al. 2026 (arXiv 2512.22522), the gain is ours. Lateral
    input is ignored.

    Attributes:
        gamma: Slope of the first piece, for mean inputs that never reach the threshold; gamma (1 - k) theta <= 1.
        beta: The mean input, in thresholds, at which the rate is 1.

    Raises:
        InputError: On use, for a node of another equation.
    """

    gamma: float = 0.2
    beta: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.gamma < float("inf"):
            raise InputError(f"expected gamma >= 0, got {self.gamma!r}; give the slope of the first piece")
        if not 1 < self.beta < float("inf"):
            raise InputError(f"expected beta > 1, got {self.beta!r}; give the mean input of rate 1, in thresholds")

    def through(self, node: NodeRun, x: Tensor) -> Tensor:
        """The node's spikes [T, N, *] for x [T, N, *], with the gradient gain g x[t]."""
        k, gain, theta = node.leak, node.gain, node.threshold
        mean = gain * x.detach().mean(dim=0, keepdim=True)  # [1, N, *]
        corner = (1 - k) * theta
        steep = (1 - self.gamma * corner) / ((k + self.beta - 1) * theta)
        slope = torch.where(mean < corner, self.gamma, steep)  # for k = 1 there is no first piece, not even at 0
        g = torch.where((mean >= 0) & (mean <= self.beta * theta), slope, 0.0).to(x)
        return straight_through(gain * g * x, node.forward(x))
