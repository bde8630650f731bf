"""The derivative of a logistic function as the surrogate gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from snnrobust.common.validate import check_positive
from snnrobust.kernels.derivative import Derivative


@dataclass(frozen=True)
class Sigmoid:
    """H'(u) ~ alpha s (1 - s) with s = 1 / (1 + exp(-alpha u)) (Zenke and Vogels 2021, Neural Computation 33).

    Integrates to 1. For large alpha |u| it underflows to 0: the gradient masking of sharp sigmoids.

    Attributes:
        alpha: Sharpness; the peak at u = 0 is alpha / 4.

    Example:
        >>> import torch
        >>> Sigmoid(alpha=4.0).backward(torch.zeros(1), {})
        tensor([1.])
    """

    alpha: float = 4.0

    def __post_init__(self) -> None:
        check_positive("alpha", self.alpha)

    @property
    def derivative(self) -> Derivative:
        """The same function, for the fast kernels."""
        return Derivative("sigmoid-tails", self.alpha, self.alpha)

    def backward(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        """The estimated derivative at u, of the shape of u."""
        return self.derivative(u)
