"""The formal surrogate Hessian: what differentiating the surrogate gradient once more returns."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust_landscapes.loss.landscape import Chunk, Landscape
from snnrobust_landscapes.operators.jets import Spikes, fused
from snnrobust_landscapes.operators.nodes import own_slopes
from snnrobust_landscapes.operators.operator import Chunked, Operator, pulled_back


@dataclass(frozen=True)
class Formal:
    """What double backward returns on the net as it is, and what PyHessian computes: no derivative of any function.

    The first pass takes a surrogate derivative sg(u) for each spike, the second differentiates sg(u) and takes it for
    each spike again. Where the backend keeps all terms the result is symmetric: the Hessian of a net in which each
    spike is H(u) + P(u') - P(u), u' to be differentiated by, u the same number held fast, and P an integral of sg. Its
    values are those of the spiking net and its slopes those of the smooth one, so that it is neither's curvature.
    """

    @property
    def name(self) -> str:
        """The second-order object in words."""
        return "formal surrogate Hessian"

    def on(self, landscape: Landscape, memory: float, rng: Draws) -> Operator:
        """The operator of this landscape; exact, no draws."""

        def build(on: Landscape, spikes: Spikes) -> Hessian:
            return Hessian(on, memory, name=self.name, spikes=spikes)

        slopes = own_slopes(landscape.model)
        spikes = fused(landscape, build, nullcontext, slopes, second=True, rest=lambda _: nullcontext())
        return build(landscape, spikes)


class Hessian(Chunked):
    """The gradient of the loss, differentiated once more by double backward."""

    def _graph(self, leaves: Sequence[Tensor], logits: Tensor, chunk: Chunk) -> _Gradient:
        found = gradient(self.landscape, leaves, logits, chunk)
        self._require_graph(found)
        return _Gradient(leaves, found)


def gradient(landscape: Landscape, leaves: Sequence[Tensor], logits: Tensor, chunk: Chunk) -> Sequence[Tensor | None]:
    """The gradient of a chunk's loss in `leaves`, with a graph."""
    losses = landscape.losses(logits, chunk)
    return pulled_back([losses], leaves, [torch.ones_like(losses)], create_graph=True)


class _Gradient:
    """v^T times the derivative of a gradient."""

    def __init__(self, leaves: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        self._leaves = leaves
        self._gradients = gradients

    def product(self, tangents: Sequence[Tensor]) -> Sequence[Tensor | None]:
        return pulled_back(self._gradients, self._leaves, tangents)

    def transposed(self, tangents: Sequence[Tensor]) -> Sequence[Tensor | None]:
        return self.product(tangents)
