"""The derivative of a logistic function as the surrogate gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snnrobust_attacks.estimators._check import check_positive


@dataclass(frozen=True)
class Sigmoid:
    """H'(u) ~ alpha s (1 - s) with s = 1 / (1 + exp(-alpha u)) (Zenke and Vogels 2021, Neural Computation 33).

    Integrates to 1. For large alpha |u| it underflows to 0: the gradient masking of sharp sigmoids.

    Attributes:
        alpha: Sharpness; the peak at u = 0 is alpha / 4.

    Example:
        >>> Sigmoid(alpha=4.0).backward(torch.zeros(1), {})
        tensor([1.])
    """

    alpha: float = 4.0

    def __post_init__(self) -> None:
        check_positive(alpha=self.alpha)

    def backward(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        """The estimated derivative at u, of the shape of u."""
        s = torch.sigmoid(self.alpha * u)
        # 1 - s would cancel to 0 where s rounds to 1, long before s (1 - s) underflows.
        return self.alpha * s * torch.sigmoid(-self.alpha * u)
