"""SpikingJelly 2: nodes are `MemoryModule`s with a `surrogate_function`; state lives in their memories."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
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
        """Whether any module of `net` has memories or is one of SpikingJelly's neurons."""
        return any(isinstance(module, base.MemoryModule) or _is_neuron(module) for module in net.modules())

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
        """Neurons, and modules with memory, whose spikes come from a `surrogate_function`."""
        return {
            name: module
            for name, module in net.named_modules()
            if (isinstance(module, base.MemoryModule) or _is_neuron(module))
            and isinstance(getattr(module, "surrogate_function", None), nn.Module)
        }

    def spiking_layers(self, net: nn.Module) -> dict[str, nn.Module]:
        """All neurons, those that compute spikes without a surrogate (DSR, ST-BIF) among them."""
        others = {name: module for name, module in self.unsupported_nodes(net).items() if _is_neuron(module)}
        return self.nodes(net) | others

    def unsupported_nodes(self, net: nn.Module) -> dict[str, nn.Module]:
        """Neurons that compute spikes without a surrogate (DSR, ST-BIF), and modules with surrogates of their own."""
        nodes = list(self.nodes(net).values())
        known = {id(node) for node in nodes} | {id(node.get_submodule("surrogate_function")) for node in nodes}
        return {
            name: module
            for name, module in net.named_modules()
            if id(module) not in known and _spikes(module, known) and not isinstance(module, _NO_SPIKES)
        }

    def is_spike_function(self, module: nn.Module) -> bool:
        """Whether it is one of SpikingJelly's surrogates."""
        return isinstance(module, surrogate.SurrogateFunctionBase)

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
        """Replaces the node's reference; a surrogate object shared with other nodes is not changed.

        The operator of multi-step I-LIF takes SpikingJelly's surrogate alone: with another one it runs step by step.
        """
        old: nn.Module = node.get_submodule("surrogate_function")
        node.surrogate_function = surrogate
        if isinstance(node, neuron.ILIFNode):
            if getattr(surrogate, "stands_in", False):
                vars(node)["multi_step_forward"] = partial(_step_by_step, node)
            else:
                vars(node).pop("multi_step_forward", None)
        return old

    def swap_detach_reset(self, node: nn.Module, detach: bool) -> bool:
        """Sets the node's `detach_reset`, where it has one."""
        old = bool(getattr(node, "detach_reset", detach))
        if old != detach:
            cast(Any, node).detach_reset = detach
        return old

    def is_reset(self, node: nn.Module) -> bool:
        """Whether all memories are at the values that a reset gives them."""
        initial = getattr(node, "_memories_rv", {})  # a neuron without memories starts anew at each call
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
        """The derivative of SpikingJelly's surrogates whose settings are numbers."""
        own = getattr(node, "surrogate_function", None)
        if type(own) not in _WITH_SETTINGS or not getattr(own, "spiking", False):
            return None
        names, derivative = _WITH_SETTINGS[type(own)]
        settings = [getattr(own, name, None) for name in names]
        numbers = [float(each) for each in settings if isinstance(each, int | float) and not isinstance(each, bool)]
        return derivative(*numbers) if len(numbers) == len(settings) else None

    def has_operator(self, node: nn.Module, device: torch.device) -> bool:
        """On CUDA: IF, LIF and parametric LIF nodes with surrogates that its kernels support."""
        known = type(node) in _FAMILY and type(getattr(node, "surrogate_function", None)) in _DERIVATIVES
        return known and device.type == "cuda"

    def threshold(self, node: nn.Module) -> float | Tensor:
        """The node's `v_threshold`; that of a gated LIF node is only what its threshold is computed from."""
        known = 0.0 if isinstance(node, neuron.GatedLIFNode) else getattr(node, "v_threshold", 0.0)
        return known if isinstance(known, Tensor) else float(known)

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
# With the names of their settings; SpikingJelly has no operators for those that are not above.
_WITH_SETTINGS: dict[type, tuple[tuple[str, ...], Callable[..., Derivative | None]]] = {
    **{kind: (("alpha",), derivative) for kind, derivative in _DERIVATIVES.items()},
    surrogate.DeterministicPass: ((), lambda: Derivative("rectangle", math.inf, 1.0)),
    surrogate.LeakyKReLU: (("leak", "k"), lambda leak, k: Derivative("step", leak, k)),
    surrogate.LogTailedReLU: (("alpha",), lambda alpha: Derivative("log-tailed", alpha, 1.0)),
    surrogate.NonzeroSignLogAbs: (("alpha",), lambda alpha: Derivative("reciprocal", 1 / alpha, 1.0)),
    surrogate.PiecewiseLeakyReLU: (("w", "c"), lambda w, c: Derivative("leaky-rectangle", w, c)),
    # (1 + 2 |u| / (alpha - 1))^-alpha: of a known family at its default alone.
    surrogate.QPseudoSpike: (("alpha",), lambda alpha: Derivative("fast-sigmoid", 2.0, 1.0) if alpha == 2 else None),
    surrogate.S2NN: (("alpha", "beta"), lambda alpha, beta: Derivative("sigmoid-reciprocal", alpha, beta)),
}


def _spikes(module: nn.Module, known: set[int]) -> bool:
    """Whether a module is a neuron of SpikingJelly or has a surrogate that is not among `known`."""
    own = (child for name, child in module.named_children() if name.startswith("surrogate_function"))
    return _is_neuron(module) or any(id(child) not in known for child in own)


def _is_neuron(module: nn.Module) -> bool:
    """Whether its class is one of SpikingJelly's neurons, or derived from one."""
    return any(f"{cls.__module__}.".startswith(f"{neuron.__name__}.") for cls in type(module).__mro__)


def _step_by_step(node: Any, x: Tensor) -> Tensor:
    """A multi-step call [T, N, *] as calls with one step each."""
    return torch.stack([node.single_step_forward(step) for step in x])


def _numbers(settings: Any) -> bool:
    """Whether threshold and the like are one number each, rather than one for each neuron."""
    values = (settings.v_threshold, settings.v_reset, getattr(settings, "tau", None))
    return all(not isinstance(each, Tensor) or each.numel() == 1 for each in values)


def _memories(node: nn.Module) -> dict[str, Any]:
    memories: dict[str, Any] = node.__dict__.get("_memories", {})
    return memories


def _same(value: object, initial: object) -> bool:
    if isinstance(value, Tensor) and isinstance(initial, Tensor):
        return value.shape == initial.shape and bool((value == initial.to(value)).all())
    return not isinstance(value, Tensor)
