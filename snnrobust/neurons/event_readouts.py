"""Modules around event-driven layers: pixels to spike times, and spike times to logits [N, M]."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from snnrobust.common.validate import check_positive
from snnrobust.neurons.spike_trains import check_spike_times, latency, spike_counts


class Latency(nn.Module):
    """`latency` as a module: values x [N, *] in [0, 1] to spike times [N, *, 1], none where x is 0.

    Args:
        duration: Time of the spike of a value that goes to 0, in seconds.
    """

    def __init__(self, duration: float = 0.1) -> None:
        super().__init__()
        check_positive("duration", duration)
        self.duration = duration

    def forward(self, x: Tensor) -> Tensor:
        """Spike times [N, *, 1]."""
        return latency(x, self.duration)

    def extra_repr(self) -> str:
        """The settings."""
        return f"duration={self.duration}"


class FirstSpike(nn.Module):
    """Logits by the first spike of each output neuron: (duration - t) / tau, and 0 for a silent one.

    The class is that of the earliest spike. The softmax of these logits is that of -t / tau, with silent neurons as if
    they spiked at the end of the window, so that cross entropy is the loss of time-to-first-spike nets (Goeltz et al.
    2021). Neurons that spike at the same time tie. Where all are silent all logits are 0, which is no class.

    Args:
        duration: End of the window, in seconds; spikes after it count as none.
        tau: Time constant of the loss, in seconds.
    """

    def __init__(self, duration: float, tau: float = 0.005) -> None:
        super().__init__()
        check_positive("duration", duration)
        check_positive("tau", tau)
        self.duration, self.tau = duration, tau

    def forward(self, times: Tensor) -> Tensor:
        """Logits [N, M] of spike times [N, M, K]."""
        check_spike_times(times, 3, "[N, M, K]")
        return (self.duration - times[..., 0].clamp_max(self.duration)) / self.tau

    def extra_repr(self) -> str:
        """The settings."""
        return f"duration={self.duration}, tau={self.tau}"


class SpikeCount(nn.Module):
    """Logits by the number of spikes of each output neuron, with the derivative -1 for the time of each spike.

    A count has no derivative. That an earlier spike counts for more gives the half squared error to a target count the
    gradient (target - n) for each spike time, as published (Bacho & Chu 2023, code). Neurons with equally many spikes
    tie. Where all are silent all logits are 0, which is no class.
    """

    def forward(self, times: Tensor) -> Tensor:
        """Logits [N, M] of spike times [N, M, K]."""
        check_spike_times(times, 3, "[N, M, K]")
        finite = torch.where(times.isfinite(), times, 0.0)
        return spike_counts(times) + (finite.detach() - finite).sum(dim=2)
