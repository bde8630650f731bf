"""Which framework a net is of.

One file a framework. A net that none claims still works through a `reset=` callable, but its spikes' gradients can't be
swapped and its layers can't be recorded.
"""

from __future__ import annotations

from torch import nn

from snnrobust.frameworks.adapter import Adapter
from snnrobust.frameworks.spikingjelly import SpikingJelly


def find(net: nn.Module) -> Adapter | None:
    """The first adapter that claims `net`, if any."""
    for adapter in (SpikingJelly(),):
        if adapter.claims(net):
            return adapter
    return None
