"""Small spiking nets, as demos and baselines; nets from NIR files, and published ones."""

from snnrobust.common.deprecation import former_names
from snnrobust.networks.feedforward import NodeFactory, conv, mlp
from snnrobust.networks.nir import from_nir
from snnrobust.networks.nir.archive import fetch as fetch_published
from snnrobust.networks.published import PUBLISHED, PublishedNet, published

__all__ = ["PUBLISHED", "NodeFactory", "PublishedNet", "conv", "fetch_published", "from_nir", "mlp", "published"]

__getattr__ = former_names("snnrobust.networks", {"Node": ("NodeFactory", NodeFactory)})
