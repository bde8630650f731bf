"""The equations, written once, against SpikingJelly's own nodes and this package's `LoopNode`."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import Tensor, nn

from snnrobust.frameworks.spikingjelly import SpikingJelly
from snnrobust.kernels.derivative import Derivative
from snnrobust.kernels.dynamics import Dynamics, Reset, multi_step
from snnrobust.kernels.spike import spike
from snnrobust.kernels.unit import Unit
from snnrobust.neurons import LoopNode
from snnrobust.neurons.node import Leak
from snnrobust.neurons.variants import Variant

NEURONS = 40
ADAPTER = SpikingJelly()
SURROGATES = ("ATan", "Sigmoid", "PiecewiseQuadratic", "PiecewiseExp", "SoftSign", "SuperSpike", "Erf")
NODES: dict[str, Callable[..., nn.Module]] = {
    "lif decay": lambda tau, **shared: neuron.LIFNode(tau=tau, decay_input=True, **shared),
    "lif": lambda tau, **shared: neuron.LIFNode(tau=tau, decay_input=False, **shared),
    "if": lambda tau, **shared: neuron.IFNode(**shared),
    "plif decay": lambda tau, **shared: neuron.ParametricLIFNode(init_tau=tau, decay_input=True, **shared),
    "plif": lambda tau, **shared: neuron.ParametricLIFNode(init_tau=tau, decay_input=False, **shared),
}
LOOPS = [
    variant
    for leak, reset, recurrent in itertools.product(get_args(Leak), get_args(Reset), (False, True))
    if (variant := Variant(leak, reset, recurrent)).node_class is LoopNode
]
settings_of_a_node = st.fixed_dictionaries(
    {
        "tau": st.floats(1.1, 8.0) | st.sampled_from([2.0, 3.0, 4.0]),
        "v_threshold": st.floats(0.25, 2.0) | st.sampled_from([0.5, 1.0]),
        "v_reset": st.sampled_from([None, 0.0, -0.375, 0.1]),
        "detach_reset": st.booleans(),
        "surrogate_function": st.sampled_from(SURROGATES).map(lambda name: getattr(surrogate, name)()),
    }
)
seeds = st.integers(0, 2**31 - 1)


def currents(dynamics: Dynamics, steps: int, seed: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, int]:
    """Currents [T, N], half of them aimed at the threshold; and how many of them land on it exactly.

    Half of those hit it where any number does, half are a rounding or so beside it.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(steps, NEURONS, generator=generator, dtype=dtype) + 0.3
    v = torch.full((NEURONS,), dynamics.start, dtype=dtype)
    on = 0
    with torch.no_grad():
        for t in range(steps):
            # The potential is affine in the current.
            least = dynamics.charged(torch.zeros_like(v), v)
            slope = dynamics.charged(torch.ones_like(v), v) - least
            aim = (dynamics.threshold - least) / slope
            exact, misses = aim, torch.full_like(aim, torch.inf)
            for candidate in neighbours(aim):
                miss = (dynamics.charged(candidate, v) - dynamics.threshold).abs()
                exact, misses = torch.where(miss < misses, candidate, exact), torch.minimum(miss, misses)
            kind = torch.rand(NEURONS, generator=generator)
            x[t] = torch.where(kind < 0.25, exact, torch.where(kind < 0.5, aim, x[t]))
            _, u, v = dynamics.step(x[t], v, None, lambda u: (u >= 0).to(u))
            on += int((u == dynamics.threshold).sum())
    return x, on


def neighbours(x: Tensor) -> list[Tensor]:
    """x [N] and the numbers next to it, three on each side."""
    found = [x]
    for end in (-torch.inf, torch.inf):
        at = x
        for _ in range(3):
            at = torch.nextafter(at, torch.full_like(at, end))
            found.append(at)
    return found


def ours(node: nn.Module, x: Tensor, steps: int | None = None) -> Tensor:
    """Spikes [T, N] by the equation that the adapter reads from the node."""
    derivative = ADAPTER.derivative(node)
    assert derivative is not None
    return multi_step(ADAPTER.dynamics(node), x, lambda u: spike(u, derivative), steps)


def theirs(node: nn.Module, x: Tensor) -> Tensor:
    functional.reset_net(node)
    spikes: Tensor = node(x)
    return spikes


@pytest.mark.parametrize("kind", NODES)
@settings(max_examples=150, deadline=None)
@given(options=settings_of_a_node, steps=st.integers(1, 6), seed=seeds)
def test_spikes_and_gradients_are_those_of_spikingjelly(
    kind: str, options: dict[str, Any], steps: int, seed: int, rounding_scale: Any
) -> None:
    node = NODES[kind](step_mode="m", **options)
    dynamics, derivative = ADAPTER.dynamics(node), ADAPTER.derivative(node)
    x = currents(dynamics, steps, seed)[0].requires_grad_()
    mine, real = ours(node, x), theirs(node, x)
    assert torch.equal(mine, real)

    weights = torch.randn(mine.shape, generator=torch.Generator().manual_seed(seed))
    my_gradient, gradient = (torch.autograd.grad(out, x, weights)[0] for out in (mine, real))
    size = rounding_scale(Unit(dynamics, derivative, steps), x, weights, None)
    assert ((my_gradient - gradient).abs() <= 1e-6 * size).all()


