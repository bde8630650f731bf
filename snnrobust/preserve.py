"""Leaving a user's net as it came: flags, buffers, gradients, state, surrogates and hooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from snnrobust.adapters import Adapter

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


@contextmanager
def preserved(net: nn.Module, adapter: Adapter | None) -> Iterator[None]:
    """Puts `net` in eval mode with fresh state inside; restores it exactly afterwards, also after an exception.

    Restored: training flags, parameters' data, `.grad` and `requires_grad`, buffers, child modules, hooks, plain
    attributes (which is where a net without a known framework keeps its state), and the framework's own state.
    """
    modules = list(net.modules())
    attributes = [_plain_attributes(module) for module in modules]
    containers = [
        (value, copy(value)) for plain in attributes for value in plain.values() if isinstance(value, list | dict)
    ]
    tensors = _Tensors(net, attributes)
    children = [dict(module._modules) for module in modules]
    hooks = [{name: dict(getattr(module, name)) for name in _HOOKS} for module in modules]
    state = adapter.take_state(net) if adapter is not None else None
    try:
        net.eval()
        yield
    finally:
        for module, plain, named, hooked in zip(modules, attributes, children, hooks, strict=True):
            for gone in set(_plain_attributes(module)) - set(plain):
                del module.__dict__[gone]
            module.__dict__.update(plain)
            module._modules.clear()
            module._modules.update(named)
            for name, old in hooked.items():
                getattr(module, name).clear()
                getattr(module, name).update(old)
        for container, contents in containers:
            container.clear()
            container.extend(contents) if isinstance(container, list) else container.update(contents)
        tensors.restore()
        if adapter is not None:
            adapter.put_state(net, state)


_TORCH_REGISTRIES = set(nn.Module().__dict__) - {"training"}


def _plain_attributes(module: nn.Module) -> dict[str, Any]:
    """What a module keeps outside torch's own registries: `training`, settings, and hand-kept state."""
    return {name: value for name, value in module.__dict__.items() if name not in _TORCH_REGISTRIES}


class _Tensors:
    """The tensors of a net: the objects, their data where it may change, gradients and flags."""

    def __init__(self, net: nn.Module, attributes: list[dict[str, Any]]) -> None:
        self.parameters = [(p, p.requires_grad, p.grad, _copy(p.grad)) for p in net.parameters()]
        self.registries = [(m, dict(m._buffers), dict(m._parameters)) for m in net.modules()]
        loose = [value for plain in attributes for value in plain.values() if isinstance(value, Tensor)]
        self.data = [(t, t.detach().clone()) for t in (*net.parameters(), *net.buffers(), *loose)]

    def restore(self) -> None:
        for module, buffers, parameters in self.registries:
            module._buffers.clear()
            module._buffers.update(buffers)
            module._parameters.clear()
            module._parameters.update(parameters)
        with torch.no_grad():
            for tensor, data in self.data:
                # Writing would invalidate an autograd graph of the user's own, so only what changed is written.
                if not _same_bytes(tensor, data):
                    tensor.copy_(data)
            for parameter, requires_grad, gradient, values in self.parameters:
                parameter.requires_grad_(requires_grad)
                if gradient is not None and values is not None:
                    gradient.copy_(values)
                parameter.grad = gradient


def _same_bytes(a: Tensor, b: Tensor) -> bool:
    return torch.equal(
        a.detach().contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8)
    )


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().clone()
