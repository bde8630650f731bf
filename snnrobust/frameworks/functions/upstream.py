"""The autograd graph of a net: which Functions are in it, and which parameters a spike depends on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from snnrobust.frameworks.functions.calls import FunctionClass


def functions_in(outputs: Tensor) -> set[FunctionClass]:
    """The classes of all custom Functions in the graph of a tensor."""
    found: set[FunctionClass] = set()
    for node in graph_nodes(outputs):
        function = getattr(type(node), "_forward_cls", None)
        if function is not None and not function.__module__.startswith(("torch.", "snnrobust.")):
            found.add(function)
    return found


def graph_nodes(outputs: Tensor) -> Iterator[Any]:
    """All nodes of an autograd graph."""
    waiting, seen = [outputs.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting += [each for each, _ in node.next_functions]


class Upstream:
    """Which parameters a spike's argument depends on without another spike between: what tells layers apart."""

    def __init__(self, outputs: Tensor) -> None:
        self._nodes = set(graph_nodes(outputs))
        self._found: dict[Any, frozenset[int]] = {}

    def __contains__(self, node: Any) -> bool:
        return node in self._nodes

    def parameters(self, node: Any) -> frozenset[int]:
        """Identities of the leaves that the node of a call reads."""
        return frozenset().union(*(self._leaves(each) for each, _ in node.next_functions if each is not None))

    def _leaves(self, node: Any) -> frozenset[int]:
        """Iterative, since a graph over time is deeper than Python's stack."""
        waiting = [node]
        while waiting:
            here = waiting[-1]
            if here in self._found:
                waiting.pop()
                continue
            if hasattr(here, "variable"):
                self._found[here] = frozenset([id(here.variable)])
                continue
            if getattr(type(here), "_forward_cls", None) is not None:
                self._found[here] = frozenset()
                continue
            behind = [each for each, _ in here.next_functions if each is not None]
            missing = [each for each in behind if each not in self._found]
            if missing:
                waiting += missing
                continue
            self._found[here] = frozenset().union(*(self._found[each] for each in behind))
        return self._found[node]
