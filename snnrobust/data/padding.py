"""Sequences of several lengths: what stands past the end of each."""

from __future__ import annotations

import torch
from torch import Tensor


def keep_padding(x: Tensor, x0: Tensor, lengths: Tensor | None) -> Tensor:
    """Changed sequences x [N, T, *] with the steps past each one's length as in `x0`.

    Changing them would cost budget and do nothing, or reach a net that reads out over all steps by itself.
    """
    if lengths is None or x.shape != x0.shape:  # a wrong shape is for `verify` to report
        return x
    clock = torch.arange(x0.shape[1], device=x0.device)
    valid = clock < lengths.to(x0.device)[:, None]  # [N, T]
    return torch.where(valid.reshape(*valid.shape, *[1] * (x0.ndim - 2)), x, x0)
