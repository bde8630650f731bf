"""Training of small nets, enough to have something real to evaluate."""

from snnrobust.training.trainer import (
    LOSSES,
    RATE_SCALE,
    History,
    Loss,
    accuracy,
    initialised,
    rate_cross_entropy,
    rate_mse,
    train,
)

__all__ = [
    "LOSSES",
    "RATE_SCALE",
    "History",
    "Loss",
    "accuracy",
    "initialised",
    "rate_cross_entropy",
    "rate_mse",
    "train",
]
