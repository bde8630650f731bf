"""The gradient of a ReLU of the mean input, as in converted nets."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from snnrobust.kernels.straight_through import straight_through
from snnrobust.plugin import NodeRun


@dataclass(frozen=True)
class RateReLU:
    """The gradient of a converted artificial net, taken at the spiking net's own activity.

    Conversion reads a neuron's rate as the ReLU of its mean input (Rueckauer et al. 2017). The gradient of s[t] with
    respect to x[t] is then g = 1[mean_t x[t] > 0], the same at every step, and 0 across steps. It replaces the
    "ReLU-ANN" of Ozdenizci & Legenstein 2024 (TMLR), which runs the artificial net, where no such net is available.
    """

    def through(self, node: NodeRun, x: Tensor) -> Tensor:
        """The node's spikes [T, N, *] for x [T, N, *], with the gradient g x[t]."""
        driven = (x.detach().mean(dim=0, keepdim=True) > 0).to(x)  # [1, N, *]
        return straight_through(driven * x, node.forward(x))
