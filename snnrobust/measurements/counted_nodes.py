"""The nodes of a net whose spikes a measurement counts: all of them, with spikes 0 and 1, or an error by name."""

from __future__ import annotations

from torch import nn

from snnrobust.errors import InputError
from snnrobust.frameworks.find import LIKE_IN_EVAL, listed, unsupported_nodes
from snnrobust.spike_gradients.heaviside import emits_heaviside
from snnrobust.wrapping.model import SpikingModel


def counted_nodes(model: SpikingModel, measurement: str) -> dict[str, nn.Module]:
    """The spiking nodes of a model by name.

    Args:
        model: A model.
        measurement: The measurement that needs them, for errors.

    Raises:
        InputError: If there are none, some can't be recorded, or emit other values than 0 and 1.
    """
    adapter = model.adapter
    nodes = {} if adapter is None else adapter.nodes(model.net)
    others = unsupported_nodes(model.net)
    if adapter is None or not nodes:
        got = f"with {listed(others)}, which can't be recorded" if others else "without any"
        raise InputError(
            f"expected spiking nodes of SpikingJelly in model '{model.name}', got {type(model.net).__name__} {got}; "
            f"{measurement} needs a SpikingJelly net"
        )
    if others:
        raise InputError(
            f"expected spiking nodes that can be recorded in model '{model.name}', got {listed(others)}; {measurement} "
            f"counts no net with these nodes"
        )
    graded = {
        name: node
        for name, node in nodes.items()
        if not adapter.is_binary(node) or emits_heaviside(node.get_submodule("surrogate_function")) == "no"
    }
    if graded:
        raise InputError(
            f"expected nodes that emit spikes 0 and 1 in model '{model.name}', got {listed(graded)}; {measurement} "
            f"counts no signed, graded or smooth values"
        )
    if deaf := {name: node for name, node in nodes.items() if adapter.ignores_surrogate(node)}:
        raise InputError(
            f"expected nodes that call their surrogate in eval mode in model '{model.name}', got {listed(deaf)}; "
            f"{LIKE_IN_EVAL}"
        )
    return nodes
