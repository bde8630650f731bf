"""A spiking node over all steps with its first and second derivative written by hand, for products with Hessians.

What autograd does step by step, in some fifty small operations a step, is here a few operations over all steps at once
and one multiplication and addition a step. With u[t] the membrane potential before firing, s its spike, d = sigma'(u -
threshold) and d2 = sigma'' there, a move of the input current x moves

    u'[t] = k a[t-1] u'[t-1] + g x'[t],      s'[t] = d[t] u'[t],

where k is the leak, g the gain, and a[t] = dv[t] / du[t] what the reset lets through:

    hard reset to r   a = 1 - s + (r - u) d,    da/du = -2 d + (r - u) d2
    soft reset        a = 1 - threshold d,      da/du = -threshold d2
    none              a = 1,                    da/du = 0

without the terms in d and d2 where the reset is detached. The gradient for that of the spikes, y, is x~ = g l with

    l[t] = y[t] d[t] + k a[t] l[t+1],

and the gradient of w . x~ is d u' in y, where u' is the move along w, and g m in x, with

    m[t] = y[t] d2[t] u'[t] + k l[t+1] u'[t] da[t]/du + k a[t] m[t+1].

These are the chain rule of surrogate gradients, spikes having the derivative sigma' and the second derivative sigma''.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snnrobust.kernels.dynamics import Dynamics, multi_step

Slope = Callable[[Tensor], Tensor]


def jet(dynamics: Dynamics, current: Tensor, slope: Slope, second: bool = True) -> Tensor:
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
        >>> (gradient,) = torch.autograd.grad(jet(lif, x, Derivative.atan(2.0)).sum(), x, create_graph=True)
        >>> torch.autograd.grad(gradient.sum(), x)[0].shape
        torch.Size([3, 1])
    """
    spikes: Tensor = _Jet.apply(current, dynamics, slope, second)
    return spikes


class _Moves:
    """What a move of the current does to a node, at a current that is given: each [T, N, *], worked out when needed."""

    def __init__(self, dynamics: Dynamics, u: Tensor, s: Tensor, slope: Slope) -> None:
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
    def carried(self) -> Tensor:
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
    def bend(self) -> Tensor | None:
        """k da/du; None where it is zero."""
        dynamics = self._dynamics
        if dynamics.reset == "none" or dynamics.detach_reset:
            return None
        if dynamics.reset == "soft":
            return -self.leak * dynamics.threshold * self.d2
        return self.leak * ((dynamics.reset_value - self._u) * self.d2 - 2 * self.d)

    def forwards(self, pushed: Tensor) -> Tensor:
        """y[t] = k a[t-1] y[t-1] + pushed[t]."""
        out = [pushed[0]]
        for t in range(1, len(pushed)):
            out.append(torch.addcmul(pushed[t], self.carried[t - 1], out[-1]))
        return torch.stack(out)

    def backwards(self, pushed: Tensor) -> Tensor:
        """y[t] = pushed[t] + k a[t] y[t+1]."""
        out = [pushed[-1]]
        for t in range(len(pushed) - 2, -1, -1):
            out.append(torch.addcmul(pushed[t], self.carried[t], out[-1]))
        return torch.stack(out[::-1])


class _Jet(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, current: Tensor, dynamics: Dynamics, slope: Slope, second: bool) -> Tensor:
        heard: list[Tensor] = []

        def fire(u: Tensor) -> Tensor:
            heard.append(u)
            return (u >= 0).to(u)

        spikes = multi_step(dynamics, current, fire)
        u = torch.stack(heard) + dynamics.threshold
        kept = spikes.clone()  # an output that its own graph holds would hold the graph for ever
        ctx.moves, ctx.second = _Moves(dynamics, u, kept, slope), second
        ctx.save_for_backward(current, u, kept)
        return spikes

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _Gradient.apply(gradient, ctx.saved_tensors[0], ctx.moves, ctx.second), None, None, None


class _Gradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, current: Tensor, moves: _Moves, second: bool) -> Tensor:
        behind = moves.backwards(gradient * moves.d)
        ctx.moves, ctx.second = moves, second
        ctx.save_for_backward(gradient, behind)
        return moves.gain * behind

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, along: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        gradient, behind = ctx.saved_tensors
        moves: _Moves = ctx.moves
        moved = moves.forwards(moves.gain * along)
        to_gradient = moves.d * moved
        if not ctx.second:
            return to_gradient, None, None, None
        pushed = gradient * moves.d2 * moved
        if moves.bend is not None:
            pushed[:-1] += behind[1:] * moved[:-1] * moves.bend[:-1]
        return to_gradient, moves.gain * moves.backwards(pushed), None, None
