"""Severities that are probabilities."""

from __future__ import annotations

from snnrobust.errors import InputError


def check_probability(severity: float, noise: str) -> None:
    """Raises an `InputError` unless `severity` is in [0, 1]."""
    if not 0 <= severity <= 1:
        raise InputError(f"expected a severity in [0, 1] for {noise}, got {severity}; give a probability")
