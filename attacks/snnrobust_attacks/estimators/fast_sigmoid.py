"""The fast-sigmoid surrogate gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from snnrobust.common.validate import check_positive
from snnrobust.kernels.derivative import Derivative


@dataclass(frozen=True)
class FastSigmoid:
    """H'(u) ~ scale / (1 + alpha |u|)^2, the SuperSpike derivative (Zenke and Ganguli 2018, arXiv 1705.11146).

    There, scale is 1. The integral is 2 scale / alpha, so that scale = alpha / 2 makes it 1: the derivative of
    1/2 + alpha u / (2 (1 + alpha |u|)). Falls off with 1 / u^2, and is nowhere zero.

    Attributes:
        alpha: Sharpness.
        scale: The peak at u = 0.

    Example:
        >>> import torch
        >>> FastSigmoid(alpha=1.0).backward(torch.tensor([-1.0, 0.0]), {})
        tensor([0.2500, 1.0000])
    """

    alpha: float = 10.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_positive("alpha", self.alpha)
        check_positive("scale", self.scale)

    @property
    def derivative(self) -> Derivative:
        """The same function, for the fast kernels."""
        return Derivative("fast-sigmoid", self.alpha, self.scale)

    def backward(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        """The estimated derivative at u, of the shape of u."""
        return self.derivative(u)
