"""Backpropagation through rate."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from snnrobust.kernels.straight_through import straight_through
from snnrobust.plugin import NodeRun


@dataclass(frozen=True)
class BPTR:
    """A straight-through gradient for neurons that fire at least once (Ding et al., SNN-RAT, NeurIPS 2022).

    The gradient of s[t] with respect to x[t] is g = 1[mean_t s[t] > 0], the same at every step, and 0 across steps.
    """

    def through(self, node: NodeRun, x: Tensor) -> Tensor:
        """The node's spikes [T, N, *] for x [T, N, *], with the gradient g x[t]."""
        spikes = node.forward(x)
        fires = (spikes.detach().mean(dim=0, keepdim=True) > 0).to(x)  # [1, N, *]
        return straight_through(fires * x, spikes)
