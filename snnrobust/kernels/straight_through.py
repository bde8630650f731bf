"""The straight-through estimator as a function of two tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from snnrobust.errors import InputError

__all__ = ["straight_through"]


class StraightThroughFunction(torch.autograd.Function):
    """Forward: `exact`. Backward: the gradient goes to `smooth` unchanged."""

    generate_vmap_rule = True

    @staticmethod
    def forward(smooth: Tensor, exact: Tensor) -> Tensor:
        """A copy of `exact`."""
        return exact.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Nothing is saved."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """The gradient with respect to `smooth`."""
        return grad, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: Tensor | None) -> Tensor:
        """The forward-mode derivative along a tangent of `smooth`."""
        return tangent.clone()


def straight_through(smooth: Tensor, exact: Tensor) -> Tensor:
    """The values of `exact` with the gradient of `smooth` (Bengio et al. 2013, arXiv 1308.3432).

    Raises:
        InputError: If the two differ in shape.

    Example:
        >>> x = torch.tensor([0.2, 1.6], requires_grad=True)
        >>> rounded = straight_through(3 * x, x.round())
        >>> rounded.sum().backward()
        >>> rounded.tolist(), x.grad.tolist()
        ([0.0, 2.0], [3.0, 3.0])
    """
    if smooth.shape != exact.shape:
        raise InputError(
            f"expected smooth and exact values of one shape, got {tuple(smooth.shape)} and {tuple(exact.shape)}; "
            f"expand the smooth ones"
        )
    through: Tensor = StraightThroughFunction.apply(smooth, exact.detach())
    return through


def has_straight_through_gradient(x: Tensor) -> bool:
    """Whether `x` is the direct result of `straight_through` and needs a gradient."""
    return type(x.grad_fn).__name__ == "StraightThroughFunctionBackward"
