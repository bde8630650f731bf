"""The unit of the fast kernels: a channel-wise affine map, a spiking node over all steps, and 2 x 2 pooling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from snnrobust.kernels.dynamics import Dynamics, multi_step
from snnrobust.kernels.spike import spike

PoolKind = Literal["mean", "max"]
#: Scale and shift of each channel [C], as batch normalisation in eval mode has them.
Affine = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Unit:
    """A spiking node with the pooling that is fused with it.

    Attributes:
        dynamics: The neuron model.
        derivative: The surrogate derivative of a spike as a function of u = membrane potential minus threshold, entry
            by entry.
        steps: T.
        pool: 2 x 2 pooling of the spikes, with stride 2 and without padding; None: none.
    """

    dynamics: Dynamics
    derivative: Callable[[Tensor], Tensor]
    steps: int
    pool: PoolKind | None = None

    def eager(self, current: Tensor, affine: Affine | None = None) -> Tensor:
        """The unit in torch code, twice differentiable: the reference for the fast kernels.

        Args:
            current: Input current [T, N, *], or [1, N, *] for one that is the same at each step; [T, N, C, H, W] with
                an affine map or pooling.
            affine: Applied to the current.

        Returns:
            Spikes [T, N, *], pooled or not.
        """
        if affine is not None:
            current = apply_batch_norm(current, affine)
        spikes = multi_step(self.dynamics, current, lambda u: spike(u, self.derivative), self.steps)
        if self.pool is None:
            return spikes
        pool = F.avg_pool2d if self.pool == "mean" else F.max_pool2d
        pooled: Tensor = pool(spikes.flatten(0, 1), 2)
        return pooled.reshape(*spikes.shape[:3], *pooled.shape[-2:])


def apply_batch_norm(current: Tensor, affine: Affine) -> Tensor:
    """The current [1 or T, N, C, H, W] after batch normalisation in eval mode, rounded as by torch."""
    scale, shift = affine
    mean, variance = torch.zeros_like(scale), torch.ones_like(scale)
    normed: Tensor = F.batch_norm(current.flatten(0, 1), mean, variance, scale, shift, eps=0.0)
    return normed.reshape(current.shape)
