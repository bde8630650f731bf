"""Small spiking nets, as demos and baselines."""

from snnrobust.networks.feedforward import Node, conv, mlp

__all__ = ["Node", "conv", "mlp"]
