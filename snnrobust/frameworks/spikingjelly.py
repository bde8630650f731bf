"""SpikingJelly 2: nodes are `MemoryModule`s with a `surrogate_function`; state lives in their memories."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, cast

import torch
from spikingjelly.activation_based import base, functional, neuron, surrogate
from torch import Tensor, nn

from snnrobust.errors import InputError
from snnrobust.frameworks.spikingjelly_layers import SpikingJellyLayers
from snnrobust.kernels.derivative import Derivative
from snnrobust.kernels.dynamics import Dynamics
from snnrobust.neurons.node import LoopNode


class SpikingJelly(SpikingJellyLayers):
    """Adapter for SpikingJelly nets, nested nodes and containers included."""

    name = "spikingjelly"

    def supports(self, net: nn.Module) -> bool:
        """Whether any module of `net` is a `MemoryModule`."""
        return any(isinstance(module, base.MemoryModule) for module in net.modules())

    def reset(self, net: nn.Module) -> None:
        """Resets every module with state; the modules are looked up on each call.

        SpikingJelly's own `reset_net` caches the list of modules, which goes stale when a node is swapped.
        """
        functional.reset_collected_modules(functional.collect_reset_modules(net))

    def save_and_reset_state(self, net: nn.Module) -> object:
        """Returns each module's memories (and stored voltages) and sets initial values."""
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

    def restore_state(self, net: nn.Module, state: Any) -> None:
        """Restores the same memory objects."""
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

    def unsupported_nodes(self, net: nn.Module) -> dict[str, nn.Module]:
        """Classes of SpikingJelly's `neuron` package, and modules with a surrogate of their own, that keep no memories
        in its way (PSN, recurrent cells) or compute spikes without a surrogate (DSR, ST-BIF)."""
        nodes = list(self.nodes(net).values())
        known = {id(node) for node in nodes} | {id(node.get_submodule("surrogate_function")) for node in nodes}
        return {
            name: module
            for name, module in net.named_modules()
            if id(module) not in known and _spikes(module, known) and not isinstance(module, _NO_SPIKES)
        }

    def ignores_surrogate(self, node: nn.Module) -> bool:
        """The nodes of online learning (OTTT, SLTT), which use it while training alone."""
        return isinstance(node, neuron.OTTTLIFNode | neuron.SLTTLIFNode)

    def passes_own_gradient(self, node: nn.Module) -> bool:
        """False for the nodes of online learning, and for CLIF whose surrogate spikes: both use it in training alone.

        CLIF calls another spike function that is put in its place, unless that one has `spiking`.
        """
        own = node.get_submodule("surrogate_function")
        skips = isinstance(node, neuron.ComplementaryLIFNode) and bool(getattr(own, "spiking", True))
        return not (skips or self.ignores_surrogate(node))

    def refuses_autograd(self, net: nn.Module) -> bool:
        """Whether there is an ST-BIF node, which is made for inference."""
        return any(isinstance(module, neuron.STBIFNode) for module in net.modules())

    def is_binary(self, node: nn.Module) -> bool:
        """False for ternary and integer nodes, and those whose output is an activation of the membrane potential."""
        return not isinstance(node, _GRADED)

    def swap_surrogate(self, node: nn.Module, surrogate: nn.Module) -> nn.Module:
        """Replaces the node's reference; a surrogate object shared with other nodes is not changed."""
        old: nn.Module = node.get_submodule("surrogate_function")
        node.surrogate_function = surrogate
        return old

    def swap_detach_reset(self, node: nn.Module, detach: bool) -> bool:
        """Sets the node's `detach_reset`, where it has one."""
        old = bool(getattr(node, "detach_reset", detach))
        if old != detach:
            node.detach_reset = detach  # type: ignore[assignment]  # torch annotates attributes of a Module as Tensor | Module, this is a bool
        return old

    def is_reset(self, node: nn.Module) -> bool:
        """Whether all memories are at the values that a reset gives them."""
        initial = cast(Any, node)._memories_rv
        return all(_same(value, initial[name]) for name, value in _memories(node).items())

    def is_multi_step(self, node: nn.Module) -> bool:
        """Whether the node's step mode is "m"."""
        return getattr(node, "step_mode", "m") == "m"

    def step(self, node: nn.Module, x: Tensor) -> Tensor:
        """One time step, whatever the node's step mode is."""
        spikes: Tensor = cast(Any, node).single_step_forward(x)
        return spikes

    def detach(self, node: nn.Module) -> None:
        """Replaces each memory by a detached tensor.

        SpikingJelly's own `detach` works in place, which fails on a view and changes the tensor for other holders.
        """
        memories = _memories(node)
        for name, value in memories.items():
            if isinstance(value, Tensor):
                memories[name] = value.detach()

    def dynamics(self, node: nn.Module) -> Dynamics:
        """The equation of LIFNode, ParametricLIFNode, IFNode, their simple versions, and this package's LoopNode."""
        if isinstance(node, LoopNode):
            return node.dynamics
        kind, settings = type(node), cast(Any, node)
        shared: dict[str, Any] = {}
        # Simple nodes with another reset start at 0, not at the reset.
        if kind in _FAMILY and _numbers(settings) and not (kind in _SIMPLE and settings.v_reset != 0):
            soft = settings.v_reset is None
            shared = {
                "threshold": float(settings.v_threshold),
                "reset": "soft" if soft else "hard",
                "reset_value": 0.0 if soft else float(settings.v_reset),
                "detach_reset": bool(settings.detach_reset),
            }
        if shared and kind in (neuron.IFNode, neuron.SimpleIFNode):
            return Dynamics("keep", 1.0, **shared)
        if shared and kind in (neuron.LIFNode, neuron.SimpleLIFNode):
            return Dynamics("divide", float(settings.tau), decay_input=bool(settings.decay_input), **shared)
        if shared:
            rate = torch.sigmoid(settings.w)
            return Dynamics("multiply", rate, decay_input=bool(settings.decay_input), **shared)
        raise InputError(
            f"expected a node with u[t] = k v[t-1] + gain x[t] and a reset to 0 or by subtraction, got "
            f"{kind.__name__}; use an estimator that needs no equation"
        )

    def derivative(self, node: nn.Module) -> Derivative | None:
        """The derivative of SpikingJelly's surrogates with a number alpha."""
        own = getattr(node, "surrogate_function", None)
        alpha = getattr(own, "alpha", None)
        if type(own) not in _DERIVATIVES or isinstance(alpha, bool) or not isinstance(alpha, int | float):
            return None
        return _DERIVATIVES[type(own)](float(alpha)) if getattr(own, "spiking", False) else None

    def has_operator(self, node: nn.Module, device: torch.device) -> bool:
        """On CUDA: IF, LIF and parametric LIF nodes with surrogates that its kernels support."""
        known = type(node) in _FAMILY and type(getattr(node, "surrogate_function", None)) in _DERIVATIVES
        return known and device.type == "cuda"

    def records_membrane(self, node: nn.Module) -> bool:
        """Whether `store_v_seq` is set."""
        return bool(getattr(node, "store_v_seq", False))

    def is_framework_block(self, module: nn.Module) -> bool:
        """Whether the module is a SpikingJelly class, except its ready-made nets, or one of our nodes."""
        home = type(module).__module__
        ready_made = home.startswith("spikingjelly.activation_based.model.")
        return isinstance(module, base.MemoryModule) or (home.startswith("spikingjelly.") and not ready_made)


