"""The former path of `snnrobust.networks`."""

import warnings

from snnrobust.networks import NodeFactory as Node
from snnrobust.networks import conv, mlp

__all__ = ["Node", "conv", "mlp"]

warnings.warn("snnrobust.nets is now snnrobust.networks; import it from there", DeprecationWarning, stacklevel=2)
