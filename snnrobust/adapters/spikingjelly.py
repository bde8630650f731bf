"""SpikingJelly 2: nodes are `MemoryModule`s with a `surrogate_function`; state lives in their memories."""

from __future__ import annotations

import copy
from typing import Any

from spikingjelly.activation_based import base, functional
from torch import nn


class SpikingJelly:
    """Adapter for SpikingJelly nets, nested nodes and containers included."""

    name = "spikingjelly"

    def claims(self, net: nn.Module) -> bool:
        """Whether any module of `net` is one of SpikingJelly's with memory."""
        return any(isinstance(module, base.MemoryModule) for module in net.modules())

    def reset(self, net: nn.Module) -> None:
        """Resets every module that can be, looked up anew each time.

        SpikingJelly's own `reset_net` caches the list of modules, which goes stale when a node is swapped.
        """
        functional.reset_collected_modules(functional.collect_reset_modules(net))

    def take_state(self, net: nn.Module) -> object:
        """Moves each module's memories (and recorded voltages) aside; fresh initial values take their place."""
        aside: list[tuple[Any, dict[str, object], object]] = []
        for module in net.modules():
            if isinstance(module, base.MemoryModule):
                memories = dict(module._memories)
                aside.append((module, memories, getattr(module, "v_seq", None)))
                for name in memories:
                    module._memories[name] = copy.deepcopy(module._memories_rv[name])
                if hasattr(module, "v_seq"):
                    module.v_seq = None
        return aside

    def put_state(self, net: nn.Module, state: Any) -> None:
        """Puts memories back, the very objects that were there."""
        for module, memories, voltages in state:
            module._memories.update(memories)
            if hasattr(module, "v_seq"):
                module.v_seq = voltages

    def nodes(self, net: nn.Module) -> dict[str, nn.Module]:
        """Modules with memory whose spikes come from a `surrogate_function`."""
        return {
            name: module
            for name, module in net.named_modules()
            if isinstance(module, base.MemoryModule)
            and isinstance(getattr(module, "surrogate_function", None), nn.Module)
        }

    def swap_surrogate(self, node: nn.Module, surrogate: nn.Module) -> nn.Module:
        """Replaces the node's own reference; a surrogate object shared with other nodes is left alone."""
        old: nn.Module = node.get_submodule("surrogate_function")
        node.surrogate_function = surrogate
        return old
