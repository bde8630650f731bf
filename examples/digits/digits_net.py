"""The model factory that digits.toml names: a function that returns the net, without weights."""

from spikingjelly.activation_based import neuron, surrogate
from torch import nn

from snnrobust import networks


def build(hidden: int = 128, alpha: float = 2.0) -> nn.Module:
    """A 64-`hidden`-10 net of LIF neurons, [T, N, 1, 8, 8] -> spikes [T, N, 10]."""

    def node(_: int) -> nn.Module:
        return neuron.LIFNode(tau=2.0, decay_input=False, surrogate_function=surrogate.ATan(alpha=alpha), step_mode="m")

    return networks.mlp(node, (64, hidden, 10))
