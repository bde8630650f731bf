"""What the fast kernels compute as one: a channel-wise affine map, a spiking node over all steps, and 2 x 2 pooling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from snnrobust.kernels.dynamics import Dynamics, multi_step
from snnrobust.kernels.spike import spike

Pooling = Literal["mean", "max"]
#: Scale and shift of each channel [C], as batch normalisation in eval mode has them.
Affine = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Unit:
    """A spiking node with what can be fused with it.

    Attributes:
        dynamics: The neuron model.
        derivative: What a spike's derivative is in the backward pass, as a function of u = membrane potential minus
            threshold, entry by entry.
        steps: T.
        pool: 2 x 2 pooling of the spikes, with stride 2 and without padding; None: none.
    """

    dynamics: Dynamics
    derivative: Callable[[Tensor], Tensor]
    steps: int
    pool: Pooling | None = None

    def eager(self, current: Tensor, affine: Affine | None = None) -> Tensor:
        """The unit in torch code, twice differentiable: what the fast kernels are held to.

        Args:
            current: Input current [T, N, *], or [1, N, *] for one that is the same at each step; [T, N, C, H, W] with
                an affine map or pooling.
            affine: Applied to the current.

        Returns:
            Spikes [T, N, *], pooled or not.
        """
        if affine is not None:
            current = normalised(current, affine)
        spikes = multi_step(self.dynamics, current, lambda u: spike(u, self.derivative), self.steps)
        if self.pool is None:
            return spikes
        pool = F.avg_pool2d if self.pool == "mean" else F.max_pool2d
        pooled: Tensor = pool(spikes.flatten(0, 1), 2)
        return pooled.reshape(*spikes.shape[:3], *pooled.shape[-2:])


def normalised(current: Tensor, affine: Affine) -> Tensor:
    """The current [1 or T, N, C, H, W] behind batch normalisation in eval mode, rounded as torch's own."""
    scale, shift = affine
    mean, variance = torch.zeros_like(scale), torch.ones_like(scale)
    behind: Tensor = F.batch_norm(current.flatten(0, 1), mean, variance, scale, shift, eps=0.0)
    return behind.reshape(current.shape)
