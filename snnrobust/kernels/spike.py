"""The spike as a differentiable function: a step forward, any derivative backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


class Spike(torch.autograd.Function):
    """H(u) forward, grad * derivative(u) backward; works under vmap, jvp and double backward.

    The derivative is ordinary torch code, so a second backward differentiates it.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(u: Tensor, derivative: Callable[[Tensor], Tensor]) -> Tensor:
        """Spikes: 1 where u >= 0, else 0."""
        return (u >= 0).to(u)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Callable[[Tensor], Tensor]], output: Tensor) -> None:
        """Keeps u for the backward and the forward-mode derivative."""
        u, ctx.derivative = inputs
        ctx.save_for_backward(u)
        ctx.save_for_forward(u)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Gradient with respect to u."""
        return grad * ctx.derivative(ctx.saved_tensors[0]), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        """Forward-mode derivative along `tangent`."""
        # Torch switches forward mode off in here: a jvp of a jvp would silently lose the derivative's own derivative.
        with forward_ad._set_fwd_grad_enabled(True):
            u = forward_ad.unpack_dual(ctx.saved_tensors[0]).primal  # type: ignore[no-untyped-call]  # torch has no annotations for it
            along: Tensor = tangent * ctx.derivative(u)
        return along


def spike(u: Tensor, derivative: Callable[[Tensor], Tensor]) -> Tensor:
    """Spikes of u = membrane potential minus threshold, with `derivative(u)` as their gradient.

    Example:
        >>> u = torch.tensor([-1.0, 0.5], requires_grad=True)
        >>> spike(u, lambda u: 1 / (1 + u**2)).sum().backward()
        >>> u.grad
        tensor([0.5000, 0.8000])
    """
    spikes: Tensor = Spike.apply(u, derivative)
    return spikes
