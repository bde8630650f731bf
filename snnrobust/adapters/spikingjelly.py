"""SpikingJelly 2: nodes are `MemoryModule`s with a `surrogate_function`; state lives in their memories."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from spikingjelly.activation_based import base, functional, neuron
from torch import Tensor, nn

from snnrobust.adapters.equation import Equation
from snnrobust.errors import InputError
from snnrobust.neurons.node import LoopNode


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

    def is_reset(self, node: nn.Module) -> bool:
        """Whether all memories are at the values that a reset gives them."""
        initial = cast(Any, node)._memories_rv
        return all(_same(value, initial[name]) for name, value in _memories(node).items())

    def multi_step(self, node: nn.Module) -> bool:
        """Whether the node's step mode is "m"."""
        return getattr(node, "step_mode", "m") == "m"

    def step(self, node: nn.Module, x: Tensor) -> Tensor:
        """One time step, whatever the node's step mode is."""
        spikes: Tensor = cast(Any, node).single_step_forward(x)
        return spikes

    def detach(self, node: nn.Module) -> None:
        """Puts a detached tensor in place of each memory.

        SpikingJelly's own `detach` works in place, which fails on a view and reaches whoever else holds the tensor.
        """
        memories = _memories(node)
        for name, value in memories.items():
            if isinstance(value, Tensor):
                memories[name] = value.detach()

    def equation(self, node: nn.Module) -> Equation:
        """The numbers of LIFNode, ParametricLIFNode, IFNode, their simple kin, and this package's LoopNode."""
        kind, threshold = type(node), float(getattr(node, "v_threshold", 0.0))
        settings = cast(Any, node)
        if getattr(node, "v_reset", None) in (None, 0):  # another value would add a constant to the equation
            if kind in (neuron.IFNode, neuron.SimpleIFNode):
                return Equation(1.0, 1.0, threshold)
            if isinstance(node, LoopNode):
                return Equation(float(node.k), 1.0, threshold)
            if kind in (neuron.LIFNode, neuron.SimpleLIFNode, neuron.ParametricLIFNode):
                rate = torch.sigmoid(settings.w.detach()) if kind is neuron.ParametricLIFNode else 1 / settings.tau
                return Equation(1.0 - float(rate), float(rate) if settings.decay_input else 1.0, threshold)
        raise InputError(
            f"expected a node with u[t] = k v[t-1] + gain x[t] and a reset to 0 or by subtraction, got "
            f"{kind.__name__} with v_reset={getattr(node, 'v_reset', None)}; use an estimator that needs no equation"
        )


def _memories(node: nn.Module) -> dict[str, Any]:
    memories: dict[str, Any] = node.__dict__["_memories"]
    return memories


def _same(value: object, initial: object) -> bool:
    if isinstance(value, Tensor) and isinstance(initial, Tensor):
        return value.shape == initial.shape and bool((value == initial.to(value)).all())
    return not isinstance(value, Tensor)
