"""Read-outs: an output sequence to logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: (outputs [N, T, K], lengths [N] or None) -> logits [N, K]
ReadoutFunction = Callable[[Tensor, "Tensor | None"], Tensor]

READOUTS = ("mean", "sum", "last", "max", "first_spike")


def read_out(readout: str | ReadoutFunction, outputs: Tensor, lengths: Tensor | None) -> Tensor:
    """Turns outputs [N, T, K] into logits [N, K]; steps at or past a sample's length don't count.

    "mean", "sum", "last" and "max" over time. "first_spike": the largest of s_t (T - t) over time, with T the sample's
    own length, so that an earlier spike gives a larger logit, a silent output gives 0, and gradients reach the
    deciding spike.

    Example:
        >>> late_then_early = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])  # [1, T=2, K=2]
        >>> read_out("first_spike", late_then_early, None)
        tensor([[1., 2.]])
    """
    if callable(readout):
        return readout(outputs, lengths)
    steps = outputs.shape[1]
    clock = torch.arange(steps, device=outputs.device)
    if lengths is None:
        lengths = torch.full((len(outputs),), steps, device=outputs.device)
    valid = (clock < lengths[:, None])[..., None]  # [N, T, 1]
    if readout == "last":
        return outputs[torch.arange(len(outputs), device=outputs.device), lengths - 1]
    if readout == "max":
        return outputs.masked_fill(~valid, -torch.inf).amax(dim=1)
    kept = outputs.masked_fill(~valid, 0)
    if readout == "first_spike":
        return (kept * (lengths[:, None] - clock)[..., None]).amax(dim=1)
    total = kept.sum(dim=1)
    return total if readout == "sum" else total / lengths[:, None]
