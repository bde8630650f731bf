"""A spiking node over all steps with hand-written first and second derivatives, for Hessian-vector products.

Autograd takes some fifty small operations a step. Here there are a few operations over all steps at once, and one
multiplication and addition a step. With u[t] the membrane potential before the reset, s its spike, d = sigma'(u -
threshold) and d2 = sigma'' there, a tangent x' of the input current x gives the tangents

    u'[t] = k a[t-1] u'[t-1] + g x'[t],      s'[t] = d[t] u'[t],

where k is the leak, g the gain, and a[t] = dv[t] / du[t] the derivative of the reset:

    hard reset to r   a = 1 - s + (r - u) d,    da/du = -2 d + (r - u) d2
    soft reset        a = 1 - threshold d,      da/du = -threshold d2
    none              a = 1,                    da/du = 0

without the terms in d and d2 where the reset is detached. The gradient for that of the spikes, y, is x~ = g l with

    l[t] = y[t] d[t] + k a[t] l[t+1],

and the gradient of w . x~ is d u' by y, where u' is the tangent for x' = w, and g m by x, with

    m[t] = y[t] d2[t] u'[t] + k l[t+1] u'[t] da[t]/du + k a[t] m[t+1].

This is the chain rule with surrogates: spikes have the derivative sigma' and the second derivative sigma''.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snnrobust.kernels.dynamics import Dynamics, multi_step

SurrogateDerivative = Callable[[Tensor], Tensor]


def twice_differentiable_node(
    dynamics: Dynamics, current: Tensor, slope: SurrogateDerivative, second: bool = True
) -> Tensor:
    """Spikes over time [T, N, *], as of `multi_step`; their gradient can be differentiated once more.

    Args:
        dynamics: The neuron model, without a lateral input and with a leak that is a number.
        current: Input current [T, N, *].
        slope: sigma', a differentiable function of u = membrane potential minus threshold.
        second: Whether sigma' counts as a function of u in the second derivative; else as a constant.

    Example:
        >>> from snnrobust.kernels.derivative import Derivative
        >>> lif = Dynamics("keep", 0.5, threshold=1.0, reset="hard")
        >>> x = torch.full((3, 1), 0.9, requires_grad=True)
        >>> spikes = twice_differentiable_node(lif, x, Derivative.atan(2.0))
        >>> (gradient,) = torch.autograd.grad(spikes.sum(), x, create_graph=True)
        >>> torch.autograd.grad(gradient.sum(), x)[0].shape
        torch.Size([3, 1])
    """
    spikes: Tensor = _Node.apply(current, dynamics, slope, second)
    return spikes


class _LinearisedNode:
    """The linearised node at a given current: its coefficients, each [T, N, *], computed when needed."""

    def __init__(self, dynamics: Dynamics, u: Tensor, s: Tensor, slope: SurrogateDerivative) -> None:
        self.leak, self.gain = dynamics.leak, dynamics.gain
        self._dynamics = dynamics
        self._u = u
        self._s = s
        self._slope = slope

    @cached_property
    def d(self) -> Tensor:
        """sigma'."""
        return self._slope(self._u - self._dynamics.threshold).detach()

    @cached_property
    def d2(self) -> Tensor:
        """sigma''."""
        with torch.enable_grad():
            at = (self._u - self._dynamics.threshold).requires_grad_()
            (found,) = torch.autograd.grad(self._slope(at).sum(), at)
        return found

    @cached_property
    def carry(self) -> Tensor:
        """k a."""
        dynamics, through = self._dynamics, torch.ones_like(self._u)
        if dynamics.reset == "hard":
            through = 1 - self._s
            if not dynamics.detach_reset:
                through += (dynamics.reset_value - self._u) * self.d
        elif dynamics.reset == "soft" and not dynamics.detach_reset:
            through -= dynamics.threshold * self.d
        return self.leak * through

    @cached_property
    def carry_derivative(self) -> Tensor | None:
        """k da/du; None where it is zero."""
        dynamics = self._dynamics
        if dynamics.reset == "none" or dynamics.detach_reset:
            return None
        if dynamics.reset == "soft":
            return -self.leak * dynamics.threshold * self.d2
        return self.leak * ((dynamics.reset_value - self._u) * self.d2 - 2 * self.d)

    def forwards(self, source: Tensor) -> Tensor:
        """y[t] = k a[t-1] y[t-1] + source[t]."""
        out = [source[0]]
        for t in range(1, len(source)):
            out.append(torch.addcmul(source[t], self.carry[t - 1], out[-1]))
        return torch.stack(out)

    def backwards(self, source: Tensor) -> Tensor:
        """y[t] = source[t] + k a[t] y[t+1]."""
        out = [source[-1]]
        for t in range(len(source) - 2, -1, -1):
            out.append(torch.addcmul(source[t], self.carry[t], out[-1]))
        return torch.stack(out[::-1])


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, current: Tensor, dynamics: Dynamics, slope: SurrogateDerivative, second: bool) -> Tensor:
        potentials: list[Tensor] = []

        def fire(u: Tensor) -> Tensor:
            potentials.append(u)
            return (u >= 0).to(u)

        spikes = multi_step(dynamics, current, fire)
        u = torch.stack(potentials) + dynamics.threshold
        saved = spikes.clone()  # an output that its own graph saves would keep the graph alive for ever
        ctx.linear, ctx.second = _LinearisedNode(dynamics, u, saved, slope), second
        ctx.save_for_backward(current, u, saved)
        return spikes

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _Gradient.apply(gradient, ctx.saved_tensors[0], ctx.linear, ctx.second), None, None, None


class _Gradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, current: Tensor, linear: _LinearisedNode, second: bool) -> Tensor:
        adjoint = linear.backwards(gradient * linear.d)
        ctx.linear, ctx.second = linear, second
        ctx.save_for_backward(gradient, adjoint)
        return linear.gain * adjoint

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, along: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        gradient, adjoint = ctx.saved_tensors
        linear: _LinearisedNode = ctx.linear
        tangent = linear.forwards(linear.gain * along)
        to_gradient = linear.d * tangent
        if not ctx.second:
            return to_gradient, None, None, None
        source = gradient * linear.d2 * tangent
        if linear.carry_derivative is not None:
            source[:-1] += adjoint[1:] * tangent[:-1] * linear.carry_derivative[:-1]
        return to_gradient, linear.gain * linear.backwards(source), None, None
