"""A short trainer for small nets, for demos, tests and studies."""

from snnrobust.training.losses import (
    LOGIT_LOSSES,
    RATE_LOSSES,
    RATE_SCALE,
    Loss,
    cross_entropy,
    rate_cross_entropy,
    rate_mse,
    spike_count,
)
from snnrobust.training.silence import SilentNeurons
from snnrobust.training.trainer import History, accuracy, initialised, train

__all__ = [
    "LOGIT_LOSSES",
    "RATE_LOSSES",
    "RATE_SCALE",
    "History",
    "Loss",
    "SilentNeurons",
    "accuracy",
    "cross_entropy",
    "initialised",
    "rate_cross_entropy",
    "rate_mse",
    "spike_count",
    "train",
]
