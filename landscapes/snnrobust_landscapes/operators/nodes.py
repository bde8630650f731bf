"""The spiking nodes of a net and their surrogate derivatives, for operators that replace them."""

from __future__ import annotations

from torch import nn

from snnrobust.errors import InputError
from snnrobust.frameworks.adapter import Adapter
from snnrobust.kernels.derivative import Derivative
from snnrobust.wrapping.model import SpikingModel


def spiking_nodes(model: SpikingModel, operator: str) -> tuple[Adapter, dict[str, nn.Module]]:
    """The adapter of a model's framework, and its spiking nodes by name.

    Args:
        model: A model.
        operator: The operator that needs them, in words, for errors.

    Raises:
        InputError: If the net has no spiking nodes of a supported framework.
    """
    adapter = model.adapter
    nodes = {} if adapter is None else adapter.nodes(model.net)
    if adapter is None or not nodes:
        raise InputError(
            f"expected a net with spiking nodes of SpikingJelly for the {operator}, got "
            f"{type(model.net).__name__}; use operator='gauss-newton' or 'formal'"
        )
    return adapter, nodes


def surrogate_derivatives(model: SpikingModel) -> dict[str, Derivative]:
    """The surrogate derivatives of a model's nodes, where these are known functions."""
    adapter = model.adapter
    nodes = {} if adapter is None else adapter.nodes(model.net)
    found = {name: None if adapter is None else adapter.derivative(node) for name, node in nodes.items()}
    return {name: slope for name, slope in found.items() if slope is not None}
