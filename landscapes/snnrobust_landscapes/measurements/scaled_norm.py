"""Balls around the weights or an input, in norms that weight coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ScaledNorm:
    """The norm |d / scale|, Euclidean in each row; its ball of a radius is all d with |d / scale| <= radius.

    With a scale of 1 it is the ball of sharpness-aware minimisation (Foret et al. 2021, arXiv 2010.01412); with |theta|
    that of its adaptive version, with the norms of filters that of its filter-wise version (Kwon et al. 2021, arXiv
    2102.11600, section 3). If weights are rescaled so that the net's function does not change, the last two balls
    contain the same functions as before, the first does not.

    Attributes:
        name: The norm in a word.
        scale: The move of each coordinate that has norm 1, >= 0, [P] or [N, D]; coordinates of scale 0 do not move.
    """

    name: str
    scale: Tensor

    def norm(self, offset: Tensor) -> Tensor:
        """|d / scale| for d of the shape of `scale`, with the last axis kept: [1] or [N, 1]."""
        norm: Tensor = torch.where(self.scale > 0, offset / self.scale, 0.0).norm(dim=-1, keepdim=True)
        return norm

    def steepest(self, gradient: Tensor) -> Tensor:
        """The d of norm 1 with the largest gradient . d: scale^2 g / |scale g|; 0 where the gradient is 0.

        Example:
            >>> ScaledNorm("weighted", torch.tensor([1.0, 2.0])).steepest(torch.tensor([3.0, 2.0]))
            tensor([0.6000, 1.6000])
        """
        along = self.scale * gradient
        length: Tensor = torch.linalg.vector_norm(along, dim=-1, keepdim=True)
        return self.scale * along / torch.where(length > 0, length, 1.0)

    def project(self, offset: Tensor, radius: float) -> Tensor:
        """The nearest offset of norm <= radius, in this norm: `offset` itself, or shortened."""
        return offset * (radius / self.norm(offset)).clamp(max=1.0)
