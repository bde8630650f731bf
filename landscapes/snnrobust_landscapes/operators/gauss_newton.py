"""The Gauss-Newton matrix and the empirical Fisher matrix: per-sample Jacobians around a small matrix of the loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from snnrobust.common.random import Draws
from snnrobust.errors import InputError
from snnrobust.spike_gradients.swap import SpikeGradient
from snnrobust_landscapes.loss.landscape import Chunk, Landscape
from snnrobust_landscapes.operators.jets import Spikes, fused
from snnrobust_landscapes.operators.membrane_noise import Blurred, membrane_noise
from snnrobust_landscapes.operators.nodes import own_slopes
from snnrobust_landscapes.operators.operator import OPAQUE, Chunked, Operator, pulled_back

#: A symmetric matrix [K, K] for each sample, times vectors [n, K]; made from softmax p [n, K] and labels y [n].
Middle = Callable[[Tensor, Tensor], Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class GaussNewton:
    """G = 1/N sum_n J_n^T (diag p_n - p_n p_n^T) J_n, with J_n the Jacobian of the scaled logits of sample n.

    The generalised Gauss-Newton matrix of the mean cross entropy (Schraudolph 2002, Neural Computation 14(7)): the
    curvature of the loss over a net linearised at its weights. It is positive semidefinite, and knows nothing of a
    surrogate's second derivative. As the Hessian of -log p_y in the logits is the same for each label y, it is the
    *true* Fisher matrix too, that of labels drawn from p.

    The Jacobian passes spikes by surrogate derivatives. A net's own may be far too wide or too narrow for the scale
    at which the loss is looked at: on small nets trained with ATan(1) they understate its curvature twentyfold, and
    nets trained with different surrogates don't compare. "matched" ones are what a spike's derivative is on average
    where the weights (or inputs) move at random by `radius`: a Gaussian as wide as the membrane potential of the node
    then moves (`membrane_noise`).

    In inputs there is one block for each sample, J_n^T (diag p_n - p_n p_n^T) J_n.

    Attributes:
        surrogate: "matched", or the net's "own". Nodes of no known framework, and those whose membranes stay where
            they are, keep their own.
        radius: Filter-relative radius that they are matched to.

    Raises:
        InputError: For another surrogate, or a radius that is not positive.
    """

    surrogate: Literal["matched", "own"] = "matched"
    radius: float = 0.1

    def __post_init__(self) -> None:
        if self.surrogate not in (known := get_args(Literal["matched", "own"])):
            raise InputError(f"expected surrogate in {list(known)}, got {self.surrogate!r}; name one of these")
        if not (self.radius > 0 and math.isfinite(self.radius)):
            raise InputError(f"expected a finite radius > 0, got {self.radius!r}; give a share of a filter's norm")

    @property
    def name(self) -> str:
        """The second-order object in words."""
        of = "own surrogates" if self.surrogate == "own" else f"spikes blurred by moves of {self.radius:g}"
        return f"Gauss-Newton matrix, {of}"

    def on(self, landscape: Landscape, memory: float, rng: Draws) -> Operator:
        """The operator of this landscape; `rng` for the moves that surrogates are matched to."""
        blurred = self._blurred(landscape, rng)
        name = self.name if blurred or self.surrogate == "own" else GaussNewton("own").name  # nothing to blur
        return _sandwich(landscape, memory, name, softmax_curvature, blurred)

    def spikes(self, landscape: Landscape, rng: Draws) -> Spikes:
        """Makes a context in which spikes pass gradients by these surrogates."""
        return _by(landscape, self._blurred(landscape, rng))

    def _blurred(self, landscape: Landscape, rng: Draws) -> dict[str, Blurred]:
        """The surrogates of the nodes that do not keep their own."""
        noise = {} if self.surrogate == "own" else membrane_noise(landscape, self.radius, rng)
        return {name: Blurred(deviation) for name, deviation in noise.items()}


@dataclass(frozen=True)
class Fisher:
    """F = 1/N sum_n g_n g_n^T, with g_n = J_n^T (p_n - onehot y_n) the surrogate gradient of sample n's cross entropy.

    The *empirical* Fisher matrix, with the labels of the data. It is no approximation of the curvature away from a
    well-specified optimum (Kunstner et al. 2019, arXiv 1905.12558); the true Fisher matrix of a softmax is the
    Gauss-Newton matrix.

    In inputs there is one block for each sample, g_n g_n^T, of rank 1.
    """

    @property
    def name(self) -> str:
        """The second-order object in words."""
        return "empirical Fisher matrix"

    def on(self, landscape: Landscape, memory: float, rng: Draws) -> Operator:
        """The operator of this landscape; exact, no draws."""
        return _sandwich(landscape, memory, self.name, gradient_square, {})


def _sandwich(
    landscape: Landscape, memory: float, name: str, middle: Middle, blurred: Mapping[str, Blurred]
) -> Sandwich:
    """The operator with these surrogates in place of the nodes' own, on fused nodes where there are any."""

    def build(on: Landscape, spikes: Spikes) -> Sandwich:
        return Sandwich(on, memory, name=name, middle=middle, spikes=spikes)

    slopes = own_slopes(landscape.model) | {node: each.derivative for node, each in blurred.items()}

    def rest(fast: set[str]) -> AbstractContextManager[object]:
        return _by(landscape, {node: each for node, each in blurred.items() if node not in fast})()

    return build(landscape, fused(landscape, build, _by(landscape, blurred), slopes, second=False, rest=rest))


