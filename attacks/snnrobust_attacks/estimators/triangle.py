"""The triangular surrogate gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from snnrobust.common.validate import check_positive
from snnrobust.kernels.derivative import Derivative


@dataclass(frozen=True)
class Triangle:
    """H'(u) ~ max(0, gamma - |u|) / gamma^2 (Esser et al. 2016, arXiv 1603.08270).

    Integrates to 1. "PCW" of the ensemble attack of Özdenizci and Legenstein 2024 (arXiv 2311.09266), which takes
    gamma from {0.25, 0.5, 1, 2, 3}.

    Attributes:
        gamma: Half of the width outside which the gradient is 0; the peak is 1 / gamma.

    Example:
        >>> import torch
        >>> Triangle(gamma=2.0).backward(torch.tensor([-3.0, -1.0, 0.0]), {})
        tensor([0.0000, 0.2500, 0.5000])
    """

    gamma: float = 1.0

    def __post_init__(self) -> None:
        check_positive("gamma", self.gamma)

    @property
    def derivative(self) -> Derivative:
        """The same function, for the fast kernels."""
        return Derivative("triangle", self.gamma, self.gamma**2)

    def backward(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        """The estimated derivative at u, of the shape of u."""
        return self.derivative(u)
