"""Spiking nodes with hand-written second derivatives, in place of those of a net while graphs are built."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from snnrobust.acceleration.tracing import has_hooks
from snnrobust.common.batching import out_of_memory
from snnrobust.common.random import Draws
from snnrobust.common.session_cache import CacheKey
from snnrobust.errors import InputError, SnnRobustError
from snnrobust.frameworks.adapter import Adapter
from snnrobust.kernels.dynamics import Dynamics
from snnrobust.kernels.twice_differentiable import SurrogateDerivative, twice_differentiable_node
from snnrobust.spike_gradients.patched_module import put_forward
from snnrobust.wrapping.model import SpikingModel
from snnrobust_landscapes.loss.landscape import Landscape
from snnrobust_landscapes.operators.operator import Chunked

#: Makes a context for a forward pass, which sets how spikes and their gradients are computed.
SpikeContext = Callable[[], AbstractContextManager[object]]
#: Samples on which products are compared before nodes are replaced, and their largest relative difference.
COMPARED_SAMPLES, TOLERANCE = 8, 1e-3


def with_fused_nodes(
    landscape: Landscape,
    build: Callable[[Landscape, SpikeContext], Chunked],
    plain: SpikeContext,
    slopes: Mapping[str, SurrogateDerivative],
    *,
    second: bool,
    others: Callable[[set[str]], AbstractContextManager[object]],
) -> SpikeContext:
    """A context with fused nodes in place of `plain`, if products agree with those of `plain` on a few samples.

    Compared once in a session of the model.

    Args:
        landscape: A loss over weights or inputs.
        build: The operator of a landscape and a context.
        plain: The context without fused nodes.
        slopes: Surrogate derivatives by node, of the nodes whose derivative is a known function.
        second: Whether these count as functions of the membrane potential in the second derivative.
        others: The context for the nodes that are not among these names, which are fused.
    """
    model = landscape.model
    nodes = {name: slope for name, slope in slopes.items() if _dynamics(model, name) is not None}
    if not model.accelerate or not nodes:
        return plain

    @contextmanager
    def fused() -> Iterator[None]:
        with others(set(nodes)), _nodes_replaced(model, nodes, second):
            yield

    slopes_by_node = tuple((name, repr(slope)) for name, slope in nodes.items())
    key = CacheKey[bool]("fused nodes agree", (landscape.space, landscape.size, second, slopes_by_node))
    agree = model.cache.get(key, lambda: _products_agree(landscape.take(COMPARED_SAMPLES), build, plain, fused))
    return fused if agree else plain


def _products_agree(
    few: Landscape, build: Callable[[Landscape, SpikeContext], Chunked], plain: SpikeContext, fused: SpikeContext
) -> bool:
    along = Draws(0, "jets").normal(torch.arange(few.blocks), (few.size,)).double().to(few.model.device)
    expected = build(few, plain).apply(along)
    try:
        found = build(few, fused).apply(along)
    except (SnnRobustError, RuntimeError) as error:  # the forward pass may read a node's state, which a fused one lacks
        if out_of_memory(error):
            raise
        return False
    return bool((found - expected).norm() <= TOLERANCE * expected.norm())


def _dynamics(model: SpikingModel, name: str) -> Dynamics | None:
    """The equation of a node that can be fused."""
    adapter: Adapter | None = model.adapter
    node = adapter.nodes(model.net).get(name) if adapter is not None else None
    if (
        adapter is None
        or node is None
        or not adapter.is_multi_step(node)
        or adapter.records_membrane(node)
        or has_hooks(node)
    ):
        return None
    try:
        found = adapter.dynamics(node)
    except InputError:
        return None
    return None if found.lateral is not None or isinstance(found.rate, Tensor) else found


@contextmanager
def _nodes_replaced(model: SpikingModel, nodes: Mapping[str, SurrogateDerivative], second: bool) -> Iterator[None]:
    with ExitStack() as undo:
        for name, slope in nodes.items():
            node, dynamics = model.net.get_submodule(name), _dynamics(model, name)
            if dynamics is not None:
                undo.callback(put_forward, node, vars(node).get("forward"))
                put_forward(node, _SingleCallNode(name, dynamics, slope, second))
        yield


class _SingleCallNode:
    """A node that starts from its reset state and keeps no state for a second call."""

    def __init__(self, name: str, *settings: Any) -> None:
        self._name = name
        self._dynamics, self._slope, self._second = settings
        self._called = False

    def __call__(self, x: Tensor) -> Tensor:
        if self._called:
            raise InputError(f"expected node '{self._name}' to be called once a pass, got more; report this as a bug")
        self._called = True
        return twice_differentiable_node(self._dynamics, x, self._slope, self._second)
