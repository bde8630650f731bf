"""The arctangent surrogate gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from snnrobust.errors import InputError
from snnrobust.kernels.derivative import Derivative


@dataclass(frozen=True)
class ATan:
    """H'(u) ~ alpha / 2 / (1 + (pi alpha u / 2)^2) (Fang et al. 2021, arXiv 2007.05785); nowhere zero.

    Attributes:
        alpha: Sharpness; the peak at u = 0 is alpha / 2.

    Example:
        >>> import torch
        >>> ATan(alpha=2.0).backward(torch.zeros(1), {})
        tensor([1.])
    """

    alpha: float = 2.0

    def __post_init__(self) -> None:
        if not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise InputError(f"expected alpha > 0, got {self.alpha!r}; give a positive sharpness")

    @property
    def derivative(self) -> Derivative:
        """The same function, for the fast kernels."""
        return Derivative.atan(self.alpha)

    def backward(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        """The estimated derivative at u, of the shape of u."""
        return self.derivative(u)
