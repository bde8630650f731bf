"""What an operator is: a symmetric or general matrix for each block of a landscape, known by its products."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from snnrobust.common.batching import GIB, out_of_memory
from snnrobust.common.random import Draws
from snnrobust.errors import InputError, PluginError
from snnrobust_landscapes.loss.landscape import Chunk, Landscape, chunked

OPAQUE = "gradients that know nothing of how they came about"


#: Samples whose graph is measured, and bytes beside those that graphs save, as a factor.
TRIAL, BESIDE = 4, 2.0
#: Samples whose graphs are kept at most: memory is not to grow with their number.
MOST = 2048
#: Bytes of a graph whose samples go through the net together, and samples. Of small nets, where the time is that of the
#: calls, more samples cost nothing; of large ones, more leave the processor's caches.
TOGETHER, AT_MOST = 128 * 2**20, 512


class Operator(Protocol):
    """A matrix [size, size] (weights), or one for each sample (inputs), known by its products with vectors.

    Attributes:
        name: The second-order object in words, as records name it.
        landscape: What it is the curvature of.
        symmetric: Whether it is symmetric by construction; an asymmetry index tells whether it truly is.
        products: Products so far, counted per vector.
    """

    name: str
    landscape: Landscape
    symmetric: bool
    products: int

    def apply(self, vectors: Tensor) -> Tensor:
        """Products with rows of `vectors`, float64.

        In weights [B, P] for any B, each row times the one matrix. In inputs [N, D], row n times the matrix of sample
        n.
        """

    def apply_transposed(self, vectors: Tensor) -> Tensor:
        """The same with the transposed matrix; `apply` itself where `symmetric`."""


class Kind(Protocol):
    """An operator by name with its settings, to be built on a landscape: a frozen dataclass."""

    @property
    def name(self) -> str:
        """The second-order object in words."""

    def on(self, landscape: Landscape, memory: float, rng: Draws) -> Operator:
        """The operator of this landscape.

        Args:
            landscape: A loss over weights or inputs.
            memory: GiB that graphs may take to be kept between products; chunks whose graphs don't fit are gone
                through anew at each product.
            rng: For operators that are estimated from draws.

        Raises:
            InputError: If the net does not allow it.
        """


class Graph(Protocol):
    """What is kept of a chunk to multiply with."""

    def product(self, tangents: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """The chunk's share of a product, in the shapes of the landscape's leaves."""

    def transposed(self, tangents: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """The same for the transposed matrix."""


class Chunked(ABC):
    """An operator that is a sum over chunks of samples (weights), or goes chunk by chunk (inputs).

    Products are float64 outside and in the model's dtype inside. Subclasses give `_graph`. Graphs are kept from one
    product to the next where there are few samples and all of them fit into `memory`; else each product builds them
    anew, and never holds two, so that memory does not grow with the number of samples.

    Args:
        landscape: A loss over weights or inputs.
        memory: GiB for kept graphs.
        name: The second-order object in words.
        symmetric: Whether it is symmetric by construction.
        spikes: Makes a context for a forward pass, which sets what stands for a spike.
    """

    def __init__(
        self,
        landscape: Landscape,
        memory: float,
        *,
        name: str,
        symmetric: bool = True,
        spikes: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.landscape = landscape
        self.name = name
        self.symmetric = symmetric
        self.products = 0
        self._spikes = spikes
        self._budget = memory * GIB
        self._keeps = False  # known with the chunks
        self._kept: dict[int, Graph] = {}

    @abstractmethod
    def _graph(self, leaves: Sequence[Tensor], logits: Tensor, chunk: Chunk) -> Graph:
        """What to multiply with, from the logits [n, K] and their graph to `leaves`."""

    def apply(self, vectors: Tensor) -> Tensor:
        """See `Operator.apply`.

        Raises:
            InputError: If the loss is not finite, or does not depend on the weights or inputs.
            PluginError: If the net's backward pass can't be differentiated again, or products are not finite.
        """
        return self._applied(vectors, transposed=False)

    def apply_transposed(self, vectors: Tensor) -> Tensor:
        """See `Operator.apply_transposed`; errors as in `apply`."""
        return self._applied(vectors, transposed=not self.symmetric)

    def _applied(self, vectors: Tensor, transposed: bool) -> Tensor:
        out = torch.zeros_like(vectors)
        for number, chunk in enumerate(self._chunks):
            graph = self._take(number, chunk)
            multiply = graph.transposed if transposed else graph.product
            for rows, tangents in self.landscape.parts(vectors, chunk):
                with torch.enable_grad(), self._differentiating():
                    product = multiply(tangents)
                out[rows] += self.landscape.flatten(product, chunk).to(out)
            del graph, multiply  # before the next one is built
        if not bool(torch.isfinite(out).all()):
            raise PluginError(
                f"expected finite products of the {self.name} of model '{self.landscape.model.name}', got infinity or "
                f"NaN; check the surrogate's derivatives, or use operator='smoothed', which needs none"
            )
        self.products += len(vectors) if self.landscape.blocks == 1 else 1
        return out

    @cached_property
    def _chunks(self) -> Sequence[Chunk]:
        """The samples in chunks as large as graphs of `TOGETHER` bytes allow; at least those of the landscape."""
        landscape, model = self.landscape, self.landscape.model
        own, samples = len(landscape.chunks[0].y), len(landscape.samples)
        key = "bytes of a graph", self.name, landscape.space, landscape.size
        each = model.kept.get(key)
        if each is None:
            few = landscape.take(min(own, TRIAL))
            with _saved() as bytes_saved:
                self._built(few.chunks[0])
            each = BESIDE * bytes_saved() / len(few.samples)
        if model.in_session:
            model.kept[key] = each
        self._keeps = samples <= MOST and each * samples <= self._budget
        # A net that draws from global generators is keyed by its batch.
        fitting = 1 if model.foreign_randomness else int(min(TOGETHER / max(each, 1.0), AT_MOST))
        whole = max(1, fitting // own)
        return chunked(model, landscape.samples, whole * own)

    def _take(self, number: int, chunk: Chunk) -> Graph:
        if not self._keeps:
            return self._built(chunk)
        if number not in self._kept:
            self._kept[number] = self._built(chunk)
        return self._kept[number]

    def _built(self, chunk: Chunk) -> Graph:
        landscape, model = self.landscape, self.landscape.model
        with torch.enable_grad():
            leaves = landscape.leaves(chunk)
            with self._spikes():
                logits = landscape.logits(leaves, chunk)
            if not bool(torch.isfinite(landscape.losses(logits.detach(), chunk)).all()):
                raise InputError(
                    f"expected a finite training loss of model '{model.name}', got infinity or NaN; check weights and "
                    f"data"
                )
            if not logits.requires_grad:
                raise self._without_gradient()
            with self._differentiating():
                graph = self._graph(leaves, logits, chunk)
        model.reset()  # the nodes' state holds the graph
        return graph

    def _require_graph(self, gradients: Sequence[Tensor | None]) -> None:
        """Raises unless gradients in the leaves, as far as there are any, can be differentiated again.

        Weights that the loss does not depend on count as zero. A loss that does not depend on its inputs is an error:
        the net, or its encoder, lets no gradient through.
        """
        there = [each for each in gradients if each is not None]
        if not there and self.landscape.space == "inputs":
            raise self._without_gradient()
        require_graph(there)

    def _without_gradient(self) -> InputError:
        return InputError(
            f"expected a training loss of model '{self.landscape.model.name}' that depends on the "
            f"{self.landscape.space}, got one without a gradient; give the net a surrogate gradient, or use "
            f"operator='smoothed', which needs none"
        )

    @contextmanager
    def _differentiating(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            raise PluginError(
                f"expected a backward pass of model '{self.landscape.model.name}' that can be differentiated again for "
                f"the {self.name}, got: {error}; use neurons of backend 'torch' with a smooth surrogate, or "
                f"operator='smoothed', which needs no gradient"
            ) from error


def pulled_back(
    outputs: Sequence[Tensor | None], inputs: Sequence[Tensor], vectors: Sequence[Tensor], create_graph: bool = False
) -> Sequence[Tensor | None]:
    """Vectors times the Jacobian of `outputs` in `inputs`; the graph is kept.

    Args:
        outputs: Functions of the inputs; those without a graph (None, constants) have no part in it.
        inputs: What to differentiate by.
        vectors: One for each output, of its shape.
        create_graph: Whether the result is to be differentiated again.

    Returns:
        Of the shapes of the inputs; None for those that nothing depends on.
    """
    pairs = [
        (out, vector) for out, vector in zip(outputs, vectors, strict=True) if out is not None and out.requires_grad
    ]
    if not pairs:
        return [None] * len(inputs)
    depending, along = zip(*pairs, strict=True)
    return torch.autograd.grad(
        depending, inputs, along, retain_graph=True, create_graph=create_graph, allow_unused=True
    )


def require_graph(gradients: Sequence[Tensor]) -> None:
    """Raises a `RuntimeError` unless gradients, if there are any, can be differentiated again.

    A backward pass marked `once_differentiable` leaves a node behind that raises when it is reached; but it is on the
    way to nothing, so that `torch.autograd.grad`, which goes where it is sent, drops its terms instead.
    """
    if gradients and not any(each.requires_grad for each in gradients):
        raise RuntimeError(OPAQUE)
    waiting = [each.grad_fn for each in gradients]
    seen: set[object] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node.name() == "torch::autograd::Error":
            raise RuntimeError("a function marked once_differentiable")
        seen.add(node)
        waiting += [source for source, _ in node.next_functions]


@contextmanager
def _saved() -> Iterator[Callable[[], int]]:
    """Counts the bytes of tensors that graphs built inside save for the passes through them."""
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()  # views of one count once; all live as long as the graph
        return tensor.detach()  # a tensor that its own graph saves would hold the graph for ever

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: sum(held.values())
