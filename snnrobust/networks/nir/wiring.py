"""The graph of a NIR file in one form: flat, without loops, ordered, and with at most one edge into each node.

nirtorch wires such a graph the same way in all of its versions. In others, which edge of a loop is delayed depends on
the order of nodes in the file, and the bias of a recurrent layer is missing at the first step; for the recurrent net
of the NIR paper this alone costs an accuracy of 0.7 points.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from graphlib import TopologicalSorter

from torch import fx, nn

from snnrobust.errors import InputError

Edge = tuple[str, str]


@dataclass(frozen=True)
class Sum:
    """The sum of two inputs."""


@dataclass(frozen=True)
class Feedback:
    """The output of `source` at the step before.

    Attributes:
        source: The name of a node.
    """

    source: str


@dataclass
class Wiring:
    """A graph of nodes.

    Attributes:
        nodes: NIR nodes, sums and feedback by name, inputs first.
        edges: From node to node.
        shortened: Names of delays that have one step less than in the file, since feedback adds one.
    """

    nodes: dict[str, object]
    edges: list[Edge]
    shortened: set[str] = field(default_factory=set)

    @property
    def loops(self) -> bool:
        """Whether it has to run step by step."""
        return any(isinstance(node, Feedback) for node in self.nodes.values())

    @property
    def is_chain(self) -> bool:
        """Whether each node has one successor and one predecessor, apart from the ends."""
        heads, tails = [a for a, _ in self.edges], [b for _, b in self.edges]
        return len(set(heads)) == len(heads) and len(set(tails)) == len(tails)


def wired(
    nodes: dict[str, object], edges: Iterable[Edge], stateful: Collection[str], delays: Collection[str]
) -> Wiring:
    """Cuts loops, adds sums, orders and names.

    Args:
        nodes: The nodes of a flat graph; one of them is called "input", one "output".
        edges: From node to node.
        stateful: Names of nodes with a membrane potential.
        delays: Names of nodes that delay all of their input by a step at least.

    Raises:
        InputError: A loop without memory, or a node that does not lie between input and output.
    """
    # Edges in a NIR file come in any order; sorted, sums are always rounded in the same way.
    wiring = Wiring(dict(nodes), sorted(edges))
    _drop_unused(wiring)
    _cut_loops(wiring, stateful, delays)
    _add_sums(wiring)
    order = TopologicalSorter({name: _before(wiring.edges, name) for name in sorted(wiring.nodes)}).static_order()
    inner = [name for name in order if name not in ("input", "output")]
    wiring.nodes = {name: wiring.nodes[name] for name in ("input", *inner, "output")}
    return _renamed(wiring)


def _drop_unused(wiring: Wiring) -> None:
    """Leaves out what the output does not depend on."""
    needed = _reachable("output", [(b, a) for a, b in wiring.edges])
    if "input" not in needed:
        raise InputError("expected a path from input to output in the NIR graph, got none; check its edges")
    if lost := sorted(name for name in needed if name != "input" and not _before(wiring.edges, name)):
        raise InputError(f"expected an input for each NIR node, got none for {lost}; add the missing edges")
    wiring.nodes = {name: node for name, node in wiring.nodes.items() if name in needed}
    wiring.edges = [(a, b) for a, b in wiring.edges if a in needed and b in needed]


def _cut_loops(wiring: Wiring, stateful: Collection[str], delays: Collection[str]) -> None:
    """Delays edges until there is no loop.

    A delay in a loop keeps its length: feedback is one of its steps. Else spikes that go back are delayed, from a
    neuron to neurons that are as far from the input or less far; those that go forward are not.
    """
    distance = _distances(wiring.edges, stateful)  # before there are edges of feedback
    for name in sorted(delays):
        if name in wiring.nodes and _in_loop(wiring, name):
            _delay(wiring, name, [b for a, b in wiring.edges if a == name])
            wiring.shortened.add(name)
    back: dict[str, list[str]] = {}
    for source, target in wiring.edges:
        if source in stateful and source in _reachable(target, wiring.edges):
            reached = _next_neurons(target, wiring.edges, stateful)
            if any(distance[each] <= distance[source] and source in _reachable(each, wiring.edges) for each in reached):
                back.setdefault(source, []).append(target)
    for source, targets in back.items():
        _delay(wiring, source, targets)
    if left := sorted(name for name in wiring.nodes if _in_loop(wiring, name)):
        raise InputError(f"expected a neuron or a Delay in each loop of the NIR graph, got only {left}; add one")


def _delay(wiring: Wiring, source: str, targets: Collection[str]) -> None:
    name = f"{source} before"  # a space: no node of a file should be called so
    wiring.nodes[name] = Feedback(source)
    cut = {(source, target) for target in targets}
    kept = [edge for edge in wiring.edges if edge not in cut]
    # The edge from the input is for the number of samples only.
    wiring.edges = sorted([*kept, ("input", name), *((name, target) for target in targets)])


def _distances(edges: Collection[Edge], stateful: Collection[str]) -> dict[str, int]:
    """The least number of neurons on a path from the input to each node, itself included."""
    distance, level, depth = {"input": 0}, {"input"}, 0
    while level:
        # Nodes that are no neurons are as far as what is before them.
        near = set().union(*(_next_nodes(name, edges, stateful) for name in level)) - set(distance)
        level = {name for name in near if name in stateful}
        distance |= {name: depth + (name in stateful) for name in near}
        depth += 1
    return distance


def _next_nodes(start: str, edges: Collection[Edge], stateful: Collection[str]) -> set[str]:
    """The nodes that the output of `start` reaches, neurons where they are met, other nodes passed through."""
    return _reachable(start, [(a, b) for a, b in edges if a == start or a not in stateful])


def _next_neurons(target: str, edges: Collection[Edge], stateful: Collection[str]) -> set[str]:
    """The neurons that an edge to `target` leads to; `target` itself if it is one."""
    return _reachable(target, [(a, b) for a, b in edges if a not in stateful]) & set(stateful)


def _in_loop(wiring: Wiring, name: str) -> bool:
    return any(name in _reachable(b, wiring.edges) for a, b in wiring.edges if a == name)


def _reachable(start: str, edges: Collection[Edge]) -> set[str]:
    """The nodes that a path leads to, `start` included."""
    following: dict[str, list[str]] = {}
    for a, b in edges:
        following.setdefault(a, []).append(b)
    found, new = {start}, [start]
    while new:
        for target in following.get(new.pop(), ()):
            if target not in found:
                found.add(target)
                new.append(target)
    return found


def _before(edges: Collection[Edge], name: str) -> list[str]:
    return [a for a, b in edges if b == name]


def _add_sums(wiring: Wiring) -> None:
    """NIR adds all that enters a node."""
    for name in list(wiring.nodes):
        sources = _before(wiring.edges, name)
        for k in range(1, len(sources)):
            both = f"{name} sum {k}"
            wiring.nodes[both] = Sum()
            gone = {(sources[0], name), (sources[k], name)}
            wiring.edges = [edge for edge in wiring.edges if edge not in gone]
            wiring.edges += [(sources[0], both), (sources[k], both), (both, name)]
            sources[0] = both


def _renamed(wiring: Wiring) -> Wiring:
    """Names that torch takes for modules."""
    taken = {*dir(nn.ModuleDict()), *dir(fx.GraphModule(nn.Module(), fx.Graph())), "state", *keyword.kwlist}
    names: dict[str, str] = {}
    for old in wiring.nodes:
        name = re.sub(r"\W", "_", old) or "node"
        while name in taken:
            name += "_"
        taken.add(name)
        names[old] = name
    nodes = {
        names[old]: Feedback(names[node.source]) if isinstance(node, Feedback) else node
        for old, node in wiring.nodes.items()
    }
    edges = [(names[a], names[b]) for a, b in wiring.edges]
    return Wiring(nodes, edges, {names[old] for old in wiring.shortened})
