"""A short trainer for small nets, for demos and tests."""

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
