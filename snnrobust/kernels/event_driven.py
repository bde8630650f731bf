"""Spike times of current-based LIF neurons in closed form, from one input spike to the next.

    du/dt = -u / tau + g,    dg/dt = -g / ts + sum_j w_j delta(t - t_j),    u -= theta at u = theta,

with tau = 2 ts or tau = ts, no reset of g, no refractory time, and at most K spikes a neuron. Between input spikes and
for tau = 2 ts the membrane potential is

    u(t) = tau (b e^(-t/tau) - a e^(-t/ts)),    a = sum w_j e^(t_j/ts),    b = sum w_j e^(t_j/tau),

where each own spike t_k takes (theta / tau) e^(t_k/tau) off b. The first time at which it reaches the threshold is

    t = tau ln(2a / (b + x)),    x = sqrt(b^2 - 4 a theta / tau).

For tau = ts it is u(t) = e^(-t/ts) (a t - ts b) with b = sum w_j (t_j/ts) e^(t_j/ts), each own spike adds
(theta / ts) e^(t_k/ts) to b, and

    t = ts (b/a - W(-(theta / (ts a)) e^(b/a))),    W the principal branch of Lambert's function.

Sources: Goeltz et al. 2021, "Fast and energy-efficient neuromorphic deep learning with first-spike times" (one spike);
Bacho & Chu 2023, "Exploring tradeoffs in spiking neural networks", arXiv 2212.09500 (K spikes, soft reset).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

#: Slopes u'(t) below this part of theta / tau are taken as that in gradients, which stay finite: grazing spikes.
GRAZING = 1e-4
#: Differentiable Newton steps: after two, derivatives up to the third are exact.
NEWTON = 2


@dataclass(frozen=True)
class EventDynamics:
    """Constants of the neurons of a layer.

    Attributes:
        tau_s: Time constant of the synaptic current, in seconds.
        threshold: Membrane potential at which a neuron spikes.
        max_spikes: Most spikes of a neuron.
        ratio: tau / tau_s.
        duration: Spikes after this time are none, in seconds.
    """

    tau_s: float = 0.13
    threshold: float = 1.0
    max_spikes: int = 1
    ratio: Literal[1, 2] = 2
    duration: float = math.inf

    @property
    def tau(self) -> float:
        """Time constant of the membrane potential, in seconds."""
        return self.ratio * self.tau_s

    @property
    def reset(self) -> float:
        """theta / tau."""
        return self.threshold / self.tau


@dataclass(frozen=True)
class SortedInputs:
    """Input spikes in order of time.

    Attributes:
        times: [N, L]; 0 where there is none.
        source: The input neuron of each, [N, L].
        present: Which are spikes, [N, L].
        following: The time of the next one, or the end of the window, [N, L].
    """

    times: Tensor
    source: Tensor
    present: Tensor
    following: Tensor


def sort_inputs(times: Tensor, duration: float) -> SortedInputs:
    """Sorts spike times [N, I, K], infinite where there is no spike."""
    flat = times.flatten(1)
    count = int(flat.isfinite().sum(dim=1).max()) if len(flat) else 0
    order = flat.argsort(dim=1, stable=True)[:, :count]
    ordered = flat.gather(1, order)
    present = ordered.isfinite()
    end = ordered.new_full((len(flat), min(count, 1)), math.inf)
    following = torch.cat([ordered[:, 1:], end], dim=1).detach().clamp_max(duration)
    return SortedInputs(ordered.masked_fill(~present, 0.0), order // times.shape[2], present, following)


def spike_times(times: Tensor, weight: Tensor, dynamics: EventDynamics) -> Tensor:
    """Spike times [N, M, K] of M neurons, ascending, infinite where a neuron is silent.

    Differentiable with respect to input times and weights, twice and more often; spikes appear and disappear without
    a gradient.

    Args:
        times: Input spike times [N, I, K_in] in seconds, in any order; infinite where there is no spike.
        weight: [M, I].
        dynamics: Constants.
    """
    inputs = sort_inputs(times, dynamics.duration)
    shape, count = (len(times), len(weight)), inputs.times.shape[1]
    p, q = (each.flatten(0, 1) for each in sums_of_inputs(inputs, weight, dynamics))  # (N M, L)
    # Connected to weights and inputs, so that a silent layer has a gradient of 0.
    silent = math.inf + 0 * (weight.sum() + inputs.times.sum()) + p.new_zeros(len(p))
    last, taken = p.new_full(silent.shape, -math.inf), torch.zeros_like(silent)
    active = torch.arange(len(p) if count else 0, device=p.device)  # neurons that may spike once more
    fired: list[Tensor] = []
    for _ in range(dynamics.max_spikes):
        if not len(active):
            break
        with torch.no_grad():
            sums = p[active], q[active] + taken[active][:, None]
            place, first = _next_crossing(*sums, inputs, active // shape[1], last[active], dynamics)
            spiking = first.isfinite()
            active, place, first = active[spiking], place[spiking], first[spiking]
        time = _polished(p[active, place], q[active, place] + taken[active], first, dynamics)
        fired.append(silent.index_put((active,), time))
        taken = taken.index_add(0, active, taken_by_reset(time, dynamics))
        last = last.index_put((active,), time.detach())
    fired += [silent] * (dynamics.max_spikes - len(fired))
    return torch.stack(fired, dim=1).reshape(*shape, dynamics.max_spikes)


def sums_of_inputs(inputs: SortedInputs, weight: Tensor, dynamics: EventDynamics) -> tuple[Tensor, Tensor]:
    """a and b after each input spike, [N, M, L] each."""
    each = weight[:, inputs.source].transpose(0, 1)  # (N, M, L)
    phase = inputs.times / dynamics.tau_s
    fast = phase.exp() * inputs.present
    slow = (phase / 2).exp() * inputs.present if dynamics.ratio == 2 else phase * fast
    return (each * fast[:, None]).cumsum(dim=2), (each * slow[:, None]).cumsum(dim=2)


def taken_by_reset(time: Tensor, dynamics: EventDynamics) -> Tensor:
    """What a spike adds to b."""
    if dynamics.ratio == 2:
        return -dynamics.reset * (time / dynamics.tau).exp()
    return dynamics.reset * (time / dynamics.tau_s).exp()


def _next_crossing(
    p: Tensor, q: Tensor, inputs: SortedInputs, sample: Tensor, last: Tensor, dynamics: EventDynamics
) -> tuple[Tensor, Tensor]:
    """The interval in which each of n neurons spikes next, and when, [n] each; infinite if never.

    Args:
        p: a after each input spike, [n, L].
        q: b, own spikes included, [n, L].
        inputs: The input spikes of all samples.
        sample: The sample of each neuron, [n].
        last: Its last spike, [n].
        dynamics: Constants.
    """
    time = _crossing(p, q, dynamics)
    # Rounding may put a spike at the very end of an interval into the next one.
    early = 4 * torch.finfo(time.dtype).eps * (inputs.times.abs() + dynamics.tau)
    begin = torch.where(inputs.present, inputs.times - early, math.inf)
    valid = (time > begin[sample]) & (time <= inputs.following[sample]) & (time > last[:, None])
    place = valid.to(torch.uint8).argmax(dim=1)
    found = torch.where(valid.any(dim=1), time.gather(1, place[:, None])[:, 0], math.inf)
    return place, found


def _crossing(p: Tensor, q: Tensor, dynamics: EventDynamics) -> Tensor:
    """When u would reach the threshold from below if nothing else came; NaN if never."""
    if dynamics.ratio == 2:
        x = (q * q - 4 * dynamics.reset * p).sqrt()
        return dynamics.tau * (2 * p / (q + x)).log()
    level = q / p
    return dynamics.tau_s * torch.where(p > 0, level - _lambert(-(dynamics.reset / p) * level.exp()), math.nan)


def _polished(p: Tensor, q: Tensor, time: Tensor, dynamics: EventDynamics) -> Tensor:
    """Differentiable times [n] from those of the closed form, by Newton's method on u(t) = theta."""
    least = GRAZING * dynamics.reset
    for step in range(NEWTON):
        u, slope = potential_and_slope(p, q, time, dynamics)
        grazing = slope < least
        change = (u - dynamics.threshold) / torch.where(grazing, least, slope)
        # A further step with a limited slope would count the gradient once more.
        time = time - (torch.where(grazing, 0.0, change) if step else change)
    return time


def potential_and_slope(p: Tensor, q: Tensor, time: Tensor, dynamics: EventDynamics) -> tuple[Tensor, Tensor]:
    phase = time / dynamics.tau_s
    fast = (-phase).exp()
    if dynamics.ratio == 2:
        slow = (-phase / 2).exp()
        u = dynamics.tau * (q * slow - p * fast)
        return u, 2 * p * fast - q * slow
    u = dynamics.tau_s * (p * phase - q) * fast
    return u, p * fast - u / dynamics.tau_s


def _lambert(z: Tensor) -> Tensor:
    """The principal branch of Lambert's function for z in [-1/e, 0], by Halley's method; NaN below."""
    w = torch.where(z < -0.25, -1 + (2 * (1 + math.e * z)).clamp_min(0).sqrt(), z * (1 - z))
    for _ in range(6):
        e = w.exp()
        f = w * e - z
        w = w - f / (e * (w + 1) - (w + 2) * f / (2 * w + 2).clamp_min(1e-30))
    return torch.where((z >= -math.exp(-1)) & z.isfinite(), w, math.nan)
