"""The computation of a net, rewritten around its spiking nodes: fewer passes over memory, the same values.

The net's forward pass is traced once. What lies before the first spiking node is the same at each step when the input
is, and is computed once; convolution and batch normalisation before a node and 2 x 2 pooling behind it are taken into
the node's kernel. All modules stay the user's own: parameters are shared, and read at each pass.
"""

from __future__ import annotations

import operator
import threading
from collections import Counter
from collections.abc import Mapping
from copy import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from snnrobust.acceleration.node import FastNode
from snnrobust.frameworks.adapter import Adapter

_TRACING = threading.Lock()
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
    if _has_own_hooks(net):
        return None  # hooks on the whole net have to be called at each pass
    attributes = [(module, dict(vars(module))) for module in net.modules()]
    lists = [(each, copy(each)) for _, held in attributes for each in held.values() if type(each) in (list, dict, set)]
    try:
        with _TRACING, torch.enable_grad():
            graph = _Tracer(adapter).trace(net)
    except Exception:  # the forward pass is the user's code: where it can't be traced, it runs as it is instead
        return None
    finally:  # remove what tracing stored in the net's attributes
        for module, before in attributes:
            vars(module).clear()
            vars(module).update(before)
        for held, content in lists:
            held.clear()
            held.extend(content) if isinstance(held, list) else held.update(content)
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    if any(node.op == "get_attr" and node.target not in tensors for node in graph.nodes):
        return None  # a tensor created in the pass would become a constant
    rewriter = _Rewriter(dict(net.named_modules()), adapter, graph, merged)
    rewriter.place(fast)
    rewriter.hoist(steps)
    graph.lint()
    return fx.GraphModule({**tensors, **rewriter.modules}, graph)


class _Hidden(Exception):
    """A part of the forward pass runs in a context that no graph records: the net is run as it is instead."""


class _Tracer(fx.Tracer):
    """Takes the framework's blocks as they are, and looks into the user's modules.

    During tracing, torch.fx replaces `nn.Module.__call__` process-wide: no other thread may run a net.
    """

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self._adapter = adapter

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a call of `m` is a step of the graph."""
        return (
            self._adapter.is_framework_block(m) or _has_own_hooks(m) or super().is_leaf_module(m, module_qualified_name)
        )

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """A step of the graph; refused under no_grad or autocast, which a graph does not record."""
        if not torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            raise _Hidden
        return super().create_node(*args, **kwargs)


class _Rewriter:
    def __init__(self, modules: dict[str, nn.Module], adapter: Adapter, graph: fx.Graph, merged: bool) -> None:
        self.modules = modules
        self._merged = merged
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
            if not self._merged and (repetition := _repetition(node)) is not None and node.args[0] not in fixed:
                one = node.all_input_nodes[0]
                fixed[one] = repetition
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
                            repeat = _repeated_merged if self._merged else _repeated
                            repeated[each] = self._graph.call_function(repeat, (each, fixed[each]))
                    node.replace_input_with(each, repeated[each])

    def _per_step(self, node: fx.Node) -> bool:
        if (module := self._module(node)) is not None:
            stepwise = self._adapter.is_stateless(module) if self._merged else self._adapter.is_stepwise(module)
            return stepwise and not (has_hooks(module) or _trains(module))
        if node.op == "call_function" and node.target in _ENTRYWISE:
            return True
        flattens = (node.op, node.target) in (("call_function", torch.flatten), ("call_method", "flatten"))
        return flattens and len(node.args) > 1 and isinstance(node.args[1], int) and node.args[1] >= 1

    def _take_norm(self, node: fx.Node, fast: FastNode) -> None:
        before = node.args[0]
        if not isinstance(before, fx.Node) or list(before.users) != [node] or len(before.args) != 1 or before.kwargs:
            return
        norm = self._module(before)
        if norm is None or has_hooks(norm) or _trains(norm) or not self._adapter.is_fixed_batch_norm(norm):
            return
        fast.take_norm(norm)
        node.args = before.args
        self._graph.erase_node(before)

    def _take_conv(self, node: fx.Node, fast: FastNode) -> None:
        before = node.args[0]
        if not isinstance(before, fx.Node) or list(before.users) != [node] or len(before.args) != 1 or before.kwargs:
            return
        conv = self._module(before)
        if conv is None or has_hooks(conv) or not self._adapter.is_conv3x3(conv):
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
        if pool is None or has_hooks(pool) or (kind := self._adapter.pool2x2_kind(pool)) is None:
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
    return node.target in (_repeated, _repeated_merged)


def has_hooks(module: nn.Module) -> bool:
    """Whether the module or a part of it has hooks, which have to be called with unchanged values."""
    return any(_has_own_hooks(each) for each in module.modules())


def _has_own_hooks(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(bool(each) for each in hooks)


def _trains(module: nn.Module) -> bool:
    """Whether a part of the module is in train mode: the net's own `eval` may leave some in it."""
    return any(each.training for each in module.modules())


def _repetition(node: fx.Node) -> int | None:
    """T, if the node repeats one step as SpikingJelly's users do: x.unsqueeze(0).repeat(T, 1, 1, 1, 1), or expand."""
    rest = {"repeat": 1, "expand": -1}.get(str(node.target)) if node.op == "call_method" else None
    if rest is None or node.kwargs or not isinstance(one := node.args[0], fx.Node) or list(one.users) != [node]:
        return None
    given: Any = node.args[1:]
    sizes = given[0] if len(given) == 1 and isinstance(given[0], tuple | list) else given
    if one.target not in ("unsqueeze", torch.unsqueeze) or one.args[1:] != (0,):
        return None
    if not all(isinstance(size, int) for size in sizes) or set(sizes[1:]) != {rest}:
        return None
    return int(sizes[0]) if sizes[0] > 0 else None


def _repeated(x: Tensor, steps: int) -> Tensor:
    """One step [1, N, *] as all of them, [T, N, *]."""
    return x.expand(steps, *x.shape[1:])


def _repeated_merged(x: Tensor, steps: int) -> Tensor:
    """One step [N, *] as all of them, [T N, *]."""
    return x.expand(steps, *x.shape).flatten(0, 1)
