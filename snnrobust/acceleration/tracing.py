"""The forward pass of a net as a graph of torch.fx; Python loops over time are unrolled."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from snnrobust.frameworks.adapter import Adapter

_TRACING = threading.Lock()


class NotTraced(Exception):
    """The forward pass is no graph; the message has the reason."""


@dataclass(frozen=True)
class TimeAxis:
    """Where a sequence has time.

    Attributes:
        axis: Its axis.
        steps: T.
    """

    axis: int
    steps: int


def traced(net: nn.Module, adapter: Adapter, time: TimeAxis | None = None, *, loops: bool = False) -> fx.Graph:
    """The forward pass of `net` as a graph, whose steps are the framework's blocks and the layers of torch.

    What the trace stored in the net's attributes is removed.

    Args:
        net: The net.
        adapter: Its framework.
        time: Where the net's input has time, if its length is known.
        loops: Whether the net may loop over the steps of a sequence.

    Raises:
        NotTraced: If it can't be traced.
    """
    if has_own_hooks(net):
        raise NotTraced("hooks on the whole net have to be called at each pass")
    try:
        with _attributes_restored(net), _TRACING, torch.enable_grad():
            tracer = _Tracer(adapter, time, loops)
            with _constructors_recorded(tracer) if loops else nullcontext():
                graph = tracer.trace(net)
    except Exception as error:  # the forward pass is the user's code
        raise NotTraced(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    tensors = own_tensors(net)
    if any(node.op == "get_attr" and node.target not in tensors for node in graph.nodes):
        raise NotTraced("a tensor that it creates would become a constant")
    return graph


def own_tensors(net: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name."""
    return {**dict(net.named_parameters()), **dict(net.named_buffers())}


def has_hooks(module: nn.Module) -> bool:
    """Whether the module or a part of it has hooks, which have to be called with unchanged values."""
    return any(has_own_hooks(each) for each in module.modules())


def has_own_hooks(module: nn.Module) -> bool:
    """Whether the module itself has hooks."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(bool(each) for each in hooks)


def trains(module: nn.Module) -> bool:
    """Whether a part of the module is in train mode: the net's own `eval` may leave some in it."""
    return any(each.training for each in module.modules())


def repetition(node: fx.Node) -> int | None:
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


@contextmanager
def _attributes_restored(net: nn.Module) -> Iterator[None]:
    """Puts the attributes of all modules back, and what lists, dicts and sets in them held."""
    attributes = [(module, dict(vars(module))) for module in net.modules()]
    lists = [(each, copy(each)) for _, held in attributes for each in held.values() if type(each) in (list, dict, set)]
    try:
        yield
    finally:
        for module, before in attributes:
            vars(module).clear()
            vars(module).update(before)
        for held, content in lists:
            held.clear()
            held.extend(content) if isinstance(held, list) else held.update(content)


@contextmanager
def _constructors_recorded(tracer: fx.Tracer) -> Iterator[None]:
    """Records torch.zeros and torch.ones of a traced size, which torch.fx leaves out: loops add to such tensors.

    They are replaced process-wide, for calls with traced arguments alone.
    """
    originals = {name: getattr(torch, name) for name in ("zeros", "ones")}

    def recording(original: Callable[..., torch.Tensor]) -> Callable[..., Any]:
        def construct(*args: Any, **kwargs: Any) -> Any:
            found: list[bool] = []
            fx.node.map_aggregate((args, kwargs), lambda each: found.append(isinstance(each, fx.Proxy)))
            if not any(found):
                return original(*args, **kwargs)
            return tracer.create_proxy("call_function", original, args, kwargs)

        return construct

    try:
        for name, original in originals.items():
            setattr(torch, name, recording(original))
        yield
    finally:
        for name, original in originals.items():
            setattr(torch, name, original)


class _Hidden(Exception):
    """A part of the forward pass runs in a context that no graph records: the net is run as it is instead."""


class _Tracer(fx.Tracer):
    """Takes the framework's blocks as they are, and looks into the user's modules.

    During tracing, torch.fx replaces `nn.Module.__call__` process-wide: no other thread may run a net.
    """

    def __init__(self, adapter: Adapter, time: TimeAxis | None, loops: bool) -> None:
        super().__init__()
        self._adapter = adapter
        self._time = time
        self._loops = loops
        self._sequences: dict[fx.Node, TimeAxis] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a call of `m` is a step of the graph."""
        return (
            self._adapter.is_framework_block(m) or has_own_hooks(m) or super().is_leaf_module(m, module_qualified_name)
        )

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """A step of the graph; refused under no_grad or autocast, which a graph does not record."""
        if not torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            raise _Hidden("it switches gradients off, or autocast on")
        return super().create_node(*args, **kwargs)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Stands for the value of a step of the graph; that of a sequence knows its length."""
        time = self._time_of(node)
        if time is None:
            return super().proxy(node)
        self._sequences[node] = time
        return _Sequence(node, self, time)

    def _time_of(self, node: fx.Node) -> TimeAxis | None:
        if not self._loops:
            return None
        if node.op == "placeholder":
            return None if self._sequences else self._time  # the first argument of forward is the input
        if (steps := repetition(node)) is not None:
            return TimeAxis(0, steps)
        source = node.args[0] if node.args else None
        time = self._sequences.get(source) if isinstance(source, fx.Node) else None
        if time is None or node.op != "call_method" or node.kwargs:
            return None
        axes: Any = node.args[1] if len(node.args) == 2 and isinstance(node.args[1], tuple | list) else node.args[1:]
        if node.target == "transpose" and len(axes) == 2:
            swapped = dict(zip(axes, reversed(axes), strict=True))
            return replace(time, axis=swapped.get(time.axis, time.axis))
        if node.target == "permute" and time.axis in axes:
            return replace(time, axis=list(axes).index(time.axis))
        return time if node.target in ("contiguous", "clone", "float") else None


class _Sequence(fx.Proxy):
    """Stands for a sequence whose number of steps is known, so that a loop over it can be unrolled."""

    def __init__(self, node: fx.Node, tracer: _Tracer, time: TimeAxis) -> None:
        super().__init__(node, tracer)
        self._time = time

    def __len__(self) -> int:
        if self._time.axis != 0:
            raise NotTraced("it asks for the number of samples")
        return self._time.steps

    def __iter__(self) -> Iterator[fx.Proxy]:
        return iter(self._steps() if len(self) else ())

    @property
    def shape(self) -> _Shape:
        """Its sizes; that of the time axis is a number."""
        return _Shape(self, self._time)

    def size(self, dim: int | None = None) -> Any:
        """As `Tensor.size`."""
        return self.shape if dim is None else self.shape[dim]

    def unbind(self, dim: int = 0) -> Any:
        """As `Tensor.unbind`, along time."""
        if dim != self._time.axis:
            return self.tracer.create_proxy("call_method", "unbind", (self, dim), {})
        return self._steps()

    def _steps(self) -> tuple[fx.Proxy, ...]:
        keys = (((slice(None),) * self._time.axis + (t,)) if self._time.axis else t for t in range(self._time.steps))
        return tuple(self.tracer.create_proxy("call_function", operator.getitem, (self, key), {}) for key in keys)


class _Shape(fx.proxy.Attribute):
    def __init__(self, root: fx.Proxy, time: TimeAxis) -> None:
        super().__init__(root, "shape")
        self._time = time

    def __getitem__(self, key: Any) -> Any:
        if key == self._time.axis:
            return self._time.steps
        return self.tracer.create_proxy("call_function", operator.getitem, (self, key), {})
