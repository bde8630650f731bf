"""The potential-dependent surrogate gradient, as published and per sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from snnrobust.errors import PluginError


@dataclass(frozen=True)
class PDSG:
    """H'(u) ~ N(u; mean sigma / 2, standard deviation sigma) (Lun et al., CVPR 2025), as in the authors' code.

    sigma is the standard deviation (unbiased) of the node's membrane potentials over all steps so far, the batch and
    space: one number for each channel of [N, C, H, W] and for each feature of [N, *, F]. It is 1
    where that is 0 or undefined (a single number).

    Batch dependent: a sample's gradient depends on the rest of its batch, so outcomes change with the batch size. Use
    `PDSGSample` where that matters. The authors' code takes axis 2 for the channels where H and W differ (tokens of a
    transformer); here channels are always axis 1.

    Attributes:
        batch_dependent: Always true; a field so that it is recorded.

    Example:
        >>> PDSG()
        PDSG(batch_dependent=True)
        >>> PDSG().backward(torch.tensor([[-1.0], [1.0]]), {})  # sigma = sqrt(2)
        tensor([[0.1361],
                [0.2761]])
    """

    batch_dependent: bool = field(default=True, init=False)

    def backward(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        """The estimated derivative at u, of the shape of u."""
        return _density(u, state, _over_batch)


@dataclass(frozen=True)
class PDSGSample:
    """`PDSG` with one sigma per sample, over its steps so far and space. A variant of this package.

    One number for each sample, and each channel of [N, C, H, W]: no sample depends on the rest of its batch.

    Example:
        >>> PDSGSample().backward(torch.tensor([[-1.0, 1.0], [0.0, 0.0]]), {})  # sigma = sqrt(2), 1
        tensor([[0.1361, 0.2761],
                [0.3521, 0.3521]])
    """

    batch_dependent: bool = field(default=False, init=False)

    def backward(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        """The estimated derivative at u, of the shape of u."""
        return _density(u, state, _over_sample)


def _over_batch(ndim: int) -> tuple[int, ...]:
    """Axes of [S, N, *] over which the numbers of a channel or feature lie."""
    return (0, 1, 3, 4) if ndim == 5 else tuple(range(ndim - 1))


def _over_sample(ndim: int) -> tuple[int, ...]:
    """Axes of [S, N, *] over which the numbers of a sample, or of its channel, lie."""
    return (0, 3, 4) if ndim == 5 else (0, *range(2, ndim))


def _density(u: Tensor, state: dict[str, Any], over: Callable[[int], tuple[int, ...]]) -> Tensor:
    axis, calls, call = state.get("axis", 0), state.get("calls", [u.detach()]), state.get("call", 0)
    if axis is None:
        raise PluginError(
            f"expected a node that compares [N, *] or [T, N, *] for a potential-dependent gradient, got shape "
            f"{tuple(u.shape)}; name the other nodes in a mapping"
        )
    steps = [each if axis else each[None] for each in calls[: call + 1]]
    seen = torch.cat(steps)  # [S, N, *], all steps up to the last of this comparison
    own = u if axis else u[None]  # [T', N, *], those compared here
    before = len(seen) - len(own)
    dims = over(seen.ndim)
    sigma = torch.stack([_deviation(seen[: before + t + 1], dims) for t in range(len(own))])  # [T', N or 1, *]
    density = torch.exp(-(((own - sigma / 2) / sigma) ** 2) / 2) / (math.sqrt(2 * math.pi) * sigma)
    return density if axis else density[0]


def _deviation(v: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Standard deviation of v [S, N, *] over `dims`, without the first axis; 1 where it is 0 or undefined."""
    if math.prod(v.shape[dim] for dim in dims) < 2:
        return torch.ones_like(v.sum(dim=dims, keepdim=True)[0])
    sigma = v.std(dim=dims, keepdim=True)[0]
    return torch.where(sigma > 0, sigma, torch.ones_like(sigma))
