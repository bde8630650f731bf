"""Second derivatives of the fast path: it uses the eager path for them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snnrobust.kernels.derivative import Derivative
from snnrobust.kernels.dynamics import Dynamics
from snnrobust.kernels.fast import run_unit
from snnrobust.kernels.native import Native
from snnrobust.kernels.unit import Affine, PoolKind, Unit

STEPS = 3
DYNAMICS = {
    "lif hard": Dynamics("divide", 2.3, threshold=0.6, reset="hard", decay_input=True),
    "if soft": Dynamics("keep", 1.0, threshold=0.6, reset="soft"),
    "plif detached": Dynamics("multiply", 0.4, threshold=0.6, reset="soft", detach_reset=True),
}
Fire = Callable[[Unit, Tensor, Affine | None], Tensor]


class Fast:
    """The fast path, with a kernel whose backward passes are counted."""

    name = "counting"

    def __init__(self, native: Native) -> None:
        self.supports, self.forward = native.supports, native.forward
        self.native, self.backwards = native, 0

    def backward(self, *arguments: Any) -> Tensor:
        self.backwards += 1
        return self.native.backward(*arguments)

    def __call__(self, unit: Unit, current: Tensor, affine: Affine | None) -> Tensor:
        return run_unit((self,), unit, current, affine)


class Net(nn.Module):
    """Images [N, 2, 9, 9]: convolution, unit, convolution, unit, a loss that is not linear in the rates."""

    def __init__(self, dynamics: Dynamics, pool: PoolKind | None, normed: bool, static: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 2)
        self.unit = Unit(dynamics, Derivative.atan(2.0), STEPS, pool)
        self.affine = (torch.rand(4) + 0.8, torch.randn(4) * 0.3) if normed else None
        self.repeats = 1 if static else STEPS

    def forward(self, images: Tensor, fire: Fire) -> Tensor:
        current = self.first(images).expand(self.repeats, -1, -1, -1, -1)
        hidden = fire(self.unit, current, self.affine)
        current = 3 * self.second(hidden.flatten(0, 1)).unflatten(0, (STEPS, -1))
        rates = fire(self.unit, current, None).mean(dim=0).flatten(1)  # [N, K]
        loss: Tensor = (rates**2).sum() + (rates @ torch.linspace(-1, 1, rates.shape[1])).sin().sum()
        return loss


def products(net: Net, fire: Fire) -> tuple[Tensor, Tensor]:
    """Gradient and Hessian-vector product, over images and weights as one vector."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(5, 2, 9, 9, generator=generator).mul_(3).requires_grad_()
    at = [images, net.first.weight, net.second.weight]
    along = [torch.randn(each.shape, generator=generator) for each in at]
    gradients = torch.autograd.grad(net(images, fire), at, create_graph=True)
    slope = torch.stack([(g * a).sum() for g, a in zip(gradients, along, strict=True)]).sum()
    second = torch.autograd.grad(slope, at, materialize_grads=True)  # zeros for unused parameters
    return tuple(torch.cat([each.detach().flatten() for each in group]) for group in (gradients, second))  # type: ignore[return-value]  # two


def eager(unit: Unit, current: Tensor, affine: Affine | None) -> Tensor:
    return unit.eager(current, affine)


@pytest.mark.parametrize(
    ("pool", "normed", "static"), list(itertools.product((None, "mean", "max"), *[(False, True)] * 2))
)
@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_gradients_and_products_are_those_of_the_eager_path(
    dynamics: str, pool: PoolKind | None, normed: bool, static: bool, native: Native
) -> None:
    net = Net(DYNAMICS[dynamics], pool, normed, static)
    for mine, real in zip(products(net, Fast(native)), products(net, eager), strict=True):
        assert real.abs().max() > 1e-3
        assert (mine - real).abs().max() <= 1e-6 * real.abs().max()


def test_the_kernel_is_asked_for_first_derivatives_alone(native: Native) -> None:
    net, fast = Net(DYNAMICS["lif hard"], "mean", normed=True, static=False), Fast(native)
    loss = net(torch.randn(5, 2, 9, 9), fast)
    torch.autograd.grad(loss, net.first.weight, create_graph=True)
    assert fast.backwards == 0
    torch.autograd.grad(loss, net.first.weight)
    assert fast.backwards == 2


class _WithoutHandingOver(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, current: Tensor, unit: Unit, affine: Affine | None, native: Native) -> Tensor:
        ctx.save_for_backward(current)
        ctx.rest = unit, affine, native
        return native.forward(unit, current, affine)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        unit, affine, native = ctx.rest
        return native.backward(unit, ctx.saved_tensors[0], affine, gradient), None, None, None


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_a_function_that_does_not_hand_over_is_silently_wrong(dynamics: str, native: Native) -> None:
    # The control: the same first derivatives, and a product that is far off, with zeros in place of an error.
    net = Net(DYNAMICS[dynamics], None, normed=False, static=False)
    first, second = products(net, lambda unit, x, affine: _WithoutHandingOver.apply(x, unit, affine, native))
    real_first, real_second = products(net, eager)
    assert (first - real_first).abs().max() <= 1e-5 * real_first.abs().max()
    assert (second - real_second).norm() > 0.1 * real_second.norm()


def test_a_third_derivative_is_that_of_the_eager_path(native: Native) -> None:
    unit = Unit(DYNAMICS["lif hard"], Derivative.atan(2.0), STEPS)
    found = []
    for fire in (Fast(native), eager):
        x = torch.linspace(-1, 2, 12).reshape(STEPS, 2, 2).requires_grad_()
        out = (fire(unit, x, None) ** 2).sum()
        for _ in range(2):
            (slope,) = torch.autograd.grad(out, x, create_graph=True)
            out = (slope**2).sum()
        found.append(torch.autograd.grad(out, x)[0])
    assert found[1].abs().max() > 1e-3
    assert torch.allclose(*found, rtol=1e-5, atol=1e-6)
