"""The rectangular surrogate gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from snnrobust.common.validate import check_positive
from snnrobust.kernels.derivative import Derivative


@dataclass(frozen=True)
class Rectangle:
    """H'(u) ~ 1 / gamma where |u| < gamma / 2, else 0 (Wu et al. 2018, arXiv 1706.02609).

    Integrates to 1. "RECT" of the ensemble attack of Özdenizci and Legenstein 2024 (arXiv 2311.09266), which takes
    gamma from {0.25, 0.5, 1, 2, 4}.

    Attributes:
        gamma: Width of the window, and 1 / its height.

    Example:
        >>> import torch
        >>> Rectangle(gamma=2.0).backward(torch.tensor([-1.0, -0.9, 0.0]), {})
        tensor([0.0000, 0.5000, 0.5000])
    """

    gamma: float = 1.0

    def __post_init__(self) -> None:
        check_positive("gamma", self.gamma)

    @property
    def derivative(self) -> Derivative:
        """The same function, for the fast kernels."""
        return Derivative("rectangle", self.gamma / 2, 1 / self.gamma)

    def backward(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        """The estimated derivative at u, of the shape of u."""
        return self.derivative(u)
