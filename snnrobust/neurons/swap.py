"""`replace`: the same net with another neuron."""

from __future__ import annotations

import copy
from typing import Any, TypeGuard

import torch
from spikingjelly.activation_based import base, layer, neuron
from torch import Tensor, nn

from snnrobust.errors import InputError, InputTypeError
from snnrobust.neurons.node import LoopNode
from snnrobust.neurons.presets import resolve
from snnrobust.neurons.variants import NodeOptions, Variant

_DEFAULT_K = 0.5
# Layers that may stand between a Linear and a recurrent node: they keep the last dimension.
_KEEP_FEATURES = (nn.BatchNorm1d, nn.LayerNorm, nn.Dropout, nn.Identity, layer.Dropout)


def replace(net: nn.Module, variant: str | Variant, *, k: float | None = None) -> nn.Module:
    """A copy of `net` in which every SpikingJelly spiking node is of another variant. `net` is not changed.

    Each new node keeps the threshold, surrogate (an own copy), detach_reset, step_mode, store_v_seq and train flag of
    the old one, and its place: a node used in two places stays one node. The copy starts with
    all memories reset. Trained weights are kept, though they were trained with the old neuron.

    What the variants don't have is dropped: hooks on nodes, a reset value other than 0, and the scaling of the input
    by 1 / tau that SpikingJelly's LIFNode does unless decay_input=False. To compare neurons fairly, compare
    `replace(net, "vanilla")` with the other variants.

    Args:
        net: any module with SpikingJelly nodes, or one node.
        variant: a name in `PRESETS`, or a `Variant`. A recurrent one takes its features from the nn.Linear before each
            node, in module order.
        k: the share of the membrane potential that a step keeps. None: the old node's where it has one
            (1 - 1 / tau), else 0.5.

    Raises:
        InputError: an unknown preset; no spiking node in the net, or one that is not a SpikingJelly BaseNode; a
            recurrent variant without an nn.Linear before a node; a net that can't be copied.
        InputTypeError: a value of the wrong type.

        >>> from snnrobust.neurons import lif
        >>> net = nn.Sequential(nn.Linear(3, 4), lif(k=0.8))
        >>> replace(net, "recurrent")[1].lateral
        Linear(in_features=4, out_features=4, bias=False)
        >>> type(net[1]).__name__
        'LIFNode'
    """
    if not isinstance(net, nn.Module):
        raise InputTypeError(f"expected a torch module, got {type(net).__name__}; pass the net itself")
    chosen = resolve(variant)
    # deepcopy looks every object up in this memo first. What is found there, the new nodes and the reset memories, is
    # used in the copy wherever the old object stood, and the user's own objects are never touched.
    memo: dict[int, Any] = {id(node): new for node, new in _new_nodes(net, chosen, k)}
    memo |= _without_state(net)
    try:
        return copy.deepcopy(net, memo)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"expected a net that copy.deepcopy can copy, got: {error}; make it copyable") from error


def _is_node(module: nn.Module) -> TypeGuard[Any]:
    return isinstance(module, (neuron.BaseNode, neuron.SimpleBaseNode))


def _new_nodes(net: nn.Module, variant: Variant, k: float | None) -> list[tuple[nn.Module, nn.Module]]:
    """The nodes of `net`, each with its replacement."""
    inside = {id(part) for node in net.modules() if _is_node(node) for part in node.modules()}
    features: int | None = None  # of what comes before, in module order; None: unknown
    before = "nothing"
    near = next(net.parameters(), None)  # a tensor that has the device and type of this part of the net
    pairs = []
    for name, module in net.named_modules():
        if _is_node(module):
            if variant.recurrent and features is None:
                raise InputError(
                    f"expected an nn.Linear before the spiking node {name!r}, whose out_features a recurrent variant "
                    f"takes, got {before}; choose a variant without recurrence, or build the node with lif(...)"
                )
            new = _matching_node(module, variant, k, features if variant.recurrent else None)
            pairs.append((module, _moved_to(new, next(module.parameters(), near))))
        elif id(module) not in inside:
            _refuse_other_spiking(name, module)
            near = next(module.parameters(recurse=False), near)
            if isinstance(module, nn.Linear):
                features = module.out_features
            elif not any(module.children()) and not isinstance(module, _KEEP_FEATURES):
                features, before = None, f"{type(module).__name__} {name!r}"
    if not pairs:
        raise InputError(
            f"expected a net with SpikingJelly spiking nodes, got {type(net).__name__} without one; "
            "build it with snnrobust.neurons.lif(...) or SpikingJelly's neuron.LIFNode"
        )
    return pairs


def _matching_node(node: Any, variant: Variant, k: float | None, features: int | None) -> nn.Module:
    if k is None:
        k = _k_of(node)
    options: NodeOptions = {
        "k": _DEFAULT_K if k is None else k,
        "threshold": node.v_threshold,
        "surrogate": node.surrogate_function,
        "detach_reset": node.detach_reset,
        "step_mode": node.step_mode,
        "features": features,
    }
    new: Any = variant.build(**options)
    new.store_v_seq = getattr(node, "store_v_seq", False)
    trained: nn.Module = new.train(node.training)
    return trained


def _k_of(node: Any) -> float | None:
    learnable = isinstance(node, LoopNode) and node.leak == "learnable"
    if learnable or isinstance(node, neuron.ParametricLIFNode):
        return float(torch.sigmoid(-node.w.detach().double()))
    if isinstance(node, LoopNode):
        return float(node.k) if node.leak == "normal" else None
    if isinstance(node, (neuron.LIFNode, neuron.SimpleLIFNode)):
        return 1.0 - 1.0 / float(node.tau)
    return None


def _moved_to(node: nn.Module, near: Tensor | None) -> nn.Module:
    if near is None or not near.is_floating_point():
        return node
    return node.to(device=near.device, dtype=near.dtype)


def _refuse_other_spiking(name: str, module: nn.Module) -> None:
    if getattr(module, "surrogate_function", None) is not None:
        raise InputError(
            f"expected spiking nodes derived from SpikingJelly's neuron.BaseNode, got {name!r}, a "
            f"{type(module).__name__}; put a neuron.LIFNode in its place"
        )


def _without_state(net: nn.Module) -> dict[int, Any]:
    """What a copy holds in place of the state in `net`: reset memories; detached tensors for those in a graph."""
    memo: dict[int, Any] = {}
    for module in net.modules():
        if isinstance(module, base.MemoryModule):
            start = {name: copy.deepcopy(module.get_reset_value(name)) for name, _ in module.named_memories()}
            memo[id(module._memories)] = start
        for value in vars(module).values():
            if isinstance(value, Tensor) and value.grad_fn is not None:  # deepcopy refuses these
                memo[id(value)] = value.detach().clone()
    return memo
