"""The largest membrane potential after the last own spike, in closed form: how far a neuron is from one more spike.

Between events and for tau = 2 ts, u(t) = tau (b e^(-t/tau) - a e^(-t/ts)) is largest at tau ln(2a / b), where it is
tau b^2 / (4a), if a, b > 0 and this time lies in the interval; else at one of the interval's ends. For tau = ts,
u(t) = e^(-t/ts) (a t - ts b) is largest at ts (1 + b/a), where it is ts a e^(-1 - b/a), if a > 0. The sums a and b are
those of `snnrobust.kernels.event_driven`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from snnrobust.kernels.event_driven import (
    EventDynamics,
    potential_and_slope,
    sort_inputs,
    sums_of_inputs,
    taken_by_reset,
)


def peak_potentials(times: Tensor, weight: Tensor, spikes: Tensor, dynamics: EventDynamics) -> Tensor:
    """The largest membrane potential [N, M] from each neuron's last spike to the end of the window.

    -inf where no input spike comes before that end. Differentiable with respect to weights and times; the place of the
    peak is found without a gradient, which does not change the derivative of a maximum.

    Args:
        times: Input spike times [N, I, K_in] in seconds, in any order; infinite where there is no spike.
        weight: [M, I].
        spikes: The neurons' own spike times [N, M, K], infinite where there is none.
        dynamics: Constants.
    """
    inputs = sort_inputs(times, dynamics.duration)
    shape, count = (len(times), len(weight)), inputs.times.shape[1]
    nothing = -math.inf + 0 * weight.sum() + inputs.times.new_zeros(shape)
    if not count:
        return nothing
    p, q = sums_of_inputs(inputs, weight, dynamics)  # (N, M, L)
    spiked = spikes.isfinite()
    own = torch.where(spiked, spikes, 0.0)
    q = q + (taken_by_reset(own, dynamics) * spiked).sum(dim=2)[:, :, None]
    last = own.amax(dim=2)[:, :, None]
    begin = torch.maximum(inputs.times[:, None], last).expand_as(p)  # (N, M, L)
    with torch.no_grad():
        end = inputs.following[:, None].expand_as(p)
        inner = _time_of_peak(p, q, dynamics)
        inside = (inner > begin) & (inner < end)
        # The end of an interval is the begin of the next, but for that of the window.
        closing = (end == dynamics.duration) & end.isfinite()
        choices = torch.stack([begin, torch.where(inside, inner, begin), torch.where(closing, end, begin)])
        height, which = potential_and_slope(p, q, choices, dynamics)[0].max(dim=0)
        # Of input spikes at the same time, only the sums after the last one hold.
        valid = inputs.present[:, None] & (begin < end)
        place = height.masked_fill(~valid, -math.inf).argmax(dim=2, keepdim=True)  # (N, M, 1)
        at_begin = which.gather(2, place) == 0
        chosen = choices.gather(0, which[None])[0].gather(2, place)
    # The begin moves with its event; an inner peak's time has no effect on its height.
    time = torch.where(at_begin, begin.gather(2, place), chosen)
    peak = potential_and_slope(p.gather(2, place), q.gather(2, place), time, dynamics)[0][..., 0]
    if math.isinf(dynamics.duration):
        peak = peak.clamp_min(0)  # it decays to 0
    return torch.where(valid.any(dim=2), peak, nothing)


def _time_of_peak(p: Tensor, q: Tensor, dynamics: EventDynamics) -> Tensor:
    """When u is largest if nothing else comes; NaN where it has no largest value."""
    if dynamics.ratio == 2:
        return torch.where((p > 0) & (q > 0), dynamics.tau * (2 * p / q).log(), math.nan)
    return torch.where(p > 0, dynamics.tau_s * (1 + q / p), math.nan)
