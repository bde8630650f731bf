"""Whether a surrogate emits the spikes that an estimator puts in its place: H(u), 1 where u >= 0 and else 0."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

_DISTANCES = (1e-3, 0.05, 0.3, 0.6, 0.9, 1.1, 1.6, 2.6, 4.6, 10.0, 100.0)
#: Often enough that a random surrogate does not emit H(u) by chance.
_REPEATS = 8


@torch.no_grad()
def emits_heaviside(surrogate: nn.Module) -> Literal["yes", "no", "unsure"]:
    """Whether a surrogate's own values are H(u), on a grid of u; random numbers of the caller are left alone.

    "unsure" where it does not take the grid, or differs at u = 0 alone: then each comparison has to be looked at, see
    `same_as_heaviside`.

    Example:
        >>> from spikingjelly.activation_based import surrogate
        >>> emits_heaviside(surrogate.ATan()), emits_heaviside(surrogate.MultiLevelSpikeCount(4))
        ('yes', 'no')
    """
    if getattr(surrogate, "stands_in", False):
        return "yes"  # another estimator's, or a recorder's: what it stands for was looked at
    own = next((each for each in surrogate.parameters() if each.is_floating_point()), torch.zeros(()))
    away = torch.tensor(_DISTANCES, dtype=own.dtype, device=own.device).repeat(_REPEATS)
    u = torch.cat([-away, away])
    with torch.random.fork_rng([own.device] if own.device.type == "cuda" else []):
        try:
            if not same_as_heaviside(surrogate, u):
                return "no"
            return "yes" if same_as_heaviside(surrogate, torch.zeros_like(u)) else "unsure"
        except Exception:  # anything: it is the user's module, on an input of ours
            return "unsure"


@torch.no_grad()
def same_as_heaviside(surrogate: nn.Module, u: Tensor) -> bool:
    """Whether a surrogate's own values at u are H(u); entries that are NaN don't count."""
    u = u.detach()
    spikes = surrogate.forward(u)  # not a call: hooks of the user's are for passes of the user's
    return bool(((spikes == (u >= 0).to(spikes)) | u.isnan()).all())
