"""Smooth steps: the integrals of the derivatives of `snnrobust.kernels.derivative`."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from snnrobust.errors import InputError
from snnrobust.kernels.derivative import Derivative, Family
from snnrobust.kernels.spike import spike
from snnrobust.kernels.straight_through import straight_through


def smooth_step(u: Tensor, derivative: Derivative) -> Tensor:
    """P(u) = integral of `derivative` from -infinity to u: the smooth replacement of the spike H(u).

    It starts at 0 and ends at the area under `derivative`, which is 1 for most surrogates; a "fast-sigmoid" has an area
    of 2 b / a. Its gradient is `derivative` itself, so it is right at kinks too, and twice differentiable
    wherever `derivative` is differentiable.

    Args:
        u: Membrane potential minus threshold.
        derivative: The slope.

    Returns:
        P(u), of the shape of u.

    Raises:
        InputError: If the area under `derivative` is infinite.

    Example:
        >>> u = torch.tensor([0.0, 1.0], requires_grad=True)
        >>> p = smooth_step(u, Derivative.atan(2.0))
        >>> p.detach(), torch.autograd.grad(p.sum(), u)[0]
        (tensor([0.5000, 0.9019]), tensor([1.0000, 0.0920]))
    """
    if derivative.family not in _AREAS:
        raise InputError(
            f"expected a derivative with a finite area under it, got {derivative}; use a surrogate such as ATan"
        )
    area = _AREAS[derivative.family](u.detach(), derivative.a, derivative.b)
    return straight_through(spike(u, derivative), area)


def is_relaxable(derivative: Derivative) -> bool:
    """Whether a derivative is continuous, so that its own derivative misses nothing, with a finite area under it."""
    return derivative.family in _AREAS and derivative.family != "rectangle"


def _quadratic(u: Tensor, a: float, b: float) -> Tensor:
    u = u.clamp(-a / b, a / b)
    return a * u - b / 2 * u * u.abs() + a * a / (2 * b)


def _triangle(u: Tensor, a: float, b: float) -> Tensor:
    u = u.clamp(-a, a)
    return (a * u - u * u.abs() / 2 + a * a / 2) / b


def _mirrored(tail: Tensor, u: Tensor, total: float) -> Tensor:
    """The area up to u of an even function, from that beyond |u| on one side."""
    return torch.where(u >= 0, total - tail, tail)


# The area from -infinity to u.
_AREAS: dict[Family, Callable[[Tensor, float, float], Tensor]] = {
    "atan": lambda u, a, b: b / a * (torch.atan(a * u) + math.pi / 2),
    "sigmoid": lambda u, a, b: b / a * torch.sigmoid(a * u),
    "sigmoid-tails": lambda u, a, b: b / a * torch.sigmoid(a * u),
    "quadratic": _quadratic,
    "triangle": _triangle,
    "exponential": lambda u, a, b: _mirrored(b / a * torch.exp(-a * u.abs()), u, 2 * b / a),
    "soft-sign": lambda u, a, b: _mirrored(1 / (b * (a + u.abs())), u, 2 / (a * b)),
    "fast-sigmoid": lambda u, a, b: _mirrored(b / (a * (1 + a * u.abs())), u, 2 * b / a),
    "gaussian": lambda u, a, b: b * math.sqrt(math.pi) / (2 * a) * torch.erfc(-a * u),
    "rectangle": lambda u, a, b: b * (u.clamp(-a, a) + a),
}
