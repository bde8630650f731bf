"""The former path of `snnrobust.plugin.Partial`."""

import warnings

from snnrobust.evaluation.measure import measured
from snnrobust.results.checkpoint import Partial

__all__ = ["Partial", "measured"]

warnings.warn(
    "snnrobust.partial.Partial is now snnrobust.plugin.Partial; import it from there", DeprecationWarning, stacklevel=2
)
