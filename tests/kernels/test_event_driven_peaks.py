"""Peaks of membrane potentials between events: against a dense grid, and their derivatives."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from snnrobust.kernels.event_driven import EventDynamics, spike_times
from snnrobust.kernels.event_driven_peaks import peak_potentials


def case(seed: int, spikes: int) -> tuple[Tensor, Tensor]:
    """Input spike times [6, 8, 2], some of them missing or equal, and weights [20, 8]."""
    generator = torch.Generator().manual_seed(seed)
    times = (torch.rand(6, 8, 2, generator=generator, dtype=torch.float64) * 0.5).sort(dim=2).values
    times[0, 0] = times[0, 1]  # two neurons at once
    times[torch.rand(times.shape, generator=generator) < 0.2] = math.inf
    return times, torch.randn(20, 8, generator=generator, dtype=torch.float64) * (0.5 + spikes)


def potential(at: Tensor, times: Tensor, weight: Tensor, own: Tensor, dynamics: EventDynamics) -> Tensor:
    """The membrane potentials [N, M, G] at the times `at` [G], as the sum of all responses."""
    tau, ts = dynamics.tau, dynamics.tau_s

    def elapsed(events: Tensor) -> Tensor:
        return (at - events[..., None]).clamp_min(0).nan_to_num(posinf=0.0)

    def response(t: Tensor) -> Tensor:
        if dynamics.ratio == 1:
            return t * (-t / ts).exp()
        return tau * ((-t / tau).exp() - (-t / ts).exp())

    current = response(elapsed(times)).sum(dim=2)  # (N, I, G)
    u = torch.einsum("mi,nig->nmg", weight, current)
    after = at >= own[..., None]
    return u - dynamics.threshold * (torch.where(after, -elapsed(own) / tau, -math.inf).exp()).sum(dim=2)


@pytest.mark.parametrize("ratio", [1, 2])
@pytest.mark.parametrize("duration", [0.4, math.inf])
@pytest.mark.parametrize("spikes", [1, 3])
def test_peaks_equal_a_dense_grid(ratio: Literal[1, 2], duration: float, spikes: int) -> None:
    dynamics = EventDynamics(0.1, 0.08, spikes, ratio, duration)
    for seed in range(3):
        times, weight = case(seed, spikes)
        own = spike_times(times, weight, dynamics)
        peaks = peak_potentials(times, weight, own, dynamics)
        fine = torch.linspace(0, 0.4 if math.isfinite(duration) else 3.0, 20001, dtype=torch.float64)
        corners = times[times <= duration]  # where an inhibitory spike ends a rise
        grid = torch.cat([fine, corners[corners.isfinite()]])
        u = potential(grid, times, weight, own, dynamics)
        begin = torch.where(own.isfinite(), own, 0.0).amax(dim=2)
        first = times.flatten(1).amin(dim=1)[:, None].expand_as(begin)
        outside = grid < torch.maximum(begin, first)[..., None]
        dense = u.masked_fill(outside, -math.inf).amax(dim=2)
        if math.isinf(duration):
            dense = dense.clamp_min(0)
        assert (peaks - dense).max() < 1e-6  # the grid misses the very top
        assert (peaks >= dense - 1e-9).all()
        unfinished = own.isfinite().sum(dim=2) < spikes
        assert unfinished.any()
        assert (peaks[unfinished] < dynamics.threshold + 1e-9).all()


def test_the_bare_formula_is_wrong_where_an_interval_ends_before_its_peak() -> None:
    """Negative control: one excitatory spike, and an inhibitory one before the peak that it would have."""
    dynamics = EventDynamics(0.1, 1.0)
    times = torch.tensor([[[0.0], [0.01]]], dtype=torch.float64)
    weight = torch.tensor([[1.0, -5.0]], dtype=torch.float64)
    silent = torch.full((1, 1, 1), math.inf, dtype=torch.float64)
    bare = dynamics.tau / 4  # tau b^2 / (4 a) with a = b = 1
    there = potential(torch.tensor([0.01], dtype=torch.float64), times, weight, silent, dynamics)
    found = peak_potentials(times, weight, silent, dynamics)
    torch.testing.assert_close(found, there[..., 0])
    assert found.item() < 0.4 * bare


@pytest.mark.parametrize("ratio", [1, 2])
def test_derivatives_equal_finite_differences(ratio: Literal[1, 2]) -> None:
    dynamics = EventDynamics(0.1, 0.08, 2, ratio, 0.4)
    times, weight = case(1, 1)
    present = times.isfinite()

    def peaks(shown: Tensor, weight: Tensor) -> Tensor:
        moved = torch.where(present, shown, math.inf)
        return peak_potentials(moved, weight, spike_times(moved, weight, dynamics), dynamics)

    inputs = torch.where(present, times, 0.0).requires_grad_(), weight.requires_grad_()
    # The two neurons at once would split.
    inputs[0].data[0, 0] += 0.003
    assert torch.autograd.gradcheck(peaks, inputs, atol=1e-6)


def test_silence_has_no_peak() -> None:
    dynamics = EventDynamics()
    none = torch.full((2, 3, 1), math.inf)
    peaks = peak_potentials(none, torch.ones(4, 3), torch.full((2, 4, 1), math.inf), dynamics)
    assert torch.equal(peaks, torch.full((2, 4), -math.inf))
    late = torch.full((2, 3, 1), 2.0)
    dynamics = EventDynamics(duration=1.0)
    assert torch.equal(peak_potentials(late, torch.ones(4, 3), torch.full((2, 4, 1), math.inf), dynamics), peaks)