#: Spikes of several sizes or signs.
_GRADED = (neuron.ILIFNode, neuron.TernaryIFNode, neuron.TernaryLIFNode, neuron.LIAFNode)
#: Membrane potentials as output.
_NO_SPIKES = (neuron.NonSpikingBaseNode, neuron.NoisyNonSpikingBaseNode)
_SIMPLE = (neuron.SimpleIFNode, neuron.SimpleLIFNode)
_FAMILY = (neuron.IFNode, neuron.LIFNode, neuron.ParametricLIFNode, *_SIMPLE)
# In the order of operations of SpikingJelly's own operators.
_DERIVATIVES: dict[type, Callable[[float], Derivative]] = {
    surrogate.ATan: Derivative.atan,
    surrogate.Sigmoid: lambda alpha: Derivative("sigmoid", alpha, alpha),
    surrogate.PiecewiseQuadratic: lambda alpha: Derivative("quadratic", alpha, alpha * alpha),
    surrogate.PiecewiseExp: lambda alpha: Derivative("exponential", alpha, alpha / 2),
    surrogate.SoftSign: lambda alpha: Derivative("soft-sign", 1 / alpha, 2 * alpha),
    surrogate.SuperSpike: lambda alpha: Derivative("fast-sigmoid", 1.0, alpha),
    surrogate.Erf: lambda alpha: Derivative("gaussian", alpha, alpha / math.sqrt(math.pi)),
    surrogate.Rect: lambda alpha: Derivative("rectangle", 0.5 / alpha, alpha),
}


def _spikes(module: nn.Module, known: set[int]) -> bool:
    """Whether a module is a neuron of SpikingJelly or has a surrogate that is not among `known`."""
    own = (child for name, child in module.named_children() if name.startswith("surrogate_function"))
    return any(f"{cls.__module__}.".startswith(f"{neuron.__name__}.") for cls in type(module).__mro__) or any(
        id(child) not in known for child in own
    )


def _numbers(settings: Any) -> bool:
    """Whether threshold and the like are one number each, rather than one for each neuron."""
    values = (settings.v_threshold, settings.v_reset, getattr(settings, "tau", None))
    return all(not isinstance(each, Tensor) or each.numel() == 1 for each in values)


def _memories(node: nn.Module) -> dict[str, Any]:
    memories: dict[str, Any] = node.__dict__["_memories"]
    return memories


def _same(value: object, initial: object) -> bool:
    if isinstance(value, Tensor) and isinstance(initial, Tensor):
        return value.shape == initial.shape and bool((value == initial.to(value)).all())
    return not isinstance(value, Tensor)