def _by(landscape: Landscape, blurred: Mapping[str, Blurred]) -> Spikes:
    """Makes a context in which spikes of these nodes pass gradients by these surrogates."""
    net = landscape.model.net
    return (lambda: SpikeGradient(net, blurred)) if blurred else nullcontext


def softmax_curvature(p: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    """diag p - p p^T, the Hessian of the cross entropy in the logits."""
    return lambda along: p * (along - (p * along).sum(dim=1, keepdim=True))


def gradient_square(p: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    """r r^T with r = p - onehot y, the gradient of the cross entropy in the logits."""
    rest = p - functional.one_hot(y, p.shape[1]).to(p)
    return lambda along: rest * (rest * along).sum(dim=1, keepdim=True)


class Sandwich(Chunked):
    """sum_n J_n^T A_n J_n / N (weights), or J_n^T A_n J_n for each sample (inputs).

    Args:
        landscape: A loss over weights or inputs.
        memory: GiB for kept graphs.
        name: The second-order object in words.
        middle: The matrices A_n.
        spikes: Makes a context that sets how spikes pass gradients; the net's own surrogates where left out.
    """

    def __init__(
        self, landscape: Landscape, memory: float, *, name: str, middle: Middle, spikes: Spikes = nullcontext
    ) -> None:
        super().__init__(landscape, memory, name=name, spikes=spikes)
        self._middle = middle

    def _graph(self, leaves: Sequence[Tensor], logits: Tensor, chunk: Chunk) -> _Jacobian:
        share = 1 / len(self.landscape.samples) if self.landscape.space == "weights" else 1.0
        times = self._middle(functional.softmax(logits.detach(), dim=1), chunk.y)
        graph = _Jacobian(leaves, logits, lambda along: share * times(along))
        self._require_graph(graph.back)
        return graph


class _Jacobian:
    """J^T A J by two passes: J v is the derivative in w of (J^T w) v, which is linear in w.

    So backward passes must be differentiable in the gradient that comes in, and forward mode is never asked for.
    """

    def __init__(self, leaves: Sequence[Tensor], logits: Tensor, middle: Callable[[Tensor], Tensor]) -> None:
        self._leaves = leaves
        self._logits = logits
        self._middle = middle
        self._w = torch.zeros_like(logits, requires_grad=True)
        self.back = pulled_back([logits], leaves, [self._w], create_graph=True)  # J^T w

    def product(self, tangents: Sequence[Tensor]) -> Sequence[Tensor | None]:
        (along,) = pulled_back(self.back, [self._w], tangents)  # J v, [n, K]
        if along is None:
            if any(each is not None for each in self.back):
                raise RuntimeError(OPAQUE)
            return [None] * len(self._leaves)
        return pulled_back([self._logits], self._leaves, [self._middle(along)])

    def transposed(self, tangents: Sequence[Tensor]) -> Sequence[Tensor | None]:
        return self.product(tangents)
