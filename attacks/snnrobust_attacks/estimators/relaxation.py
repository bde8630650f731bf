"""A smooth net in place of the spiking one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from snnrobust.common.validate import check_positive
from snnrobust.errors import InputError

Shape = Literal["sigmoid", "atan"]


@dataclass(frozen=True)
class Relaxed:
    """Each spike H(u) replaced by a smooth step p(u), forward and backward: the true gradient of another, smooth net.

        sigmoid    p(u) = 1 / (1 + exp(-alpha u))
        atan       p(u) = 1/2 + arctan(pi alpha u / 2) / pi

    Unlike a surrogate gradient it is the derivative of the computed function, so it is consistent over layers and
    steps; the two nets agree as alpha grows.

    Attributes:
        shape: Which smooth step.
        alpha: Its sharpness.

    Example:
        >>> Relaxed("atan").primitive(torch.zeros(1), {})
        tensor([0.5000])
    """

    shape: Shape = "sigmoid"
    alpha: float = 4.0

    def __post_init__(self) -> None:
        if self.shape not in get_args(Shape):
            raise InputError(f"expected shape in {list(get_args(Shape))}, got {self.shape!r}; name one of these")
        check_positive("alpha", self.alpha)

    def primitive(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        """The smooth step p(u), of the shape of u."""
        if self.shape == "sigmoid":
            return torch.sigmoid(self.alpha * u)
        return torch.arctan((math.pi / 2 * self.alpha) * u) / math.pi + 0.5
