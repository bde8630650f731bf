"""Selects the adapter for the framework of a net; one file per framework.

A net of no framework works with a `reset=` callable, if it keeps state from pass to pass at all.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from snnrobust.errors import InputError
from snnrobust.frameworks.adapter import Adapter
from snnrobust.frameworks.functions.sites import Sites
from snnrobust.frameworks.spikingjelly import SpikingJelly
from snnrobust.frameworks.state_buffers import sinabs, snntorch

#: What to do about nodes that ignore their surrogate in eval mode.
LIKE_IN_EVAL = "put SpikingJelly's LIFNode with the same settings in their place, which computes the same in eval mode"
_ADAPTERS: tuple[Adapter, ...] = (SpikingJelly(), snntorch(), sinabs())


def find_adapter(net: nn.Module) -> Adapter | None:
    """The adapter that supports `net`; None if there is none."""
    for adapter in _ADAPTERS:
        if adapter.supports(net):
            return adapter
    return None


def unsupported_spikes(net: nn.Module, sites: Sites | None = None) -> dict[str, str]:
    """What spikes in `net` but can't be swapped or recorded, by name: its class, and why if that is known.

    Args:
        net: A net.
        sites: What a forward pass showed; None if there was none: then Functions are not known.
    """
    found: dict[str, str] = {}
    reached = set(sites.patterns) if sites is not None else set()
    for adapter in _ADAPTERS:
        for name, node in adapter.unsupported_nodes(net).items():
            if not reached.intersection(node.modules()):
                found[name] = type(node).__name__
    if sites is not None:
        found |= {each.name: f"{each.what}: {each.why}" for each in sites.unsupported}
    return found


def refuse_unsupported_spikes(net: nn.Module, sites: Sites | None, what: str, remedy: str) -> None:
    """Raises an `InputError` that names what spikes but can't be swapped or recorded, if there is anything.

    Args:
        net: A net.
        sites: What a forward pass showed.
        what: What can't be done, "swapped" or "recorded".
        remedy: What works.
    """
    if others := unsupported_spikes(net, sites):
        raise InputError(f"expected spiking nodes that can be {what}, got {listed(others)}; {remedy}")


def listed(nodes: Mapping[str, nn.Module | str]) -> str:
    """Names and classes of nodes, for errors."""
    kinds = {name: each if isinstance(each, str) else type(each).__name__ for name, each in nodes.items()}
    return ", ".join(f"'{name}' ({kind})" for name, kind in kinds.items())
