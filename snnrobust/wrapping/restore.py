"""Leaving a user's net as it came: flags, buffers, gradients, state, surrogates and hooks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from snnrobust.frameworks.adapter import Adapter


@contextmanager
def preserved(net: nn.Module, adapter: Adapter | None) -> Iterator[None]:
    """Puts `net` in eval mode with fresh state inside; restores it exactly afterwards, also after an exception.

    Restored: all that its modules hold as attributes (training flags, parameters, buffers, children, hooks, and the
    state that a net without a supported framework keeps by hand), the containers among these at any depth, the data,
    `.grad` and `requires_grad` of every tensor in them, and the framework's own state. Out of reach is what a module
    keeps inside other objects, and in its class.
    """
    snapshot = _Snapshot(net)
    state = adapter.save_and_reset_state(net) if adapter is not None else None
    try:
        _detach_state(net)
        net.eval()
        yield
    finally:
        snapshot.restore()
        if adapter is not None:
            adapter.restore_state(net, state)


def _detach_state(net: nn.Module) -> None:
    """Puts detached copies in place of buffers and attributes that hold a graph of the user's own.

    A reset that detaches in place would change the user's tensor for good: a non-leaf can't be made one again.
    """
    for module in net.modules():
        for held in (module._buffers, module.__dict__):
            for name, value in list(held.items()):
                if _holds_graph(value):
                    held[name] = _detached(value)


def _holds_graph(value: object) -> bool:
    """Whether a value is a tensor with a graph, or a list or tuple with such tensors."""
    if isinstance(value, list | tuple):
        return any(_holds_graph(each) for each in value)
    return isinstance(value, Tensor) and not value.is_leaf


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, list | tuple):
        copies = [_detached(each) for each in value]
        return type(value)(*copies) if hasattr(value, "_fields") else type(value)(copies)  # a named tuple takes each
    return value


class _Snapshot:
    """What the modules of a net hold: the objects, and the contents of those that can change in place."""

    def __init__(self, net: nn.Module) -> None:
        self.attributes = [(module, dict(module.__dict__)) for module in net.modules()]
        self.containers: list[tuple[Any, Any]] = []
        self.tensors: list[_Held] = []
        seen: set[int] = set()
        for _, attributes in self.attributes:
            for value in attributes.values():
                self._walk(value, seen)

    def _walk(self, value: object, seen: set[int]) -> None:
        if not isinstance(value, Tensor | list | dict | set | deque | tuple) or id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, Tensor):
            self.tensors.append(_Held(value))
            return
        if not isinstance(value, tuple):
            self.containers.append((value, copy(value)))
        for each in value.values() if isinstance(value, dict) else value:
            self._walk(each, seen)

    def restore(self) -> None:
        for module, attributes in self.attributes:
            for gone in set(module.__dict__) - set(attributes):
                del module.__dict__[gone]
            module.__dict__.update(attributes)
        for container, contents in self.containers:
            container.clear()
            container.extend(contents) if isinstance(container, list | deque) else container.update(contents)
        for held in self.tensors:
            held.restore()


class _Held:
    """A tensor, its storage and a copy of its values, its gradient and its flag."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.storage = tensor.data
        self.values = tensor.detach().clone()
        self.requires_grad = tensor.requires_grad
        self.gradient = _Held(tensor.grad) if tensor.is_leaf and tensor.grad is not None else None

    @torch.no_grad()
    def restore(self) -> None:
        tensor = self.tensor
        if tensor.is_leaf:
            tensor.grad = None  # the gradient's type must fit the data's at all times
        if tensor.data_ptr() != self.storage.data_ptr() or tensor.dtype != self.storage.dtype:
            tensor.data = self.storage
        # Writing would invalidate an autograd graph of the user's own, so only what changed is written.
        if not _same_bytes(tensor, self.values):
            tensor.copy_(self.values)
        if tensor.is_leaf and tensor.requires_grad != self.requires_grad:
            tensor.requires_grad_(self.requires_grad)
        if self.gradient is not None:
            self.gradient.restore()
            tensor.grad = self.gradient.tensor


def _same_bytes(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(
        a.detach().contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8)
    )
