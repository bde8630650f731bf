"""What a plugin author needs: the protocols, one for each kind of plugin."""

from snnrobust.common.deprecation import former_names
from snnrobust.plugin.protocols import (
    GROUPS,
    AnyEstimator,
    Corruption,
    Ensemble,
    Estimator,
    Fitted,
    Measurement,
    Mixture,
    NodeEstimator,
    NodeRun,
    Objective,
    Optimiser,
    PerModule,
    Perturbation,
    Pointwise,
    Queries,
    Relaxation,
    State,
    View,
)
from snnrobust.results.checkpoint import MeasurementCheckpoint

__all__ = [
    "GROUPS",
    "AnyEstimator",
    "Corruption",
    "Ensemble",
    "Estimator",
    "Fitted",
    "Measurement",
    "MeasurementCheckpoint",
    "Mixture",
    "NodeEstimator",
    "NodeRun",
    "Objective",
    "Optimiser",
    "PerModule",
    "Perturbation",
    "Pointwise",
    "Queries",
    "Relaxation",
    "State",
    "View",
]

__getattr__ = former_names("snnrobust.plugin", {"Partial": ("MeasurementCheckpoint", MeasurementCheckpoint)})
