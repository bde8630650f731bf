"""Smooth steps against numerical integrals of their slopes, and against SpikingJelly's own primitives."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import integrate
from spikingjelly.activation_based import neuron, surrogate

from snnrobust.errors import InputError
from snnrobust.frameworks.spikingjelly import SpikingJelly
from snnrobust.kernels.derivative import FAMILIES, Derivative, Family
from snnrobust.kernels.primitive import is_relaxable, smooth_step

#: Those with an infinite area under them.
ENDLESS: tuple[Family, ...] = ("leaky-rectangle", "step", "reciprocal", "log-tailed", "sigmoid-reciprocal")
FINITE = [family for family in FAMILIES if family not in ENDLESS]
U = torch.cat([torch.linspace(-4, 4, 101, dtype=torch.float64), torch.tensor([1e-9, 0.7, -0.7, 50.0, -50.0])])


@pytest.mark.parametrize("family", FINITE)
@pytest.mark.parametrize(("a", "b"), [(1.3, 0.8), (0.4, 2.5)])
def test_differences_are_integrals_of_the_slope(family: Family, a: float, b: float) -> None:
    derivative = Derivative(family, a, b)
    slope = lambda u: float(derivative(torch.tensor(u, dtype=torch.float64)))  # noqa: E731  # shorter
    for low, high in ((-3.0, -0.2), (-0.2, 0.1), (0.1, 2.0)):
        kinks = [p for p in (-a / b, -a, 0.0, a, a / b) if low < p < high]
        area, _ = integrate.quad(slope, low, high, points=kinks or None, epsabs=1e-12, epsrel=1e-12)
        ends = smooth_step(torch.tensor([low, high], dtype=torch.float64), derivative)
        assert float(ends[1] - ends[0]) == pytest.approx(area, abs=1e-9)


@pytest.mark.parametrize("family", FINITE)
def test_starts_at_zero_and_slopes_are_exact(family: Family) -> None:
    derivative = Derivative(family, 1.3, 0.8)
    assert float(smooth_step(torch.tensor([-1e12], dtype=torch.float64), derivative)) == pytest.approx(0, abs=1e-9)
    u = U.clone().requires_grad_()
    (slope,) = torch.autograd.grad(smooth_step(u, derivative).sum(), u, create_graph=True)
    assert torch.equal(slope, derivative(u))  # at kinks too
    if slope.requires_grad and family != "rectangle":
        (second,) = torch.autograd.grad(slope.sum(), u)
        assert second.abs().max() > 0.1


SURROGATES = [
    surrogate.ATan(2.0),
    surrogate.ATan(5.0),
    surrogate.Sigmoid(4.0),
    surrogate.PiecewiseQuadratic(1.5),
    surrogate.PiecewiseExp(2.0),
    surrogate.SoftSign(2.0),
    surrogate.Erf(2.0),
]


@pytest.mark.parametrize("own", SURROGATES, ids=str)
def test_equals_spikingjellys_primitive(own: Any) -> None:
    derivative = SpikingJelly().derivative(neuron.IFNode(surrogate_function=own))
    assert derivative is not None
    mine = smooth_step(U, derivative)
    assert torch.allclose(mine, own.primitive_function(U.clone(), own.alpha), atol=1e-12, rtol=0)
    assert float(mine.max()) == pytest.approx(1, abs=0.01)


def test_superspike_has_an_area_of_its_own() -> None:
    derivative = SpikingJelly().derivative(neuron.IFNode(surrogate_function=surrogate.SuperSpike(0.5)))
    assert derivative is not None
    ends = smooth_step(torch.tensor([0.0, math.inf], dtype=torch.float64), derivative)
    assert ends.tolist() == [0.5, 1.0]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_infinite_area_has_no_smooth_step_and_jumps_no_relaxation(family: Family) -> None:
    derivative = Derivative(family, 1.3, 0.8)
    assert is_relaxable(derivative) is (family not in (*ENDLESS, "rectangle"))
    if family not in ENDLESS:
        smooth_step(U, derivative)
        return
    with pytest.raises(InputError, match=f"expected a derivative with a finite area under it, got .*'{family}'"):
        smooth_step(U, derivative)
    wide = torch.linspace(-2e4, 2e4, 200_001, dtype=torch.float64)
    areas = [float(torch.trapezoid(derivative(part), part)) for part in (wide, wide / 4)]
    assert areas[0] > areas[1] + 0.5  # it grows as far as one looks
