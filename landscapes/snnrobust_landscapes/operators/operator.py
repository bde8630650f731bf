"""An operator: a symmetric or general matrix for each block of a landscape, defined by its products with vectors."""

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
from snnrobust.common.session_cache import CacheKey
from snnrobust.errors import InputError, PluginError
from snnrobust_landscapes.loss.landscape import Chunk, Landscape, split_into_chunks

NO_GRAD_FN = "gradients without a grad_fn"


#: Samples from which the size of a graph is measured, and a factor for bytes that are not counted.
MEASURED_SAMPLES, OVERHEAD = 4, 2.0
#: Most samples whose graphs are stored, so that memory does not grow with their number.
MAX_STORED_SAMPLES = 2048
#: Most bytes of a chunk's graph, and most samples. In small nets, where function calls take most of the time, more
#: samples cost nothing; in large nets, more samples no longer fit into the processor's caches.
MAX_CHUNK_BYTES, MAX_CHUNK_SAMPLES = 128 * 2**20, 512


class Operator(Protocol):
    """A matrix [size, size] (weights), or one for each sample (inputs), defined by its products with vectors.

    Attributes:
        name: The second-order object in words, as records name it.
        landscape: The loss whose curvature it is.
        symmetric: Whether it is symmetric by construction; an asymmetry index checks it.
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


class OperatorSpec(Protocol):
    """An operator by name with its settings, before it is built on a landscape: a frozen dataclass."""

    @property
    def name(self) -> str:
        """The second-order object in words."""

    def on(self, landscape: Landscape, memory: float, rng: Draws) -> Operator:
        """The operator of this landscape.

        Args:
            landscape: A loss over weights or inputs.
            memory: GiB for graphs that are stored between products; if they don't fit, each product builds them again.
            rng: For operators that are estimated from draws.

        Raises:
            InputError: If the net does not support it.
        """


class Graph(Protocol):
    """The graph of a chunk, for products with vectors."""

    def product(self, tangents: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """The chunk's share of a product, in the shapes of the landscape's leaves."""

    def transposed(self, tangents: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """The same for the transposed matrix."""


class Chunked(ABC):
    """An operator that is a sum over chunks of samples (weights), or is computed chunk by chunk (inputs).

    Products are float64 outside and in the model's dtype inside. Subclasses define `_graph`. Graphs are stored from one
    product to the next if there are few samples and all graphs fit into `memory`; otherwise each product builds them
    again, one at a time, so that memory does not grow with the number of samples.

    Args:
        landscape: A loss over weights or inputs.
        memory: GiB for stored graphs.
        name: The second-order object in words, without its variant.
        variant: Distinguishes it from others of that name; may be empty.
        symmetric: Whether it is symmetric by construction.
        spikes: Makes a context for a forward pass, which sets how spikes and their gradients are computed.
    """

    def __init__(
        self,
        landscape: Landscape,
        memory: float,
        *,
        name: str,
        variant: str = "",
        symmetric: bool = True,
        spikes: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.landscape = landscape
        self.object_name = name
        self.variant = variant
        self.name = f"{name}, {variant}" if variant else name
        self.symmetric = symmetric
        self.products = 0
        self._spikes = spikes
        self._budget = memory * GIB
        self._stores_graphs = False  # set with the chunks
        self._graphs: dict[int, Graph] = {}

    @abstractmethod
    def _graph(self, leaves: Sequence[Tensor], logits: Tensor, chunk: Chunk) -> Graph:
        """The graph for products, from the logits [n, K] and their graph to `leaves`."""

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
            graph = self._graph_of(number, chunk)
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
        """The samples in chunks as large as graphs of `MAX_CHUNK_BYTES` allow; at least those of the landscape."""
        landscape, model = self.landscape, self.landscape.model
        own, samples = len(landscape.chunks[0].y), len(landscape.samples)
        key = CacheKey[float]("bytes of a sample's graph", (self.name, landscape.space, landscape.size))
        each = model.cache.get(key, lambda: self._bytes_per_sample(min(own, MEASURED_SAMPLES)))
        self._stores_graphs = samples <= MAX_STORED_SAMPLES and each * samples <= self._budget
        # The draws of a net that uses global generators depend on the batch.
        fitting = 1 if model.foreign_randomness else int(min(MAX_CHUNK_BYTES / max(each, 1.0), MAX_CHUNK_SAMPLES))
        joined = max(1, fitting // own)
        return split_into_chunks(model, landscape.samples, joined * own)

    def _bytes_per_sample(self, samples: int) -> float:
        """Bytes of the graph of a sample, measured on the graph of the first `samples`."""
        few = self.landscape.take(samples)
        with _saved() as bytes_saved:
            self._built(few.chunks[0])
        return OVERHEAD * bytes_saved() / len(few.samples)

    def _graph_of(self, number: int, chunk: Chunk) -> Graph:
        if not self._stores_graphs:
            return self._built(chunk)
        if number not in self._graphs:
            self._graphs[number] = self._built(chunk)
        return self._graphs[number]

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
        """Raises unless the gradients that exist can be differentiated again.

        The gradient by weights that the loss does not depend on is zero. A loss that does not depend on its inputs is
        an error: no gradient passes the net or its encoder.
        """
        known = [each for each in gradients if each is not None]
        if not known and self.landscape.space == "inputs":
            raise self._without_gradient()
        require_graph(known)

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


def vector_jacobian_product(
    outputs: Sequence[Tensor | None], inputs: Sequence[Tensor], vectors: Sequence[Tensor], create_graph: bool = False
) -> Sequence[Tensor | None]:
    """Vectors times the Jacobian of `outputs` by `inputs`; the graph is retained.

    Args:
        outputs: Functions of the inputs; those without a graph (None, constants) are left out.
        inputs: Tensors to differentiate by.
        vectors: One for each output, of its shape.
        create_graph: Whether the result will be differentiated again.

    Returns:
        Of the shapes of the inputs; None for inputs that no output depends on.
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

    A backward pass marked `once_differentiable` leaves an error node in the graph. `torch.autograd.grad` visits only
    nodes on the way to its inputs, which this one is not: it drops the terms without an error.
    """
    if gradients and not any(each.requires_grad for each in gradients):
        raise RuntimeError(NO_GRAD_FN)
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
    """Counts the bytes of the tensors that graphs built inside save for backward passes."""
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()  # views count once; all live as long as the graph
        return tensor.detach()  # a tensor that its own graph saves would keep the graph alive for ever

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: sum(held.values())
