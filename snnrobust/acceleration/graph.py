"""The computation of a net, rewritten around its spiking nodes: fewer passes over memory, the same values.

The net's forward pass is traced once. What lies before the first spiking node is the same at each step when the input
is, and is computed once; convolution and batch normalisation before a node and 2 x 2 pooling behind it are taken into
the node's kernel. All modules stay the user's own: parameters are shared, and read at each pass.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from snnrobust.acceleration import torch_layers
from snnrobust.acceleration.loop_steps import repeated_steps
from snnrobust.acceleration.node import FastNode
from snnrobust.acceleration.tracing import NotTraced, TimeAxis, has_hooks, own_tensors, repetition, traced, trains
from snnrobust.acceleration.unrolled import merge_loop
from snnrobust.frameworks.adapter import Adapter

__all__ = ["called_modules", "has_hooks", "repeats_one_step", "rewritten", "rewritten_loop"]

#: Functions of one step or of all alike: the time axis is broadcast.
_ENTRYWISE = (operator.add, operator.sub, operator.mul, operator.truediv, torch.add, torch.mul, torch.relu, F.relu)


def rewritten(
    net: nn.Module, adapter: Adapter, fast: Mapping[str, FastNode], steps: int | None, *, merged: bool = False
) -> fx.GraphModule | None:
    """`net` with `fast` nodes in place of those of these names, or None if it can't be traced.

    Args:
        net: Takes [T, N, *].
        adapter: Its framework.
        fast: The replacement of each spiking node, by the node's name. Nodes inside blocks of the framework are not
            replaced, nor those that are called more than once a pass.
        steps: T, if the input is the same at each step and is to be given as [1, N, *]; else None.
        merged: Whether the net takes single steps, and the rewritten one all steps of all samples at once: [T N, *], or
            [N, *] for an input that is the same at each step.
    """
    try:
        graph = traced(net, adapter)
    except NotTraced:
        return None
    rewriter = _Rewriter(dict(net.named_modules()), adapter, graph, merged=merged)
    rewriter.place(fast)
    rewriter.hoist(steps)
    graph.lint()
    return fx.GraphModule({**own_tensors(net), **rewriter.modules}, graph)


def rewritten_loop(
    net: nn.Module,
    adapter: Adapter,
    fast: Mapping[str, FastNode],
    looped: Collection[str],
    time: TimeAxis | None,
    static_axis: int | None,
) -> tuple[fx.GraphModule, int]:
    """A net that loops over time in its forward pass, with `fast` nodes in place of those of these names; and T.

    Args:
        net: The net.
        adapter: Its framework.
        fast: The replacement of each spiking node, by the node's name.
        looped: The names of single-step nodes among them.
        time: Where the net's input has time, if its length is known.
        static_axis: The time axis of the input, if that is the same at each step.

    Raises:
        NotTraced: If it can't be traced.
        NotMerged: If the steps of the loop can't be merged.
    """
    graph = traced(net, adapter, time, loops=True)
    modules = dict(net.named_modules())
    steps = merge_loop(graph, modules, adapter, {name: fast[name] for name in looped}, static_axis=static_axis)
    rewriter = _Rewriter(modules, adapter, graph, loop=True)
    rewriter.place(fast)
    graph.lint()
    return fx.GraphModule({**own_tensors(net), **rewriter.modules}, graph), steps


class _Rewriter:
    def __init__(
        self,
        modules: dict[str, nn.Module],
        adapter: Adapter,
        graph: fx.Graph,
        *,
        merged: bool = False,
        loop: bool = False,
    ) -> None:
        self.modules = modules
        self._merged = merged
        self._loop = loop
        self._adapter = adapter
        self._graph = graph

    def place(self, fast: Mapping[str, FastNode]) -> None:
        """Puts the fast nodes in, with their neighbours."""
        calls = Counter(node.target for node in self._graph.nodes if node.op == "call_module")
        for node in list(self._graph.nodes):
            name = str(node.target)
            if node.op != "call_module" or name not in fast or calls[name] > 1 or len(node.args) != 1 or node.kwargs:
                continue
            self.modules[name] = fast[name]
            self._take_norm(node, fast[name])
            self._take_conv(node, fast[name])
            self._take_pool(node, fast[name])
        self._pass_channels_last()

    def hoist(self, steps: int | None) -> None:
        """Computes what is the same at each step once, and repeats it where it begins to differ.

        Args:
            steps: T, if the net's input is one step for all; None: only inputs that the net itself repeats are.
        """
        fixed: dict[fx.Node, int] = {}  # one step [1, N, *] -> the T that it stands for
        repeated: dict[fx.Node, fx.Node] = {}
        for node in list(self._graph.nodes):
            if node.op == "placeholder":
                if steps is not None and not fixed:
                    fixed[node] = steps
                continue
            if not self._merged and (steps_of_one := repetition(node)) is not None and node.args[0] not in fixed:
                one = node.all_input_nodes[0]
                fixed[one] = steps_of_one
                node.replace_all_uses_with(one)
                self._graph.erase_node(node)
                continue
            inputs = [each for each in node.all_input_nodes if each in fixed]
            if not inputs:
                continue
            if isinstance(module := self._module(node), FastNode):
                module.steps = fixed[inputs[0]]
            elif self._per_step(node) and len(inputs) == len(node.all_input_nodes):
                fixed[node] = fixed[inputs[0]]
            else:
                for each in inputs:
                    if each not in repeated:
                        with self._graph.inserting_after(each):
                            repeat = repeated_steps if self._merged else _repeated
                            repeated[each] = self._graph.call_function(repeat, (each, fixed[each]))
                    node.replace_input_with(each, repeated[each])

    def _per_step(self, node: fx.Node) -> bool:
        if (module := self._module(node)) is not None:
            stepwise = self._adapter.is_stateless(module) if self._merged else self._adapter.is_stepwise(module)
            return stepwise and not (has_hooks(module) or trains(module))
        if node.op == "call_function" and node.target in _ENTRYWISE:
            return True
        flattens = (node.op, node.target) in (("call_function", torch.flatten), ("call_method", "flatten"))
        return flattens and len(node.args) > 1 and isinstance(node.args[1], int) and node.args[1] >= 1

    def _take_norm(self, node: fx.Node, fast: FastNode) -> None:
        before = node.args[0]
        if not isinstance(before, fx.Node) or list(before.users) != [node] or len(before.args) != 1 or before.kwargs:
            return
        norm = self._module(before)
        if norm is None or has_hooks(norm) or trains(norm):
            return
        if not self._adapter.is_fixed_batch_norm(norm) and not (self._loop and torch_layers.is_fixed_batch_norm(norm)):
            return
        fast.take_norm(norm)
        node.args = before.args
        self._graph.erase_node(before)

    def _take_conv(self, node: fx.Node, fast: FastNode) -> None:
        before = node.args[0]
        if not isinstance(before, fx.Node) or list(before.users) != [node] or len(before.args) != 1 or before.kwargs:
            return
        conv = self._module(before)
        if conv is None or has_hooks(conv):
            return
        if not self._adapter.is_conv3x3(conv) and not (self._loop and torch_layers.is_conv3x3(conv)):
            return
        fast.take_conv(conv)
        node.args = before.args
        self._graph.erase_node(before)

    def _pass_channels_last(self) -> None:
        """From convolution to convolution, where nothing else reads the output in between."""
        for node in self._graph.nodes:
            module, behind = self._module(node), [self._module(user) for user in node.users]
            if isinstance(module, FastNode) and len(behind) == 1 and isinstance(behind[0], FastNode):
                module.channels_last = behind[0].conv is not None

    def _take_pool(self, node: fx.Node, fast: FastNode) -> None:
        behind = next(iter(node.users), None)
        if behind is None or len(node.users) != 1:
            return
        pool = self._module(behind)
        if pool is None or has_hooks(pool):
            return
        kind = self._adapter.pool2x2_kind(pool) or (torch_layers.pool2x2_kind(pool) if self._loop else None)
        if kind is None:
            return
        fast.pool = kind
        behind.replace_all_uses_with(node)
        self._graph.erase_node(behind)

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.modules[str(node.target)] if node.op == "call_module" else None


def called_modules(graph: fx.GraphModule) -> set[nn.Module]:
    """The modules that are steps of a graph, not those inside them."""
    return {graph.get_submodule(str(node.target)) for node in graph.graph.nodes if node.op == "call_module"}


def repeats_one_step(node: fx.Node) -> bool:
    """Whether a step of a rewritten graph makes one step [1, N, *] all of them."""
    return node.target in (_repeated, repeated_steps)


def _repeated(x: Tensor, steps: int) -> Tensor:
    """One step [1, N, *] as all of them, [T, N, *]."""
    return x.expand(steps, *x.shape[1:])