@pytest.mark.parametrize("kind", NODES)
@settings(max_examples=60, deadline=None)
@given(options=settings_of_a_node, steps=st.integers(1, 6), seed=seeds)
def test_in_float64_the_gradients_agree_to_rounding_also_that_to_a_learnt_leak(
    kind: str, options: dict[str, Any], steps: int, seed: int, rounding_scale: Any
) -> None:
    node = NODES[kind](step_mode="m", **options).double()
    dynamics, derivative = ADAPTER.dynamics(node), ADAPTER.derivative(node)
    x = currents(dynamics, steps, seed, torch.float64)[0].requires_grad_()
    mine, real = ours(node, x), theirs(node, x)
    assert torch.equal(mine, real)

    weights = torch.randn(mine.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    at = [x, *node.parameters()]
    my_gradients, gradients = (torch.autograd.grad(out, at, weights) for out in (mine, real))
    size = rounding_scale(Unit(dynamics, derivative, steps), x, weights, None)
    assert ((my_gradients[0] - gradients[0]).abs() <= 1e-14 * size).all()
    for mine_to_w, to_w in zip(my_gradients[1:], gradients[1:], strict=True):
        assert abs(mine_to_w - to_w) <= 1e-12 * (size * (x.detach().abs() + 10)).sum()


@pytest.mark.parametrize("kind", NODES)
def test_the_inputs_do_land_on_the_threshold_where_a_strict_comparison_differs(kind: str) -> None:
    node = NODES[kind](step_mode="m", tau=3.0, v_threshold=1.0, v_reset=0.0, surrogate_function=surrogate.ATan())
    x, on = currents(ADAPTER.dynamics(node), 6, seed=0)
    assert on >= 30  # of 60 that were aimed at it
    strict = multi_step(ADAPTER.dynamics(node), x, lambda u: (u > 0).to(u))
    assert (strict != theirs(node, x)).sum() >= 30


def test_a_division_and_a_multiplication_by_the_reciprocal_do_not_spike_alike() -> None:
    # Control: the comparison above would notice if the two charges were mixed up.
    node = NODES["lif"](3.0, step_mode="m", v_threshold=1.0, v_reset=0.0, surrogate_function=surrogate.ATan())
    divide = ADAPTER.dynamics(node)
    x, _ = currents(divide, 6, seed=0)
    multiply = replace(divide, charge="multiply", rate=1 / 3.0)
    mixed_up = multi_step(multiply, x, lambda u: (u >= 0).to(u))
    assert (mixed_up != theirs(node, x)).any()


@pytest.mark.parametrize("variant", LOOPS, ids=repr)
def test_loop_nodes_are_the_same_equations(variant: Variant) -> None:
    torch.manual_seed(0)
    node = variant.build(k=0.7, threshold=0.9, features=NEURONS if variant.recurrent else None)
    at = [torch.randn(7, 5, NEURONS).requires_grad_(), *node.parameters()]
    mine, real = ours(node, at[0]), theirs(node, at[0])
    assert torch.equal(mine, real)
    assert 0 < real.mean() < 1

    weights = torch.randn(mine.shape)
    for my_gradient, gradient in zip(*(torch.autograd.grad(out, at, weights) for out in (mine, real)), strict=True):
        assert (my_gradient - gradient).abs().max() <= 1e-6 * gradient.abs().max()


@settings(max_examples=25, deadline=None)
@given(options=settings_of_a_node, kind=st.sampled_from(sorted(NODES)), steps=st.integers(1, 6), seed=seeds)
def test_a_static_current_is_one_that_is_repeated(options: dict[str, Any], kind: str, steps: int, seed: int) -> None:
    node = NODES[kind](step_mode="m", **options).double()
    x = currents(ADAPTER.dynamics(node), 1, seed, torch.float64)[0].requires_grad_()
    once, repeated = ours(node, x, steps), theirs(node, x.expand(steps, -1))
    assert torch.equal(once, repeated)
    my_gradient, gradient = (torch.autograd.grad(out.sum(), x)[0] for out in (once, repeated))
    assert torch.allclose(my_gradient, gradient, rtol=1e-10, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    charge=st.sampled_from(["divide", "multiply", "keep"]),
    rate=st.floats(0.05, 0.95),
    decay_input=st.booleans(),
    x=st.floats(-3, 3),
    v=st.floats(-3, 3),
)
def test_leak_and_gain_are_the_coefficients_of_the_charge(
    charge: Any, rate: float, decay_input: bool, x: float, v: float
) -> None:
    decay_input = decay_input and charge != "keep"
    rate = 1 / rate if charge == "divide" else rate
    dynamics = Dynamics(charge, rate, threshold=1.0, reset="hard", decay_input=decay_input)
    u = dynamics.charged(torch.tensor(x, dtype=torch.float64), torch.tensor(v, dtype=torch.float64))
    assert u.item() == pytest.approx(dynamics.leak * v + dynamics.gain * x, abs=1e-12)


def test_no_memory_forgets_even_an_infinite_membrane() -> None:
    forgets = Dynamics("keep", 0.0, threshold=1.0, reset="none")
    x = torch.tensor([[torch.inf], [0.5], [2.0]])
    out = multi_step(forgets, x, lambda u: spike(u, Derivative.atan(2.0)))
    assert out.flatten().tolist() == [1.0, 0.0, 1.0]
