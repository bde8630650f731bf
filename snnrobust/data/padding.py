"""Padding of sequences of different lengths."""

from __future__ import annotations

import torch
from torch import Tensor


def keep_padding(x: Tensor, x0: Tensor, lengths: Tensor | None) -> Tensor:
    """The sequences x [N, T, *] with the padding, the steps past each one's length, taken from `x0`.

    A change of the padding would use budget without effect, or affect a net with a read-out of its own over all steps.
    """
    if lengths is None or x.shape != x0.shape:  # `verify` reports a wrong shape
        return x
    clock = torch.arange(x0.shape[1], device=x0.device)
    valid = clock < lengths.to(x0.device)[:, None]  # [N, T]
    return torch.where(valid.reshape(*valid.shape, *[1] * (x0.ndim - 2)), x, x0)
