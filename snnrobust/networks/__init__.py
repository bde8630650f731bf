"""Small spiking nets, as demos and baselines."""

from snnrobust.common.deprecation import former_names
from snnrobust.networks.feedforward import NodeFactory, conv, mlp

__all__ = ["NodeFactory", "conv", "mlp"]

__getattr__ = former_names("snnrobust.networks", {"Node": ("NodeFactory", NodeFactory)})
