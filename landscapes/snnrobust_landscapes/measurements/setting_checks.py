"""Checks of the settings that the measurements share."""

from __future__ import annotations

from snnrobust.common.validate import check_count, check_positive, check_share, is_positive
from snnrobust.errors import InputError


def require_counts(settings: object, **least: int) -> None:
    """Raises an `InputError` for a setting that is not a whole number, or is too small.

    Args:
        settings: The object with the settings as attributes.
        **least: The smallest value of each setting to check.
    """
    for name, lowest in least.items():
        check_count(name, getattr(settings, name), lowest)


def require_positive(settings: object, *names: str) -> None:
    """Raises an `InputError` for a setting among `names` that is not a finite number above 0."""
    for name in names:
        check_positive(name, getattr(settings, name))


def require_shares(settings: object, *names: str) -> None:
    """Raises an `InputError` for a setting among `names` that is not a number between 0 and 1, both excluded."""
    for name in names:
        check_share(name, getattr(settings, name))


def require_not_negative(settings: object, *names: str) -> None:
    """Raises an `InputError` for a setting among `names` that is not a finite number, 0 or above."""
    for name in names:
        value = getattr(settings, name)
        if not (is_positive(value) or (value == 0 and not isinstance(value, bool))):
            raise InputError(f"expected a finite {name} >= 0, got {value!r}; give 0 or a positive number")
