"""Objectives of the logits, one value per sample; defined at ties and for all-zero outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """True logit minus the best other, [N]: positive when `y` wins outright, zero at a tie, also one of infinities.

    Example:
        >>> margin(torch.tensor([[2.0, 0.5, 1.0]]), torch.tensor([0]))
        tensor([1.])
    """
    true = logits.gather(1, y[:, None])[:, 0]
    best_other = logits.scatter(1, y[:, None], -torch.inf).amax(dim=1)
    difference = true - best_other
    # Only of infinities: a finite tie has a gradient, which searches follow.
    return torch.where(true.isinf() & (true == best_other), torch.zeros_like(difference), difference)


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


#: Least denominator of the difference-of-logits ratios, as a share of the range of the logits.
FLOOR = 0.1


@dataclass(frozen=True)
class DLR:
    """Difference of logits ratio (Croce & Hein 2020, arXiv 2003.01690), with a denominator that is not 0 at ties.

    -(z_y - max_{i != y} z_i) / d, where d = max(z_(1) - z_(3), 0.1 (z_(1) - z_(K))) with z sorted downwards.

    The original d = z_(1) - z_(3) is exactly zero wherever three classes tie at the top, as those of a rate read-out
    often do. The floor keeps what the ratio is for, a value that neither a shift nor a scale of the logits changes,
    bounds it by 10, and has no effect where z_(3) is further than a tenth of the range below z_(1). Where all
    logits are equal d = 1, and so it is for two classes, whose ratio would be the sign of the margin, without any
    gradient.
    """

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """Loss per sample, [N], for logits [N, K] and labels y [N]."""
        if logits.shape[1] < 3:
            return -margin(logits, y)
        return -margin(logits, y) / _denominator(logits, _ranked(logits, 3))


@dataclass(frozen=True)
class TargetedDLR:
    """Targeted difference of logits ratio (Croce & Hein 2020, arXiv 2003.01690).

    -(z_y - z_t) / d, where d = max(z_(1) - (z_(3) + z_(4)) / 2, 0.1 (z_(1) - z_(K))); for the floor see `DLR`. With
    three classes z_(4) is left out, and with two, or where all logits are equal, d = 1.
    """

    targeted: ClassVar[bool] = True

    def __call__(self, logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
        """Loss per sample, [N], for logits [N, K], labels y [N] and target classes [N]."""
        gap = (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None]))[:, 0]
        classes = logits.shape[1]
        if classes < 3:
            return gap
        third = _ranked(logits, 3)
        return gap / _denominator(logits, third if classes == 3 else (third + _ranked(logits, 4)) / 2)


def _ranked(logits: Tensor, rank: int) -> Tensor:
    """The `rank`-th largest logit, [N], with its gradient shared evenly among classes that tie for it."""
    value = logits.detach().topk(rank, dim=1).values[:, -1:]  # [N, 1]
    tied = logits.detach() == value
    return value[:, 0] + torch.where(tied, logits - value, 0).sum(dim=1) / tied.sum(dim=1)


def _denominator(logits: Tensor, lower: Tensor) -> Tensor:
    """max(z_(1) - lower, 0.1 range), [N]; 1 where the logits are equal, down to what can be divided by."""
    top = logits.amax(dim=1)
    spread = torch.maximum(top - lower, FLOOR * (top - logits.amin(dim=1)))
    return torch.where(spread > torch.finfo(logits.dtype).tiny ** 0.5, spread, 1.0)
