"""Checks of the settings that the measurements share."""

from __future__ import annotations

import math
from typing import Any

from snnrobust.errors import InputError


def require_counts(settings: object, **least: int) -> None:
    """Raises an `InputError` for a setting that is no whole number, or smaller than it may be.

    Args:
        settings: What has the settings as attributes.
        **least: The smallest value of each that is asked for.
    """
    for name, lowest in least.items():
        value = getattr(settings, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
            raise InputError(f"expected {name} to be a whole number >= {lowest}, got {value!r}; give a count")


def require_positive(settings: object, *names: str) -> None:
    """Raises an `InputError` for a setting among `names` that is no finite number above 0."""
    for name in names:
        if not positive(value := getattr(settings, name)):
            raise InputError(f"expected a finite {name} > 0, got {value!r}; give a positive number")


def require_shares(settings: object, *names: str) -> None:
    """Raises an `InputError` for a setting among `names` that is no number between 0 and 1, both excluded."""
    for name in names:
        if not (positive(value := getattr(settings, name)) and value < 1):
            raise InputError(f"expected {name} in (0, 1), got {value!r}; give a share")


def require_not_negative(settings: object, *names: str) -> None:
    """Raises an `InputError` for a setting among `names` that is no finite number, 0 or above."""
    for name in names:
        if not (positive(value := getattr(settings, name)) or (value == 0 and not isinstance(value, bool))):
            raise InputError(f"expected a finite {name} >= 0, got {value!r}; give 0 or a positive number")


def positive(value: Any) -> bool:
    """Whether `value` is a finite number above 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
