"""Event-driven neurons: the threshold at each spike, finite differences, a clocked simulation, one spike by itself."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from snnrobust.kernels.event_driven import GRAZING, EventDynamics, spike_times
from snnrobust.kernels.event_driven_native import native_spike_times

TAU_S, DURATION = 0.13, 1.0


def layer(seed: int, spikes: int, ratio: Literal[1, 2] = 2) -> tuple[Tensor, Tensor, EventDynamics]:
    """Input times [5, 6, 2], a third of them missing, and weights [8, 6], in float64."""
    generator = torch.Generator().manual_seed(seed)
    times = torch.rand(5, 6, 2, generator=generator, dtype=torch.float64) * 0.5
    times[torch.rand(5, 6, 2, generator=generator) < 0.3] = math.inf
    weight = 6 * torch.randn(8, 6, generator=generator, dtype=torch.float64) + 2
    return times, weight, EventDynamics(TAU_S, 0.7, spikes, ratio, DURATION)


def potential(at: Tensor, times: Tensor, weight: Tensor, own: Tensor, dynamics: EventDynamics) -> Tensor:
    """u at times `at` [P] as the sum over input spikes times [I, K] and own spikes [S] before each."""

    def kernel(delay: Tensor) -> Tensor:
        if dynamics.ratio == 1:
            return delay * torch.exp(-delay / dynamics.tau_s)
        return dynamics.tau * (torch.exp(-delay / dynamics.tau) - torch.exp(-delay / dynamics.tau_s))

    delay = at[:, None, None] - times
    u = (weight[:, None] * torch.where(delay > 0, kernel(delay.clamp_min(0)), 0.0)).sum(dim=(1, 2))
    since = at[:, None] - own
    return u - dynamics.threshold * torch.where(since > 0, torch.exp(-since.clamp_min(0) / dynamics.tau), 0.0).sum(1)


@pytest.mark.parametrize("ratio", [1, 2])
@pytest.mark.parametrize("spikes", [1, 4])
def test_the_potential_is_the_threshold_at_each_spike_and_below_before(ratio: Literal[1, 2], spikes: int) -> None:
    times, weight, dynamics = layer(0, spikes, ratio)
    found = spike_times(times, weight, dynamics)
    assert found.isfinite().sum() > 15
    for sample, own in zip(times, found, strict=True):
        for row, train in zip(weight, own, strict=True):
            fired = train[train.isfinite()]
            assert torch.equal(fired, fired.sort().values)
            u = potential(fired, sample, row, fired, dynamics)
            assert torch.allclose(u, torch.full_like(u, dynamics.threshold), atol=1e-9, rtol=0)
            until = float(fired[-1]) if len(fired) == spikes else DURATION
            grid = torch.linspace(0, until, 4001, dtype=torch.float64)
            assert float(potential(grid, sample, row, fired, dynamics).max()) <= dynamics.threshold + 1e-9


@pytest.mark.parametrize("ratio", [1, 2])
@pytest.mark.parametrize("spikes", [1, 4])
def test_gradients_are_finite_differences(ratio: Literal[1, 2], spikes: int) -> None:
    """To weights and input times, through the resets; second derivatives too."""
    times, weight, dynamics = layer(0, spikes, ratio)
    given_ = times.isfinite()
    fired = spike_times(times, weight, dynamics).isfinite()

    def finite(values: Tensor, weight: Tensor) -> Tensor:
        return spike_times(torch.full_like(times, math.inf).masked_scatter(given_, values), weight, dynamics)[fired]

    inputs = times[given_].clone().requires_grad_(), weight.clone().requires_grad_()
    assert torch.autograd.gradcheck(finite, inputs, eps=1e-7, atol=1e-6, rtol=1e-5)
    assert torch.autograd.gradgradcheck(lambda *each: finite(*each).sum(), inputs, eps=1e-7, atol=1e-4, rtol=1e-3)


def clocked(times: Tensor, weight: Tensor, dynamics: EventDynamics, dt: float) -> Tensor:
    """Spike times [N, M, K] of an Euler simulation with steps dt; a spike is at the end of its step."""
    shape = len(times), len(weight)
    u, g = torch.zeros(shape, dtype=times.dtype), torch.zeros(shape, dtype=times.dtype)
    found = torch.full((*shape, dynamics.max_spikes), math.inf, dtype=times.dtype)
    count = torch.zeros(shape, dtype=torch.long)
    bins = (times / dt).floor()
    for step in range(round(DURATION / dt)):
        g = g + (bins == step).to(times).sum(dim=2) @ weight.T
        u, g = u + dt * (g - u / dynamics.tau), g - dt * g / dynamics.tau_s
        fire = (u >= dynamics.threshold) & (count < dynamics.max_spikes)
        place = count.clamp_max(dynamics.max_spikes - 1)[..., None]
        found = torch.where(
            fire[..., None],
            found.scatter(2, place, torch.full_like(place, 1, dtype=times.dtype) * (step + 1) * dt),
            found,
        )
        u, count = u - dynamics.threshold * fire, count + fire
    return found


@pytest.mark.parametrize("ratio", [1, 2])
def test_a_clocked_simulation_converges_at_first_order(ratio: Literal[1, 2]) -> None:
    times, weight, dynamics = layer(1, 3, ratio)
    exact = spike_times(times, weight, dynamics)
    errors = []
    for dt in (1e-3, 2.5e-4):
        found = clocked(times, weight, dynamics, dt)
        both = found.isfinite() & exact.isfinite()
        assert both.sum() > 0.9 * exact.isfinite().sum()
        errors.append(float((found - exact)[both].abs().median()))
    assert errors[1] < errors[0] / 2.5
    assert errors[1] < 5e-4


def first_spike(times: Tensor, weight: Tensor, dynamics: EventDynamics) -> float:
    """The first threshold crossing of one neuron by itself: bisection on a dense grid of its potential."""
    none = times.new_empty(0)
    grid = torch.linspace(0, DURATION, 20001, dtype=times.dtype)
    above = (potential(grid, times, weight, none, dynamics) >= dynamics.threshold).nonzero()[:, 0]
    if not len(above):
        return math.inf
    low, high = grid[above[0] - 1], grid[above[0]]
    for _ in range(60):
        middle = (low + high) / 2
        high_side = potential(middle[None], times, weight, none, dynamics)[0] >= dynamics.threshold
        low, high = (low, middle) if high_side else (middle, high)
    return float(high)


@pytest.mark.parametrize("ratio", [1, 2])
def test_one_spike_is_the_first_crossing(ratio: Literal[1, 2]) -> None:
    times, weight, dynamics = layer(2, 1, ratio)
    found = spike_times(times, weight, dynamics)[..., 0]
    expected = torch.tensor([[first_spike(x, w, dynamics) for w in weight] for x in times], dtype=times.dtype)
    assert torch.equal(found.isfinite(), expected.isfinite())
    assert torch.allclose(found[found.isfinite()], expected[expected.isfinite()], atol=1e-12, rtol=0)


@given(st.integers(0, 2**31), st.sampled_from([1, 3, 10]), st.sampled_from([torch.float32, torch.float64]))
def test_the_native_kernel_gives_the_same_times_and_gradients(seed: int, spikes: int, dtype: torch.dtype) -> None:
    times, weight, dynamics = layer(seed, spikes)
    times, weight = times.to(dtype), weight.to(dtype)
    results = []
    for function in (spike_times, native_spike_times):
        inputs = times.clone().requires_grad_(), weight.clone().requires_grad_()
        found = function(*inputs, dynamics)
        finite = found.detach().masked_fill(~found.isfinite(), 0)
        up = torch.linspace(0.5, 1.5, found.numel(), dtype=dtype).reshape(found.shape)
        torch.where(found.isfinite(), found * up, 0.0).sum().backward()
        results.append((found.isfinite(), finite, [each.grad for each in inputs]))
    (fired, one, gradients), (also, other, others) = results
    assert torch.equal(fired, also)
    precise = dtype == torch.float64
    assert float((one - other).abs().max()) <= (1e-6 if precise else 1e-4) * TAU_S
    for a, b in zip(gradients, others, strict=True):
        assert a is not None
        assert b is not None
        scale = float(a.abs().max()) + 1e-9
        assert float((a - b).abs().max()) <= (1e-6 if precise else 2e-2) * scale


def test_silence_and_windows() -> None:
    times, weight, dynamics = layer(3, 2)
    nothing = torch.full_like(times, math.inf)
    for function in (spike_times, native_spike_times):
        assert function(nothing, weight, dynamics).isinf().all()
        assert function(times, -weight.abs(), dynamics).isinf().all()
        short = EventDynamics(TAU_S, 0.7, 2, 2, 0.2)
        found, whole = function(times, weight, short), function(times, weight, dynamics)
        assert torch.equal(found, torch.where(whole <= 0.2, whole, math.inf))


@pytest.mark.parametrize("function", [spike_times, native_spike_times])
def test_a_silent_layer_has_a_gradient_of_zero(function: Any) -> None:
    times, weight, dynamics = layer(3, 2)
    for silent in (torch.full_like(times, math.inf), times):
        inputs = silent.clone().requires_grad_(), (-weight.abs()).requires_grad_()
        found = function(*inputs, dynamics)
        assert found.isinf().all()
        torch.where(found.isfinite(), found, 0.0).sum().backward()
        for each in inputs:
            assert each.grad is not None
            assert not each.grad.any()


def test_the_order_and_the_batch_of_inputs_do_not_matter() -> None:
    times, weight, dynamics = layer(4, 3)
    for function in (spike_times, native_spike_times):
        found = function(times, weight, dynamics)
        assert torch.equal(found, function(times.flip(2), weight, dynamics))
        assert torch.allclose(
            found[2:3].nan_to_num(posinf=9), function(times[2:3], weight, dynamics).nan_to_num(posinf=9)
        )


def test_gradients_of_grazing_spikes_are_finite() -> None:
    """A peak that just reaches the threshold: 1 / u' would be infinite, and is limited."""
    one = torch.zeros(1, 1, 1, dtype=torch.float64)
    dynamics = EventDynamics(TAU_S, 1.0, 1, 2, DURATION)
    peak = dynamics.tau / 4  # of the response to one spike of weight 1, at tau ln 2
    for function in (spike_times, native_spike_times):
        weight = torch.full((1, 1), (1 + 1e-13) / peak, dtype=torch.float64, requires_grad=True)
        found = function(one, weight, dynamics)
        assert float(found.detach()) == pytest.approx(dynamics.tau * math.log(2), rel=1e-5)
        found.sum().backward()
        assert weight.grad is not None
        limit = float(peak / (GRAZING * dynamics.reset))
        assert 0.9 * limit < -float(weight.grad) <= 1.001 * limit
        assert function(one, weight * (1 - 1e-9), dynamics).isinf().all()
