"""The formal surrogate Hessian, from differentiating the surrogate gradient once more."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust_landscapes.loss.landscape import Chunk, Landscape
from snnrobust_landscapes.operators.fused_nodes import SpikeContext, with_fused_nodes
from snnrobust_landscapes.operators.nodes import surrogate_derivatives
from snnrobust_landscapes.operators.operator import Chunked, Operator, vector_jacobian_product


@dataclass(frozen=True)
class Formal:
    """What double backward computes on the net as it is, as PyHessian does. It is not the Hessian of the loss.

    The first backward pass uses the surrogate derivative sg(u) for each spike; the second one differentiates sg(u), and
    uses it for each spike again. Where the backend keeps all terms the result is symmetric: the Hessian of a net in
    which each spike is H(u) + P(u') - P(u), differentiated by u' with u a constant of the same value, and P an integral
    of sg. That net has the values of the spiking net and the slopes of the smooth one, and the curvature of neither.
    """

    @property
    def name(self) -> str:
        """The second-order object in words."""
        return "formal surrogate Hessian"

    def on(self, landscape: Landscape, memory: float, rng: Draws) -> Operator:
        """The operator of this landscape; exact, no draws."""

        def build(on: Landscape, spikes: SpikeContext) -> Hessian:
            return Hessian(on, memory, name=self.name, spikes=spikes)

        slopes = surrogate_derivatives(landscape.model)
        spikes = with_fused_nodes(landscape, build, nullcontext, slopes, second=True, others=lambda _: nullcontext())
        return build(landscape, spikes)


class Hessian(Chunked):
    """The gradient of the loss, differentiated once more by double backward."""

    def _graph(self, leaves: Sequence[Tensor], logits: Tensor, chunk: Chunk) -> _Gradient:
        found = gradient(self.landscape, leaves, logits, chunk)
        self._require_graph(found)
        return _Gradient(leaves, found)


def gradient(landscape: Landscape, leaves: Sequence[Tensor], logits: Tensor, chunk: Chunk) -> Sequence[Tensor | None]:
    """The gradient of a chunk's loss by `leaves`, with a graph."""
    losses = landscape.losses(logits, chunk)
    return vector_jacobian_product([losses], leaves, [torch.ones_like(losses)], create_graph=True)


class _Gradient:
    """v^T times the derivative of a gradient."""

    def __init__(self, leaves: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        self._leaves = leaves
        self._gradients = gradients

    def product(self, tangents: Sequence[Tensor]) -> Sequence[Tensor | None]:
        return vector_jacobian_product(self._gradients, self._leaves, tangents)

    def transposed(self, tangents: Sequence[Tensor]) -> Sequence[Tensor | None]:
        return self.product(tangents)
