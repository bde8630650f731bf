"""Spiking nodes with hand-written second derivatives, in place of those of a net while graphs are built."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from snnrobust.acceleration.graph import has_hooks
from snnrobust.common.batching import out_of_memory
from snnrobust.common.random import Draws
from snnrobust.errors import InputError, SnnRobustError
from snnrobust.frameworks.adapter import Adapter
from snnrobust.kernels.dynamics import Dynamics
from snnrobust.kernels.jet import Slope, jet
from snnrobust.spike_gradients.patched_module import put_forward
from snnrobust.wrapping.model import SpikingModel
from snnrobust_landscapes.loss.landscape import Landscape
from snnrobust_landscapes.operators.operator import Chunked

#: Makes a context that sets what stands for a spike.
Spikes = Callable[[], AbstractContextManager[object]]
#: Samples on which products are compared before nodes are replaced, and their largest relative difference.
TRIAL, CLOSE = 8, 1e-3


def fused(
    landscape: Landscape,
    build: Callable[[Landscape, Spikes], Chunked],
    plain: Spikes,
    slopes: Mapping[str, Slope],
    *,
    second: bool,
    rest: Callable[[set[str]], AbstractContextManager[object]],
) -> Spikes:
    """A context with fused nodes in place of `plain`, if products agree with those of `plain` on a few samples.

    Looked at once in a session of the model.

    Args:
        landscape: A loss over weights or inputs.
        build: The operator of a landscape and a context.
        plain: The context without fused nodes.
        slopes: Surrogate derivatives by node, of the nodes whose own or other derivative is a known function.
        second: Whether these count as functions of the membrane potential in the second derivative.
        rest: The context for nodes other than those of these names, which are fused.
    """
    model = landscape.model
    nodes = {name: slope for name, slope in slopes.items() if _dynamics(model, name) is not None}
    if not model.accelerate or not nodes:
        return plain

    @contextmanager
    def within() -> Iterator[None]:
        with rest(set(nodes)), _placed(model, nodes, second):
            yield

    key = "jets", landscape.space, landscape.size, second, tuple((name, repr(slope)) for name, slope in nodes.items())
    if key not in model.kept:
        agrees = _agrees(landscape.take(TRIAL), build, plain, within)
        if not model.in_session:
            return within if agrees else plain
        model.kept[key] = agrees
    return within if model.kept[key] else plain


def _agrees(few: Landscape, build: Callable[[Landscape, Spikes], Chunked], plain: Spikes, within: Spikes) -> bool:
    along = Draws(0, "jets").normal(torch.arange(few.blocks), (few.size,)).double().to(few.model.device)
    expected = build(few, plain).apply(along)
    try:
        found = build(few, within).apply(along)
    except (SnnRobustError, RuntimeError) as error:  # the forward pass may rely on what a node leaves behind
        if out_of_memory(error):
            raise
        return False
    return bool((found - expected).norm() <= CLOSE * expected.norm())


def _dynamics(model: SpikingModel, name: str) -> Dynamics | None:
    """The equation of a node that can be fused."""
    adapter: Adapter | None = model.adapter
    node = model.net.get_submodule(name)
    if adapter is None or not adapter.multi_step(node) or adapter.keeps_voltages(node) or has_hooks(node):
        return None
    try:
        found = adapter.dynamics(node)
    except InputError:
        return None
    return None if found.lateral is not None or isinstance(found.rate, Tensor) else found


@contextmanager
def _placed(model: SpikingModel, nodes: Mapping[str, Slope], second: bool) -> Iterator[None]:
    with ExitStack() as undo:
        for name, slope in nodes.items():
            node, dynamics = model.net.get_submodule(name), _dynamics(model, name)
            if dynamics is not None:
                undo.callback(put_forward, node, vars(node).get("forward"))
                put_forward(node, _Once(name, dynamics, slope, second))
        yield


class _Once:
    """A node from its reset state on; it keeps none for a second call."""

    def __init__(self, name: str, *settings: Any) -> None:
        self._name = name
        self._dynamics, self._slope, self._second = settings
        self._called = False

    def __call__(self, x: Tensor) -> Tensor:
        if self._called:
            raise InputError(f"expected node '{self._name}' to be called once a pass, got more; leave it as it is")
        self._called = True
        return jet(self._dynamics, x, self._slope, self._second)
