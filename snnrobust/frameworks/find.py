"""Selects the adapter for the framework of a net; one file per framework.

A net of an unsupported framework works with a `reset=` callable, but its surrogate gradients can't be replaced and its
layers can't be recorded.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from snnrobust.errors import InputError
from snnrobust.frameworks.adapter import Adapter
from snnrobust.frameworks.spikingjelly import SpikingJelly

#: What to do about nodes that ignore their surrogate in eval mode.
LIKE_IN_EVAL = "put SpikingJelly's LIFNode with the same settings in their place, which computes the same in eval mode"
_ADAPTERS = (SpikingJelly(),)


def find_adapter(net: nn.Module) -> Adapter | None:
    """The adapter that supports `net`; None if there is none."""
    for adapter in _ADAPTERS:
        if adapter.supports(net):
            return adapter
    return None


def unsupported_nodes(net: nn.Module) -> dict[str, nn.Module]:
    """Modules of `net` that spike but can't be swapped or recorded, of any framework, by qualified name."""
    return {name: node for adapter in _ADAPTERS for name, node in adapter.unsupported_nodes(net).items()}


def refuse_unsupported_nodes(net: nn.Module, what: str, remedy: str) -> None:
    """Raises an `InputError` that names the nodes that spike but can't be swapped or recorded, if there are any.

    Args:
        net: A net.
        what: What can't be done with them, "swapped" or "recorded".
        remedy: What works.
    """
    if others := unsupported_nodes(net):
        raise InputError(f"expected spiking nodes that can be {what}, got {listed(others)}; {remedy}")


def listed(nodes: Mapping[str, nn.Module]) -> str:
    """Names and classes of nodes, for errors."""
    return ", ".join(f"'{name}' ({type(node).__name__})" for name, node in nodes.items())
