"""Spike times as tensors [..., K], ascending along the last axis and infinite where there is no spike."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from snnrobust.common.validate import check_count, check_positive
from snnrobust.errors import InputError, InputTypeError


def check_spike_times(times: Tensor, axes: int, shape: str) -> None:
    """Checks spike times: any order, infinite where there is no spike; all silent is allowed.

    Args:
        times: The spike times.
        axes: How many axes they must have.
        shape: These axes in words.

    Raises:
        InputTypeError: No floating-point tensor.
        InputError: Another number of axes, NaN, or times below 0.
    """
    if not isinstance(times, Tensor) or not times.is_floating_point():
        raise InputTypeError(f"expected spike times as a floating-point tensor, got {_kind(times)}; convert them")
    if times.ndim != axes:
        raise InputError(f"expected spike times {shape}, got {list(times.shape)}; add the axes that are missing")
    if bool((~(times >= 0)).any()):
        what = "NaN" if bool(times.isnan().any()) else f"{float(times.min()):g}"
        raise InputError(f"expected spike times >= 0, infinite where there is no spike, got {what}; mend the input")


def latency(x: Tensor, duration: float = 0.1) -> Tensor:
    """Spike times [N, *, 1] of values x [N, *] in [0, 1]: t = duration (1 - x), and no spike where x is 0.

    Source: Bacho & Chu 2023, arXiv 2212.09500.

    Args:
        x: Values in [0, 1].
        duration: Time of the spike of a value that goes to 0, in seconds.

    Raises:
        InputError: Values outside [0, 1], or a duration that is not positive.

    Example:
        >>> latency(torch.tensor([[1.0, 0.5, 0.0]]))[..., 0]
        tensor([[0.0000, 0.0500,    inf]])
    """
    check_positive("duration", duration)
    if bool(((x < 0) | (x > 1) | x.isnan()).any()):
        raise InputError(f"expected values in [0, 1], got {float(x.min()):g} to {float(x.max()):g}; scale them")
    return torch.where(x > 0, duration * (1 - x), math.inf)[..., None]


def spike_counts(times: Tensor, until: float = math.inf) -> Tensor:
    """How many spikes [...] of times [..., K] come up to a time."""
    return (times.isfinite() & (times <= until)).sum(dim=-1)


def merge(times: Tensor, max_spikes: int | None = None) -> Tensor:
    """The spikes of times [..., K], sorted; only the first `max_spikes` of them."""
    ordered = times.sort(dim=-1).values
    return ordered if max_spikes is None else ordered[..., :max_spikes]


def windows(times: Tensor, kernel_size: int, stride: int, padding: int = 0) -> Tensor:
    """Windows [N, H', W', C, k k, K] of spike times [N, C, H, W, K], silent in the padding.

    Raises:
        InputError: If no window fits.
    """
    if min(times.shape[2:4]) + 2 * padding < kernel_size:
        raise InputError(
            f"expected at least {kernel_size} x {kernel_size} places, got {times.shape[2]} x {times.shape[3]}; "
            f"use a smaller kernel_size"
        )
    padded = nn.functional.pad(times, (0, 0, padding, padding, padding, padding), value=math.inf)
    cut = padded.unfold(2, kernel_size, stride).unfold(3, kernel_size, stride)  # (N, C, H', W', K, k, k)
    return cut.permute(0, 2, 3, 1, 5, 6, 4).flatten(4, 5)


class EventPool2d(nn.Module):
    """Pools spike trains: the spikes of all neurons of a window, in order of time.

    [N, C, H, W, K] -> [N, C, H', W', k k K], or its first `max_spikes`.

    Args:
        kernel_size: Side of a window, and its distance from the next.
        max_spikes: Most spikes that are kept; None: all.
    """

    def __init__(self, kernel_size: int, max_spikes: int | None = None) -> None:
        super().__init__()
        check_count("kernel_size", kernel_size)
        if max_spikes is not None:
            check_count("max_spikes", max_spikes)
        self.kernel_size, self.max_spikes = kernel_size, max_spikes

    def forward(self, times: Tensor) -> Tensor:
        """The merged spike times."""
        check_spike_times(times, 5, "[N, C, H, W, K]")
        cut = windows(times, self.kernel_size, self.kernel_size)  # (N, H', W', C, k k, K)
        return merge(cut.flatten(4, 5), self.max_spikes).permute(0, 3, 1, 2, 4)

    def extra_repr(self) -> str:
        """The settings."""
        return f"{self.kernel_size}, max_spikes={self.max_spikes}"


def _kind(value: object) -> str:
    return f"{value.dtype}" if isinstance(value, Tensor) else type(value).__name__
