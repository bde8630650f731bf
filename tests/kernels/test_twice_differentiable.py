"""The hand-written second derivative of a node, against autograd through its steps in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from snnrobust.kernels.derivative import Derivative
from snnrobust.kernels.dynamics import Dynamics, multi_step
from snnrobust.kernels.spike import spike
from snnrobust.kernels.twice_differentiable import twice_differentiable_node

RESETS: list[dict[str, Any]] = [
    {"reset": "hard"},
    {"reset": "hard", "reset_value": -0.1},
    {"reset": "soft"},
    {"reset": "none"},
    {"reset": "hard", "detach_reset": True},
    {"reset": "soft", "detach_reset": True},
]
CHARGES: list[dict[str, Any]] = [
    {"charge": "divide", "rate": 2.0, "decay_input": True},
    {"charge": "divide", "rate": 3.0},
    {"charge": "multiply", "rate": 0.4, "decay_input": True},
    {"charge": "keep", "rate": 1.0},
    {"charge": "keep", "rate": 0.0},
]
SLOPES = [Derivative.atan(2.0), Derivative("sigmoid", 4.0, 4.0), Derivative("gaussian", 2.0, 1.5)]


def current(steps: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.rand(steps, 3, 4, dtype=torch.float64, generator=generator)


def derivatives(run: Any, x: Tensor) -> list[Tensor]:
    """Spikes, the gradient x~ for random y, and the gradients of w . x~ in y and in x."""
    generator = torch.Generator().manual_seed(1)
    x = x.clone().requires_grad_()
    y = torch.randn(x.shape, dtype=x.dtype, generator=generator).requires_grad_()
    w = torch.randn(x.shape, dtype=x.dtype, generator=generator)
    spikes = run(x)
    (gradient,) = torch.autograd.grad(spikes, x, y, create_graph=True)
    second = torch.autograd.grad(gradient, [y, x], w, allow_unused=True)
    return [spikes.detach(), gradient.detach(), *(torch.zeros_like(x) if each is None else each for each in second)]


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("charge", CHARGES)
@pytest.mark.parametrize("reset", RESETS)
def test_equals_autograd_through_the_steps(charge: dict[str, Any], reset: dict[str, Any], slope: Derivative) -> None:
    dynamics, x = Dynamics(threshold=1.0, **charge, **reset), current()
    ours = derivatives(lambda at: twice_differentiable_node(dynamics, at, slope), x)
    theirs = derivatives(lambda at: multi_step(dynamics, at, lambda u: spike(u, slope)), x)
    assert 0 < float(theirs[0].mean()) < 1  # some fire and some don't
    assert torch.equal(ours[0], theirs[0])
    for mine, real in zip(ours[1:], theirs[1:], strict=True):
        assert float(real.abs().max()) > 1e-3
        assert torch.allclose(mine, real, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("reset", RESETS)
def test_a_constant_slope_has_no_second_derivative(reset: dict[str, Any]) -> None:
    dynamics, x, slope = Dynamics("divide", 2.0, 1.0, **reset), current(), Derivative.atan(2.0)
    *first, in_x = derivatives(lambda at: twice_differentiable_node(dynamics, at, slope, second=False), x)
    *expected, _ = derivatives(lambda at: twice_differentiable_node(dynamics, at, slope), x)
    assert not in_x.any()
    assert all(torch.equal(mine, real) for mine, real in zip(first, expected, strict=True))


def test_a_single_step() -> None:
    dynamics, slope = Dynamics("divide", 2.0, 1.0, "hard"), Derivative.atan(2.0)
    ours = derivatives(lambda at: twice_differentiable_node(dynamics, at, slope), current(1))
    theirs = derivatives(lambda at: multi_step(dynamics, at, lambda u: spike(u, slope)), current(1))
    assert all(torch.allclose(mine, real) for mine, real in zip(ours, theirs, strict=True))
