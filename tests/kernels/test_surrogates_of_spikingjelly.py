"""Derivatives of SpikingJelly's surrogates against their own backward passes, at kinks and at the threshold too."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor

from snnrobust.frameworks.spikingjelly import SpikingJelly
from snnrobust.kernels.dynamics import Dynamics
from snnrobust.kernels.fast import run_unit
from snnrobust.kernels.native import Native
from snnrobust.kernels.unit import Unit

KNOWN: list[Any] = [
    surrogate.DeterministicPass(),
    surrogate.LeakyKReLU(),
    surrogate.LeakyKReLU(leak=0.2, k=0.7),
    surrogate.LogTailedReLU(),
    surrogate.LogTailedReLU(alpha=0.3),
    surrogate.NonzeroSignLogAbs(),
    surrogate.NonzeroSignLogAbs(alpha=2.5),
    surrogate.PiecewiseLeakyReLU(),
    surrogate.PiecewiseLeakyReLU(w=0.3, c=0.05),
    surrogate.QPseudoSpike(),
    surrogate.S2NN(),
    surrogate.S2NN(alpha=2.5, beta=0.4),
    surrogate.Rect(alpha=0.8),
    surrogate.ATan(),
]
UNKNOWN: list[Any] = [
    surrogate.QPseudoSpike(alpha=3.0),
    surrogate.SquarewaveFourierSeries(),
    surrogate.FakeNumericalGradient(),
    surrogate.PoissonPass(),
    surrogate.S2NN(beta=torch.tensor(1.0)),
    surrogate.S2NN(spiking=False),
]
KINKS = [0.0, 1.0, -1.0, 0.3, -0.3, 0.625, -0.625]  # and the numbers next to them
NEAR = [step(k) for k in KINKS for step in (lambda k: k, lambda k: k - 1e-6, lambda k: k + 1e-6)]
U = torch.cat([torch.linspace(-6, 6, 2001), torch.tensor([*NEAR, 40.0, -40.0])])


def node_with(own: Any) -> Any:
    return neuron.LIFNode(surrogate_function=own)


def own_gradient(own: Any, u: Tensor) -> Tensor:
    at = u.clone().requires_grad_()
    gradient: Tensor = torch.autograd.grad(own(at).sum(), at)[0]
    return gradient


@pytest.mark.parametrize("own", KNOWN, ids=repr)
def test_a_derivative_is_that_of_the_own_backward_pass(own: Any, native: Native) -> None:
    derivative = SpikingJelly().derivative(node_with(own))
    assert derivative is not None
    real = own_gradient(own, U)
    torch.testing.assert_close(derivative(U), real, rtol=1e-6, atol=1e-30)
    unit = Unit(Dynamics("keep", 0.0, threshold=0.0, reset="none"), derivative, 1)  # one step without memory
    at = U.reshape(1, 1, -1).requires_grad_()
    spikes = run_unit((native,), unit, at)
    assert torch.equal(spikes.flatten(), own(U))
    (mine,) = torch.autograd.grad(spikes.sum(), at)
    torch.testing.assert_close(mine.flatten(), real, rtol=1e-6, atol=1e-30)
    assert real.std() > 0 or isinstance(own, surrogate.DeterministicPass)


def test_another_setting_is_another_derivative() -> None:
    """The control: the comparison above tells settings apart."""
    derivative = SpikingJelly().derivative(node_with(surrogate.S2NN(alpha=4.0, beta=0.9)))
    assert derivative is not None
    assert not torch.allclose(derivative(U), own_gradient(surrogate.S2NN(), U), rtol=1e-3)


@pytest.mark.parametrize("own", UNKNOWN, ids=repr)
def test_others_are_not_known(own: Any) -> None:
    assert SpikingJelly().derivative(node_with(own)) is None


def test_straight_through_reaches_everywhere() -> None:
    derivative = SpikingJelly().derivative(node_with(surrogate.DeterministicPass()))
    assert derivative is not None
    assert math.isinf(derivative.a)
    assert derivative(torch.tensor([-3e38, 3e38])).tolist() == [1.0, 1.0]
