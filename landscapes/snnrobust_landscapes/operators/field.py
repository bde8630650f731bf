"""The Jacobian of the surrogate-gradient field: how the gradient used in training changes with the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.errors import InputError
from snnrobust.kernels.derivative import Derivative
from snnrobust.spike_gradients.swap import SpikeGradient
from snnrobust_landscapes.loss.landscape import Chunk, Landscape
from snnrobust_landscapes.operators.hessian import gradient
from snnrobust_landscapes.operators.nodes import spiking_nodes
from snnrobust_landscapes.operators.operator import Chunked, Operator, vector_jacobian_product

Part = Literal["whole", "symmetric"]
#: A step in u that changes a smooth derivative in most entries, and the largest share of entries that jumps explain.
_NEARBY, _JUMPS = 1e-3, 0.1


@dataclass(frozen=True)
class Field:
    """J[i, j] = d g_i / d theta_j, the almost-everywhere derivative of the surrogate gradient g(theta).

    g comes from a backward pass in which each spike has its surrogate derivative sg(u). A small change of theta changes
    the membrane potentials u, and with them sg(u), but no spike: a spike's true derivative is 0 almost everywhere. As g
    is not the gradient of any function, J is not symmetric; its asymmetry measures how far g is from a gradient.

    In inputs there is one block for each sample.

    Attributes:
        part: "whole" is J; "symmetric" is (J + J^T) / 2, whose eigenvalues bound the real parts of J's.

    Raises:
        InputError: For another part.
    """

    part: Part = "whole"

    def __post_init__(self) -> None:
        if self.part not in get_args(Part):
            raise InputError(f"expected part in {list(get_args(Part))}, got {self.part!r}; name one of these")

    @property
    def name(self) -> str:
        """The second-order object in words."""
        whole = "Jacobian of the surrogate-gradient field"
        return whole if self.part == "whole" else f"symmetric part of the {whole}"

    def on(self, landscape: Landscape, memory: float, rng: Draws) -> Operator:
        """The operator of this landscape; exact, no draws.

        Raises:
            InputError: If the net has no spiking nodes of a supported framework.
        """
        return _Jacobians(landscape, memory, name=self.name, symmetric=self.part == "symmetric")


class _Gate:
    """Whether gradients pass spikes: in the pass that gives g, and not in those that differentiate it."""

    def __init__(self) -> None:
        self.open = True

    @contextmanager
    def closed(self) -> Iterator[None]:
        self.open = False
        try:
            yield
        finally:
            self.open = True


class _Gated(torch.autograd.Function):
    """H(u) in the forward pass; grad * derivative(u) in the backward pass while the gate is open, else no gradient."""

    @staticmethod
    def forward(u: Tensor, derivative: Callable[[Tensor], Tensor], gate: _Gate) -> Tensor:
        """Spikes: 1 where u >= 0, else 0."""
        return (u >= 0).to(u)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Callable[[Tensor], Tensor], _Gate], output: Tensor) -> None:
        """Keeps u for the backward pass."""
        u, ctx.derivative, ctx.gate = inputs
        ctx.save_for_backward(u)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None]:
        """Gradient with respect to u; it is differentiable in u through `derivative` and in `grad`."""
        return (grad * ctx.derivative(ctx.saved_tensors[0]) if ctx.gate.open else None), None, None


@dataclass(frozen=True)
class _GatedSpike:
    """A spike with a gate, by the protocol of a `snnrobust.plugin.Relaxation`; its values are the spikes."""

    known: Derivative | None
    gate: _Gate

    def primitive(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        """The spikes of u."""
        spikes: Tensor = _Gated.apply(u, self.known or _slope(state["surrogate"]), self.gate)
        return spikes


def _slope(surrogate: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The derivative from a surrogate's own backward pass, to be differentiated again.

    It raises a `RuntimeError` where that derivative depends on u but has no grad_fn.
    """

    def slope(u: Tensor) -> Tensor:
        found = torch.autograd.grad(surrogate(u).sum(), u, create_graph=True)[0]
        if not found.requires_grad:
            # Correct for a rectangle, whose derivative is constant except at its jumps.
            nearby = (u.detach() + _NEARBY).requires_grad_()
            moved = torch.autograd.grad(surrogate(nearby).sum(), nearby)[0]
            if float((moved != found).double().mean()) > _JUMPS:
                raise RuntimeError("a surrogate derivative without a grad_fn")
        return found

    return slope


class _Jacobians(Chunked):
    def __init__(self, landscape: Landscape, memory: float, *, name: str, symmetric: bool) -> None:
        self._gate = _Gate()
        adapter, nodes = spiking_nodes(landscape.model, name)
        spikes = {each: _GatedSpike(adapter.derivative(node), self._gate) for each, node in nodes.items()}
        context = SpikeGradient(landscape.model.net, spikes)
        super().__init__(landscape, memory, name=name, symmetric=symmetric, spikes=lambda: context)

    def _graph(self, leaves: Sequence[Tensor], logits: Tensor, chunk: Chunk) -> _FieldGraph:
        found = gradient(self.landscape, leaves, logits, chunk)
        self._require_graph(found)
        return _FieldGraph(leaves, found, self._gate, self.symmetric)


class _FieldGraph:
    """J^T v is the derivative of g v; J v that of (J^T w) v in w, which is linear in w."""

    def __init__(
        self, leaves: Sequence[Tensor], gradients: Sequence[Tensor | None], gate: _Gate, symmetric: bool
    ) -> None:
        self._leaves = leaves
        self._gradients = gradients
        self._gate = gate
        self._symmetric = symmetric
        self._w = [torch.zeros_like(leaf, requires_grad=True) for leaf in leaves]
        with gate.closed():
            self._back = vector_jacobian_product(gradients, leaves, self._w, create_graph=True)  # J^T w

    def product(self, tangents: Sequence[Tensor]) -> Sequence[Tensor | None]:
        forwards = vector_jacobian_product(self._back, self._w, tangents)
        if not self._symmetric:
            return forwards
        return [_mean(a, b) for a, b in zip(forwards, self.transposed(tangents), strict=True)]

    def transposed(self, tangents: Sequence[Tensor]) -> Sequence[Tensor | None]:
        with self._gate.closed():
            return vector_jacobian_product(self._gradients, self._leaves, tangents)


def _mean(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Half the sum, where None is zero."""
    there = [each for each in (a, b) if each is not None]
    return sum(there[1:], start=there[0]) / 2 if there else None
