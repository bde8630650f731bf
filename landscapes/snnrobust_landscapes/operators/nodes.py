"""The spiking nodes of a net and their surrogate derivatives, for operators that replace them."""

from __future__ import annotations

from torch import nn

from snnrobust.errors import InputError
from snnrobust.frameworks.adapter import Adapter
from snnrobust.frameworks.find import LIKE_IN_EVAL, listed, refuse_unsupported_spikes
from snnrobust.kernels.derivative import Derivative
from snnrobust.spike_gradients.heaviside import emits_heaviside
from snnrobust.wrapping.model import SpikingModel

#: What to do about nodes that can't be replaced: these operators leave them as they are.
OWN_GRADIENTS = "use operator='formal' or {'name': 'gauss-newton', 'surrogate': 'own'}, which keep their own gradients"


def spiking_nodes(model: SpikingModel, operator: str) -> tuple[Adapter, dict[str, nn.Module]]:
    """The adapter of a model's framework, and its spiking nodes by name.

    Args:
        model: A model.
        operator: The operator that needs them, in words, for errors.

    Raises:
        InputError: If the net has no spiking nodes of a supported framework, or some that the operator can't replace.
    """
    adapter = model.adapter
    nodes = {} if adapter is None else adapter.nodes(model.net)
    if adapter is None or not nodes:
        raise InputError(
            f"expected a net with spiking nodes of SpikingJelly for the {operator}, got "
            f"{type(model.net).__name__}; use operator='gauss-newton' or 'formal'"
        )
    sites = model.sites
    refuse_unsupported_spikes(model.net, sites, "swapped", f"for the {operator}, {OWN_GRADIENTS}")
    if sites is not None and sites.by_name:
        raise InputError(
            f"expected all spikes in nodes of SpikingJelly for the {operator}, got others at {sorted(sites.by_name)}; "
            f"{OWN_GRADIENTS}"
        )
    smooth = {
        name: node for name, node in nodes.items() if emits_heaviside(node.get_submodule("surrogate_function")) == "no"
    }
    if smooth:
        raise InputError(
            f"expected nodes with surrogates that emit spikes 0 and 1 for the {operator}, got {listed(smooth)}; "
            f"{OWN_GRADIENTS}"
        )
    if deaf := ignoring_nodes(model):
        raise InputError(
            f"expected nodes that call their surrogate in eval mode for the {operator}, got {listed(deaf)}; "
            f"{LIKE_IN_EVAL}"
        )
    return adapter, nodes


def ignoring_nodes(model: SpikingModel) -> dict[str, nn.Module]:
    """The nodes of a model, by name, that no gradient passes in eval mode, nor an estimator's."""
    adapter = model.adapter
    nodes = {} if adapter is None else adapter.nodes(model.net)
    return {name: node for name, node in nodes.items() if adapter is not None and adapter.ignores_surrogate(node)}


def surrogate_derivatives(model: SpikingModel) -> dict[str, Derivative]:
    """The surrogate derivatives of a model's nodes, where these are known functions."""
    adapter = model.adapter
    nodes = {} if adapter is None else adapter.nodes(model.net)
    found = {name: None if adapter is None else adapter.derivative(node) for name, node in nodes.items()}
    return {name: slope for name, slope in found.items() if slope is not None}
