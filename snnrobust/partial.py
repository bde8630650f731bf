"""The former path of `snnrobust.plugin.MeasurementCheckpoint`, which was called `Partial`."""

import warnings

from snnrobust.evaluation.run_measurement import run_measurement as measured
from snnrobust.results.checkpoint import MeasurementCheckpoint as Partial

__all__ = ["Partial", "measured"]

warnings.warn(
    "snnrobust.partial.Partial is now snnrobust.plugin.MeasurementCheckpoint; import it from there",
    DeprecationWarning,
    stacklevel=2,
)
