"""NIR graphs inside NIR graphs, as one graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from snnrobust.errors import InputError
from snnrobust.networks.nir.wiring import Edge

ENDS = ("Input", "Output")


def flattened(graph: Any) -> tuple[dict[str, Any], list[Edge]]:
    """The nodes and edges of a NIR graph without graphs inside it.

    Returns:
        Nodes by name, a node of an inner graph as "graph.node", the input as "input" and the output as "output"; and
        the edges.

    Raises:
        InputError: More or less than one input or output, in the graph or one inside it; an edge of no node, or one
            that occurs twice.
    """
    nodes: dict[str, Any] = {}
    edges: list[Edge] = []
    first, last = _add(graph, "", nodes, edges)
    passed = [name for name, node in nodes.items() if type(node).__name__ in ENDS and name not in (first, last)]
    for name in passed:  # the ends of inner graphs
        before, behind = [a for a, b in edges if b == name], [b for a, b in edges if a == name]
        edges = [edge for edge in edges if name not in edge] + [(a, b) for a in before for b in behind]
        del nodes[name]
    if twice := sorted({edge for edge in edges if edges.count(edge) > 1}):
        raise InputError(f"expected each edge of the NIR graph once, got {twice} more often; put a Scale between them")
    names = {first: "input", last: "output"}
    for taken in {"input", "output"} & (set(nodes) - set(names)):
        names[taken] = f"{taken} node"  # a space: no node of a file should be called so
    return (
        {names.get(name, name): node for name, node in nodes.items()},
        [(names.get(a, a), names.get(b, b)) for a, b in edges],
    )


def _add(graph: Any, prefix: str, nodes: dict[str, Any], edges: list[Edge]) -> Edge:
    """Adds the nodes and edges of a graph; returns the names of its input and output."""
    inner: dict[str, Edge] = {}
    for name, node in graph.nodes.items():
        if type(node).__name__ == "NIRGraph":
            inner[name] = _add(node, f"{prefix}{name}.", nodes, edges)
        else:
            nodes[prefix + name] = node
    ends = [prefix + _only(kind, graph.nodes.items(), prefix) for kind in ENDS]
    if strange := sorted({end for edge in graph.edges for end in edge} - set(graph.nodes)):
        raise InputError(
            f"expected edges between nodes of the NIR graph, got {strange}, which are not among {sorted(graph.nodes)}; "
            "correct the names"
        )
    for a, b in graph.edges:
        edges.append((inner[a][1] if a in inner else prefix + a, inner[b][0] if b in inner else prefix + b))
    return ends[0], ends[1]


def _only(kind: str, nodes: Iterable[tuple[str, Any]], prefix: str) -> str:
    found = [name for name, node in nodes if type(node).__name__ == kind]
    if len(found) != 1:
        where = f"the inner NIR graph '{prefix[:-1]}'" if prefix else "the NIR graph"
        raise InputError(f"expected one {kind} in {where}, got {found or 'none'}; give it one")
    return found[0]
