"""Shared by the kernel tests: the native kernel, and the size of a gradient's rounding errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest
import torch
from torch import Tensor

from snnrobust.kernels.build import BuildError
from snnrobust.kernels.derivative import Derivative
from snnrobust.kernels.native import Native
from snnrobust.kernels.unit import Affine, Unit, apply_batch_norm

RoundingScale: TypeAlias = Callable[[Unit, Tensor, Tensor, Affine | None], Tensor]


@pytest.fixture(scope="session")
def native() -> Native:
    """The native kernel, where there is a compiler."""
    try:
        return Native()
    except BuildError as error:
        pytest.skip(str(error))


def _slope(derivative: Derivative, u: Tensor) -> Tensor:
    """The derivative at u with the terms of a difference in it added up, since that is what its rounding goes with."""
    a, b = derivative.a, derivative.b
    if derivative.family == "sigmoid":  # (1 - s) s b
        return b * torch.sigmoid(a * u)
    if derivative.family == "quadratic":  # a - b |u|, and a little beyond where that is 0
        return (a + b * u.abs()) * (b * u.abs() < 1.01 * a)
    if derivative.family == "triangle":
        return (a + u.abs()) / b * (u.abs() < 1.01 * a)
    return derivative(u)


def _rounding_scale(unit: Unit, current: Tensor, gradient: Tensor, affine: Affine | None) -> Tensor:
    """The adjoint recursion with each of its terms' absolute value, in float64: [1 or T, N, *], as the current.

    A gradient may be a small difference of large terms. Two orders of summation differ by some roundings of these.
    """
    dynamics, derivative = unit.dynamics, unit.derivative
    assert isinstance(derivative, Derivative)
    x = current.detach() if affine is None else apply_batch_norm(current.detach(), affine)
    v = torch.full_like(x[0], dynamics.start)
    potentials = []
    for t in range(unit.steps):
        _, u, v = dynamics.step(x[t if len(x) > 1 else 0], v, None, lambda u: (u >= 0).to(u))
        potentials.append(u)
    h = torch.stack(potentials).double()
    gs = gradient.detach().double().abs()
    if unit.pool is not None:
        spikes = (h >= dynamics.threshold).double().requires_grad_()
        pool = {"mean": torch.nn.functional.avg_pool2d, "max": torch.nn.functional.max_pool2d}[unit.pool]
        (gs,) = torch.autograd.grad(pool(spikes.flatten(0, 1), 2), spikes, gs.flatten(0, 1))
    carry = torch.zeros_like(h[0])
    to_x = []
    for u, g in zip(reversed(h), reversed(gs), strict=True):
        # The last term: where float32 underflows, and exponentials may drop denormal numbers.
        d = _slope(derivative, u - dynamics.threshold) + 1e-30
        spike = (u >= dynamics.threshold).double()
        kept = 1 - spike if dynamics.reset == "hard" else torch.ones_like(u)
        if not dynamics.detach_reset and dynamics.reset != "none":
            jump = abs(dynamics.reset_value) + u.abs() if dynamics.reset == "hard" else dynamics.threshold
            kept = kept + jump * d
        carry = g * d + carry * kept
        to_x.append(carry * abs(dynamics.gain))
        # What a leak keeps of 1 is the difference of two terms, 1 and the share that is lost.
        carry = carry * (abs(dynamics.leak) if dynamics.charge == "keep" else 2 - dynamics.leak)
    out = torch.stack(to_x[::-1])
    if len(x) < unit.steps:
        out = out.sum(dim=0, keepdim=True)
    return out if affine is None else out * affine[0].double().abs()[:, None, None]


@pytest.fixture(scope="session")
def rounding_scale() -> RoundingScale:
    """See `_rounding_scale`."""
    return _rounding_scale
