"""Objectives that an attack pushes upwards, one value per sample; defined at ties and for silent outputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """True logit minus the best other, [N]: positive when `y` wins outright, zero at a tie.

    Example:
        >>> margin(torch.tensor([[2.0, 0.5, 1.0]]), torch.tensor([0]))
        tensor([1.])
    """
    true = logits.gather(1, y[:, None])
    others = logits.scatter(1, y[:, None], -torch.inf)
    return true[:, 0] - others.amax(dim=1)


@dataclass(frozen=True)
class CrossEntropy:
    """Cross entropy of the logits; finite and differentiable at ties and for silent (all-zero) outputs."""

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """Loss per sample, [N], for logits [N, K] and labels y [N]."""
        return functional.cross_entropy(logits, y, reduction="none")


@dataclass(frozen=True)
class Margin:
    """Best other logit minus the true one (Carlini & Wagner 2017, without the floor).

    At a tie among the other classes the gradient is shared evenly between them, so that no class index is favoured.
    """

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """Loss per sample, [N], for logits [N, K] and labels y [N]."""
        return -margin(logits, y)
