"""The exponential surrogate gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from snnrobust.common.validate import check_positive
from snnrobust.kernels.derivative import Derivative


@dataclass(frozen=True)
class Exponential:
    """H'(u) ~ scale exp(-gamma |u|) (Shrestha and Orchard 2018, arXiv 1810.08646).

    In the ensemble attack of Özdenizci and Legenstein 2024 (arXiv 2311.09266), by the authors' code, "EXP" has scale 1
    and "EXP-D" scale 0.3, each with gamma from {0.5, 1, 2}; neither is normalised. The integral is 2 scale / gamma, so
    that scale = gamma / 2 makes it 1.

    Attributes:
        gamma: Steepness.
        scale: The peak at u = 0.

    Example:
        >>> import torch
        >>> Exponential(gamma=2.0, scale=0.3).backward(torch.zeros(1), {})
        tensor([0.3000])
    """

    gamma: float = 1.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_positive("gamma", self.gamma)
        check_positive("scale", self.scale)

    @property
    def derivative(self) -> Derivative:
        """The same function, for the fast kernels."""
        return Derivative("exponential", self.gamma, self.scale)

    def backward(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        """The estimated derivative at u, of the shape of u."""
        return self.derivative(u)
