"""Selects the adapter for the framework of a net; one file per framework.

A net of an unsupported framework works with a `reset=` callable, but its surrogate gradients can't be replaced and its
layers can't be recorded.
"""

from __future__ import annotations

from torch import nn

from snnrobust.frameworks.adapter import Adapter
from snnrobust.frameworks.spikingjelly import SpikingJelly


def find_adapter(net: nn.Module) -> Adapter | None:
    """The adapter that supports `net`; None if there is none."""
    for adapter in (SpikingJelly(),):
        if adapter.supports(net):
            return adapter
    return None
