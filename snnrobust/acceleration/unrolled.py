"""A Python loop over time in a net's own forward pass, T times the same layers in its graph, as one call of each.

    for t in range(T):
        out = out + lif(linear(x[t]))

The T inputs of a single-step node are merged into one tensor [T N, *], as far back as the steps are alike: T calls of a
layer become one on all steps of all samples. What is the same at each step is computed for one, [N, *]. The node's
outputs are taken apart again for what reads them step by step.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import torch
from torch import fx, nn

from snnrobust.acceleration.graph_reading import (
    described_step,
    dimension,
    from_input,
    is_per_sample,
    reads_size,
    step_index,
)
from snnrobust.acceleration.loop_steps import SUMS, joined_steps, repeated_steps, reshaped_rows, steps_of
from snnrobust.acceleration.node import FastNode
from snnrobust.acceleration.tracing import has_hooks, repetition, trains
from snnrobust.frameworks.adapter import Adapter


class NotMerged(Exception):
    """The steps of a loop can't be merged; the message has the reason.

    Args:
        reason: The reason; empty where no node is called in a loop.
        module: The name of the layer that it is about, if it is about one.
    """

    def __init__(self, reason: str, module: str = "") -> None:
        super().__init__(reason)
        self.module = module


@dataclass(frozen=True)
class _Value:
    """T values, one a step, as one argument.

    Attributes:
        value: A step of the graph, a constant, or a list or tuple of values.
        of: "all": all steps of all samples, [T N, *]; "one": the same at each step, [N, *]; "number": the same at each
            step, without an axis of samples.
    """

    value: Any
    of: Literal["all", "one", "number"]


def merge_loop(
    graph: fx.Graph,
    modules: Mapping[str, nn.Module],
    adapter: Adapter,
    fast: Mapping[str, FastNode],
    *,
    static_axis: int | None,
) -> int:
    """Merges the steps of an unrolled loop, in place.

    Args:
        graph: The forward pass.
        modules: The net's modules by name.
        adapter: Its framework.
        fast: The replacement of each single-step node, by the node's name.
        static_axis: The time axis of the input, if that is the same at each step.

    Returns:
        T.

    Raises:
        NotMerged: If the steps differ, or depend on each other.
    """
    calls: dict[str, list[fx.Node]] = defaultdict(list)
    for node in graph.nodes:
        if node.op == "call_module":
            calls[str(node.target)].append(node)
    nodes = {name: each for name, each in calls.items() if name in fast}
    for name, each in nodes.items():
        _check_feedforward(name, each)
    counts = {name: len(each) for name, each in nodes.items()}
    if not counts or max(counts.values()) == 1:
        raise NotMerged("")
    if len(set(counts.values())) > 1:
        raise NotMerged(f"its nodes are called {counts} times a pass, in a loop they are called equally often")
    loop = _Loop(graph, modules, adapter, max(counts.values()), static_axis)
    for name, each in nodes.items():  # in the order of their first calls
        loop.place(name, fast[name], each)
    loop.clean()
    left = set(graph.nodes)
    for name, each in calls.items():
        if name not in nodes and len(each) == loop.steps and left.issuperset(each):
            loop.place_layer(each)
    loop.add_in_order()
    loop.clean()
    return loop.steps


def _check_feedforward(name: str, calls: Sequence[fx.Node]) -> None:
    """Refuses a node that is fed with what it computed in an earlier call."""
    later, waiting, seen = set(calls[1:]), [calls[0]], {calls[0]}
    while waiting:
        for user in waiting.pop().users:
            if user in later:
                raise NotMerged(
                    f"node '{name}' depends on its own earlier spikes: its loop is recurrent, or calls it at two places"
                )
            if user not in seen:
                seen.add(user)
                waiting.append(user)


class _Loop:
    def __init__(
        self,
        graph: fx.Graph,
        modules: Mapping[str, nn.Module],
        adapter: Adapter,
        steps: int,
        static_axis: int | None,
    ) -> None:
        self.steps = steps
        self._graph = graph
        self._modules = modules
        self._adapter = adapter
        self._static_axis = static_axis
        self._found: dict[tuple[fx.Node, ...], _Value] = {}
        self._replaced: set[fx.Node] = set()
        self._made: set[fx.Node] = set()
        self._repeated: dict[fx.Node, fx.Node] = {}
        self._outputs: dict[fx.Node, tuple[fx.Node, int]] = {}  # a step's output -> all steps, and which it is

    def place(self, name: str, fast: FastNode, calls: Sequence[fx.Node]) -> None:
        """Puts one call of a fast node in the place of T calls of a node."""
        if any(len(call.args) != 1 or call.kwargs for call in calls):
            raise NotMerged(f"node '{name}' has other arguments than its input")
        current = self._argument([call.args[0] for call in calls], calls)
        if current.of == "number":
            raise NotMerged(f"the input of node '{name}' does not depend on that of the net")
        fast.loop = self.steps
        fast.steps = self.steps if current.of == "one" else None
        with self._graph.inserting_before(calls[0]):
            whole = self._graph.call_module(name, (current.value,))
        self._take_apart(whole, calls)

    def place_layer(self, calls: Sequence[fx.Node]) -> None:
        """Puts one call of a layer behind the last node in the place of T, if its steps are alike."""
        try:
            found = self._merged(tuple(calls))
        except NotMerged:
            return
        if found.of == "all":
            self._take_apart(found.value, calls)

    def add_in_order(self) -> None:
        """Adds up stacked steps one by one: the rounding of a sum over one axis depends on the sizes of the others."""
        for node in list(self._graph.nodes):
            stack = node.args[0] if node.args else None
            if not isinstance(stack, fx.Node) or stack.target is not torch.stack or node.target not in SUMS:
                continue
            along, axis = dimension(node), dimension(stack)
            if along == (0 if axis is None else axis) and set(node.kwargs) <= {"dim"} and len(node.args) <= 2:
                with self._graph.inserting_before(node):
                    total = self._graph.call_function(SUMS[node.target], (stack.args[0],))
                node.replace_all_uses_with(total)
                self._replaced.update((node, stack))

    def clean(self) -> None:
        """Removes what has been replaced and is read by nothing."""
        for node in reversed(list(self._graph.nodes)):
            reads = node.target in (operator.getitem, getattr, "size")
            if not node.users and (reads or node in self._replaced or node in self._made):
                self._graph.erase_node(node)

    def _take_apart(self, whole: fx.Node, calls: Sequence[fx.Node]) -> None:
        with self._graph.inserting_after(whole):
            parts = self._graph.call_function(steps_of, (whole, self.steps))
        self._made.add(parts)
        with self._graph.inserting_before(calls[0]):
            for t, call in enumerate(calls):
                part = self._graph.call_function(operator.getitem, (parts, t))
                self._outputs[part] = whole, t
                call.replace_all_uses_with(part)
        for call in reversed(calls):
            self._graph.erase_node(call)

    def _argument(self, values: Sequence[Any], calls: Sequence[fx.Node]) -> _Value:
        """T arguments of T `calls` as one."""
        first = values[0]
        if all(isinstance(each, fx.Node) for each in values):
            return self._merged(tuple(values))
        for t, each in enumerate(values):
            if type(each) is not type(first):
                self._differ(calls, t)
        if isinstance(first, tuple | list):
            for t, each in enumerate(values):
                if len(each) != len(first):
                    self._differ(calls, t)
            parts = [self._argument(each, calls) for each in zip(*values, strict=True)]
            return _Value(type(first)(parts), _together(parts))
        for t, each in enumerate(values):
            if each != first:
                self._differ(calls, t)
        return _Value(first, "number")

    def _plain(self, value: _Value, *, spread: bool) -> Any:
        """An argument as the graph has it; with `spread`, what is the same at each step is repeated."""
        if isinstance(value.value, tuple | list):
            return type(value.value)(self._plain(each, spread=spread) for each in value.value)
        return self._repeat(value.value) if spread and value.of == "one" else value.value

    def _repeat(self, one: fx.Node) -> fx.Node:
        """[N, *] as [T N, *]."""
        if one not in self._repeated:
            with self._graph.inserting_after(one):
                self._repeated[one] = self._graph.call_function(repeated_steps, (one, self.steps))
            self._made.add(self._repeated[one])
        return self._repeated[one]

    def _merged(self, calls: tuple[fx.Node, ...]) -> _Value:
        """What T steps of the graph compute, as one."""
        if calls not in self._found:
            self._found[calls] = self._merge(calls)
            self._replaced.update(calls)
        return self._found[calls]

    def _merge(self, calls: tuple[fx.Node, ...]) -> _Value:
        first = calls[0]
        if all(each is first for each in calls):
            return _Value(first, "one" if from_input(first) else "number")
        if all(each in self._outputs for each in calls):
            whole = self._outputs[first][0]
            for t, each in enumerate(calls):
                if self._outputs[each] != (whole, t):
                    raise NotMerged(f"the steps of its loop differ: step {t} reads another step's spikes")
            return _Value(whole, "all")
        for t, each in enumerate(calls):
            if (each.op, each.target) != (first.op, first.target) or each in self._outputs:
                self._differ(calls, t)
        if first.op == "get_attr":
            return _Value(first, "number")
        if (sequence := self._sequence(calls)) is not None:
            return sequence
        if first.target in ("view", "reshape"):
            return self._reshaped(calls)
        self._check(first)
        keys = list(first.kwargs)
        for t, each in enumerate(calls):
            if list(each.kwargs) != keys or len(each.args) != len(first.args):
                self._differ(calls, t)
        parts = [self._argument(each, calls) for each in zip(*(call.args for call in calls), strict=True)]
        named = {key: self._argument([call.kwargs[key] for call in calls], calls) for key in keys}
        if (of := _together([*parts, *named.values()])) != "all":
            return _Value(first, of)
        args = tuple(self._plain(each, spread=True) for each in parts)
        kwargs = {key: self._plain(each, spread=True) for key, each in named.items()}
        return self._all(first, first.op, first.target, args, kwargs)

    def _all(
        self, before: fx.Node, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> _Value:
        """A further step of the graph, on all steps of the loop."""
        with self._graph.inserting_before(before):
            made = self._graph.create_node(op, target, args, kwargs or {})
        self._made.add(made)
        return _Value(made, "all")

    def _check(self, node: fx.Node) -> None:
        """Refuses what keeps state, or is not known to treat each sample by itself."""
        if node.op == "call_module":
            module = self._modules[str(node.target)]
            named = f"'{node.target}' ({type(module).__name__})"
            if not self._adapter.is_stateless(module):
                raise NotMerged(f"{named} keeps its state from step to step, or is not known not to", str(node.target))
            if has_hooks(module):
                raise NotMerged(f"{named} has hooks, which are called at each step")
            if trains(module):
                raise NotMerged(f"{named} is in train mode")
            return
        if not is_per_sample(node):
            raise NotMerged(f"{described_step(node)} in its loop is not known to treat each sample by itself")

    def _sequence(self, calls: tuple[fx.Node, ...]) -> _Value | None:
        """The steps 0 to T - 1 of one sequence, or one step for all; None where it is no sequence."""
        at = [step_index(each) for each in calls]
        if at[0] is None or len({each and each[:2] for each in at}) > 1:
            return None
        base, axis, _ = at[0]
        if len(set(at)) == 1:
            return _Value(calls[0], "one" if from_input(base) else "number")
        for t, each in enumerate(at):
            if each != (base, axis, t):
                self._differ(calls, t)
        if base.op == "placeholder" and axis == self._static_axis:
            return _Value(calls[0], "one")
        if axis == 0 and repetition(base) is not None:
            return _Value(base.all_input_nodes[0].args[0], "one")
        return self._all(calls[0], "call_function", joined_steps, (base, self.steps, axis))

    def _reshaped(self, calls: tuple[fx.Node, ...]) -> _Value:
        """x.view(samples, *), or x.view(-1, *)."""
        values = self._argument([call.args[0] for call in calls], calls)
        sizes = [call.args[1] if isinstance(call.args[1], tuple | list) else call.args[1:] for call in calls]
        rest = self._argument([each[1:] for each in sizes], calls)
        samples = [each[0] for each in sizes]
        if any(call.kwargs for call in calls) or rest.of == "all":
            raise NotMerged(f"{described_step(calls[0])} in its loop is not known to treat each sample by itself")
        read = all(isinstance(each, fx.Node) and reads_size(each) and len(each.args) == 2 for each in samples)
        if not read and self._argument(samples, calls).value != -1:
            raise NotMerged(f"{described_step(calls[0])} in its loop has a fixed number of samples")
        self._replaced.update(each for each in samples if isinstance(each, fx.Node))
        if values.of != "all":
            return _Value(calls[0], values.of)
        sizes_of_all = self._plain(rest, spread=False)
        return self._all(calls[0], "call_function", reshaped_rows, (values.value, *sizes_of_all))

    def _differ(self, calls: Sequence[fx.Node], t: int) -> NoReturn:
        this, first = described_step(calls[t]), described_step(calls[0])
        raise NotMerged(f"the steps of its loop differ: step {t} has {this}, step 0 has {first}")


def _together(parts: Sequence[_Value]) -> Literal["all", "one", "number"]:
    """What a call of these arguments is of."""
    kinds = {part.of for part in parts}
    return "all" if "all" in kinds else "one" if "one" in kinds else "number"
