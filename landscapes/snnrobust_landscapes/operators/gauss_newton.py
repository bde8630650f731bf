"""The Gauss-Newton matrix and the empirical Fisher matrix: J^T A J with per-sample Jacobians J of the logits."""

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
from snnrobust.results.curvature import GAUSS_NEWTON
from snnrobust.spike_gradients.swap import SpikeGradient
from snnrobust_landscapes.loss.landscape import Chunk, Landscape
from snnrobust_landscapes.operators.fused_nodes import SpikeContext, with_fused_nodes
from snnrobust_landscapes.operators.membrane_noise import BlurredSpike, membrane_noise
from snnrobust_landscapes.operators.nodes import OWN_GRADIENTS, ignoring_nodes, surrogate_derivatives
from snnrobust_landscapes.operators.operator import NO_GRAD_FN, Chunked, Operator, vector_jacobian_product

#: A symmetric matrix [K, K] for each sample, times vectors [n, K]; made from softmax p [n, K] and labels y [n].
Middle = Callable[[Tensor, Tensor], Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class GaussNewton:
    """G = 1/N sum_n J_n^T (diag p_n - p_n p_n^T) J_n, with J_n the Jacobian of the scaled logits of sample n.

    The generalised Gauss-Newton matrix of the mean cross entropy (Schraudolph 2002, Neural Computation 14(7)): the
    curvature of the loss of the net linearised at its weights. It is positive semidefinite, and does not use a
    surrogate's second derivative. As the Hessian of -log p_y in the logits is the same for each label y, it is also
    the *true* Fisher matrix, with labels drawn from p.

    The Jacobian uses surrogate derivatives of spikes. A net's own may be far too wide or too narrow for the radius at
    which the loss is measured: on small nets trained with ATan(1) they understate its curvature twentyfold, and nets
    trained with different surrogates can't be compared. A "matched" one is the mean derivative of a spike while the
    weights (or inputs) move at random by `radius`: a Gaussian as wide as the moves of the node's membrane potential
    (`membrane_noise`).

    In inputs there is one block for each sample, J_n^T (diag p_n - p_n p_n^T) J_n.

    Attributes:
        surrogate: "matched", or the net's "own". Nodes whose membrane potentials do not move keep their own.
        radius: Filter-relative radius that the surrogates are matched to.

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
        return f"{GAUSS_NEWTON}, {self.variant}"

    @property
    def variant(self) -> str:
        """Which surrogate derivatives it uses, in words."""
        return "own surrogates" if self.surrogate == "own" else f"spikes blurred by moves of {self.radius:g}"

    def on(self, landscape: Landscape, memory: float, rng: Draws) -> Operator:
        """The operator of this landscape; `rng` draws the moves that surrogates are matched to."""
        blurred = self._blurred(landscape, rng)
        used = self if blurred or self.surrogate == "own" else GaussNewton("own")  # no node to blur
        return _sandwich(landscape, memory, GAUSS_NEWTON, used.variant, softmax_curvature, blurred)

    def spikes(self, landscape: Landscape, rng: Draws) -> SpikeContext:
        """Makes a context in which the nodes use these surrogate derivatives."""
        return _with_surrogates(landscape, self._blurred(landscape, rng))

    def _blurred(self, landscape: Landscape, rng: Draws) -> dict[str, BlurredSpike]:
        """The matched surrogates, of the nodes that do not keep their own."""
        if self.surrogate == "own":
            return {}
        try:
            noise = membrane_noise(landscape, self.radius, rng)
        except InputError as error:  # nodes whose membrane potentials can't be recorded
            if ignoring_nodes(landscape.model):  # no gradient passes these nodes, whatever the operator
                raise
            raise InputError(f"{error}, or {OWN_GRADIENTS}") from error
        return {name: BlurredSpike(deviation) for name, deviation in noise.items()}


@dataclass(frozen=True)
class Fisher:
    """F = 1/N sum_n g_n g_n^T, with g_n = J_n^T (p_n - onehot y_n) the surrogate gradient of sample n's cross entropy.

    The *empirical* Fisher matrix, with the labels of the data. It does not approximate the curvature away from a
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
        return _sandwich(landscape, memory, self.name, "", gradient_square, {})


def _sandwich(
    landscape: Landscape, memory: float, name: str, variant: str, middle: Middle, blurred: Mapping[str, BlurredSpike]
) -> Sandwich:
    """The operator with these surrogates in place of the nodes' own, on fused nodes where possible."""

    def build(on: Landscape, spikes: SpikeContext) -> Sandwich:
        return Sandwich(on, memory, name=name, variant=variant, middle=middle, spikes=spikes)

    slopes = surrogate_derivatives(landscape.model) | {node: each.derivative for node, each in blurred.items()}

    def others(fused: set[str]) -> AbstractContextManager[object]:
        return _with_surrogates(landscape, {node: each for node, each in blurred.items() if node not in fused})()

    plain = _with_surrogates(landscape, blurred)
    return build(landscape, with_fused_nodes(landscape, build, plain, slopes, second=False, others=others))


def _with_surrogates(landscape: Landscape, blurred: Mapping[str, BlurredSpike]) -> SpikeContext:
    """Makes a context in which these nodes use these surrogate derivatives."""
    return (lambda: SpikeGradient(landscape.model, blurred)) if blurred else nullcontext


def softmax_curvature(p: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    """diag p - p p^T, the Hessian of the cross entropy in the logits."""
    return lambda along: p * (along - (p * along).sum(dim=1, keepdim=True))


def gradient_square(p: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    """r r^T with r = p - onehot y, the gradient of the cross entropy in the logits."""
    residual = p - functional.one_hot(y, p.shape[1]).to(p)
    return lambda along: residual * (residual * along).sum(dim=1, keepdim=True)


class Sandwich(Chunked):
    """sum_n J_n^T A_n J_n / N (weights), or J_n^T A_n J_n for each sample (inputs).

    Args:
        landscape: A loss over weights or inputs.
        memory: GiB for kept graphs.
        name: The second-order object in words, without its variant.
        middle: The matrices A_n.
        variant: Distinguishes it from others of that name; may be empty.
        spikes: Makes a context that sets the surrogate derivatives; the net's own where left out.
    """

    def __init__(
        self,
        landscape: Landscape,
        memory: float,
        *,
        name: str,
        middle: Middle,
        variant: str = "",
        spikes: SpikeContext = nullcontext,
    ) -> None:
        super().__init__(landscape, memory, name=name, variant=variant, spikes=spikes)
        self._middle = middle

    def _graph(self, leaves: Sequence[Tensor], logits: Tensor, chunk: Chunk) -> _Jacobian:
        share = 1 / len(self.landscape.samples) if self.landscape.space == "weights" else 1.0
        times = self._middle(functional.softmax(logits.detach(), dim=1), chunk.y)
        graph = _Jacobian(leaves, logits, lambda along: share * times(along))
        self._require_graph(graph.back)
        return graph


class _Jacobian:
    """J^T A J by two backward passes: J v is the derivative in w of (J^T w) v, which is linear in w.

    Backward passes must be differentiable in the incoming gradient; forward-mode differentiation is not needed.
    """

    def __init__(self, leaves: Sequence[Tensor], logits: Tensor, middle: Callable[[Tensor], Tensor]) -> None:
        self._leaves = leaves
        self._logits = logits
        self._middle = middle
        self._w = torch.zeros_like(logits, requires_grad=True)
        self.back = vector_jacobian_product([logits], leaves, [self._w], create_graph=True)  # J^T w

    def product(self, tangents: Sequence[Tensor]) -> Sequence[Tensor | None]:
        (along,) = vector_jacobian_product(self.back, [self._w], tangents)  # J v, [n, K]
        if along is None:
            if any(each is not None for each in self.back):
                raise RuntimeError(NO_GRAD_FN)
            return [None] * len(self._leaves)
        return vector_jacobian_product([self._logits], self._leaves, [self._middle(along)])

    def transposed(self, tangents: Sequence[Tensor]) -> Sequence[Tensor | None]:
        return self.product(tangents)
