"""Surrogate derivatives of a spike, as values: the families that the fast kernels support."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = ["Derivative"]

Family = Literal[
    "atan",
    "sigmoid",
    "sigmoid-tails",
    "quadratic",
    "triangle",
    "exponential",
    "soft-sign",
    "fast-sigmoid",
    "gaussian",
    "rectangle",
    "leaky-rectangle",
    "step",
    "reciprocal",
    "log-tailed",
    "sigmoid-reciprocal",
]
#: In the order of the native kernel's enumeration.
FAMILIES: tuple[Family, ...] = get_args(Family)


@dataclass(frozen=True)
class Derivative:
    """An estimated derivative of H(u) at u = membrane potential minus threshold; callable on tensors.

    A family and two parameters; all kernels compute it in the same order of operations:

        atan            b / (1 + (a u)^2)
        sigmoid         (1 - s) s b             with s = 1 / (1 + exp(-a u)): 0 where s rounds to 1
        sigmoid-tails   b s(a u) s(-a u)        the same function, down to where it underflows
        quadratic       max(0, a - b |u|)
        triangle        max(0, a - |u|) / b
        exponential     b exp(-a |u|)
        soft-sign       1 / (b z^2)             with z = a + |u|
        fast-sigmoid    b / (1 + a |u|)^2
        gaussian        b exp(-(a u)^2)
        rectangle       b where |u| < a, else 0

    and, with an infinite area under it:

        leaky-rectangle     1 / (2 a) where |u| < a, else b
        step                b where u >= 0, else a
        reciprocal          b / (a + |u|)
        log-tailed          b / max(1, u) where u > 0, else a
        sigmoid-reciprocal  b / (1 + u) where u >= 0, else a s (1 - s) with s as above

    Example:
        >>> Derivative.atan(2.0)(torch.zeros(1))
        tensor([1.])
    """

    family: Family
    a: float
    b: float

    @classmethod
    def atan(cls, alpha: float) -> Derivative:
        """alpha / 2 / (1 + (pi alpha u / 2)^2)."""
        return cls("atan", math.pi / 2 * alpha, alpha / 2)

    def __call__(self, u: Tensor) -> Tensor:
        """The derivative at u, of the shape of u; twice differentiable torch code."""
        return _CODE[self.family](u, self.a, self.b)


def _sigmoid(u: Tensor, a: float, b: float) -> Tensor:
    s = torch.sigmoid(a * u)
    return (1 - s) * s * b


def _atan(u: Tensor, a: float, b: float) -> Tensor:
    z = u * a
    return b / (1 + z * z)


def _soft_sign(u: Tensor, a: float, b: float) -> Tensor:
    z = a + u.abs()
    return 1 / (b * z * z)


def _fast_sigmoid(u: Tensor, a: float, b: float) -> Tensor:
    z = 1 + a * u.abs()
    return b / (z * z)


def _gaussian(u: Tensor, a: float, b: float) -> Tensor:
    z = a * u
    return b * torch.exp(-z * z)


def _sigmoid_reciprocal(u: Tensor, a: float, b: float) -> Tensor:
    s = torch.sigmoid(a * u)
    return torch.where(u < 0, a * s * (1 - s), b / (u.clamp(min=0) + 1))  # a pole at -1 would reach its derivative


_CODE: dict[Family, Callable[[Tensor, float, float], Tensor]] = {
    "atan": _atan,
    "sigmoid": _sigmoid,
    "sigmoid-tails": lambda u, a, b: b * torch.sigmoid(a * u) * torch.sigmoid(-a * u),
    "quadratic": lambda u, a, b: (a - b * u.abs()).clamp(min=0),
    "triangle": lambda u, a, b: (a - u.abs()).clamp(min=0) / b,
    "exponential": lambda u, a, b: b * torch.exp(-a * u.abs()),
    "soft-sign": _soft_sign,
    "fast-sigmoid": _fast_sigmoid,
    "gaussian": _gaussian,
    "rectangle": lambda u, a, b: b * (u.abs() < a).to(u),
    "leaky-rectangle": lambda u, a, b: torch.where(u.abs() < a, torch.full_like(u, 1 / (2 * a)), torch.full_like(u, b)),
    "step": lambda u, a, b: torch.where(u >= 0, torch.full_like(u, b), torch.full_like(u, a)),
    "reciprocal": lambda u, a, b: b / (a + u.abs()),
    "log-tailed": lambda u, a, b: torch.where(u <= 0, torch.full_like(u, a), b / u.clamp(min=1)),
    "sigmoid-reciprocal": _sigmoid_reciprocal,
}
