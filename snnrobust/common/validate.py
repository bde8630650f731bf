"""Checks of arguments, worded "expected X, got Y; do Z"."""

from __future__ import annotations

import math
from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Real

from snnrobust.errors import InputError, InputTypeError

__all__ = ["check_choice", "check_count", "check_flag", "check_positive", "check_real", "check_share"]


def is_count(value: object, least: int = 1) -> bool:
    """Whether `value` is a whole number of at least `least`; True and False don't count."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_positive(value: object) -> bool:
    """Whether `value` is a finite number above 0; True doesn't count."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def check_count(name: str, value: object, least: int = 1, remedy: str = "give a count") -> None:
    """Raises an `InputError` unless `value` is a whole number of at least `least`."""
    if not is_count(value, least):
        raise InputError(f"expected {name} to be a whole number >= {least}, got {value!r}; {remedy}")


def check_positive(name: str, value: object, remedy: str = "give a positive number") -> None:
    """Raises an `InputError` unless `value` is a finite number above 0."""
    if not is_positive(value):
        raise InputError(f"expected a finite {name} > 0, got {value!r}; {remedy}")


def check_share(
    name: str, value: object, remedy: str = "give a share", *, zero: bool = False, one: bool = False
) -> None:
    """Raises an `InputError` unless `value` is a number between 0 and 1.

    Args:
        name: What it is called.
        value: What was given.
        remedy: What to do instead.
        zero: Whether 0 is allowed.
        one: Whether 1 is allowed.
    """
    inside = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    if not inside or (value == 0 and not zero) or (value == 1 and not one):
        interval = f"{'[' if zero else '('}0, 1{']' if one else ')'}"
        raise InputError(f"expected {name} in {interval}, got {value!r}; {remedy}")


def check_flag(name: str, value: object) -> None:
    """Raises an `InputTypeError` unless `value` is True or False."""
    if not isinstance(value, bool):
        raise InputTypeError(
            f"expected {name} to be a bool, got {value!r} ({type(value).__name__}); pass True or False"
        )


def check_choice(name: str, value: object, choices: Iterable[str]) -> str:
    """Returns `value` if it is one of `choices`; the error names the nearest one."""
    known = list(choices)
    if not isinstance(value, str):
        raise InputTypeError(
            f"expected {name} to be a string, got {value!r} ({type(value).__name__}); choose one of {known}"
        )
    if value not in known:
        near = get_close_matches(value, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"expected {name} to be one of {known}, got {value!r}; {hint}choose one of these")
    return value


def check_real(name: str, value: object) -> float:
    """Returns `value` as a float if it is a real number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputTypeError(
            f"expected {name} to be a real number, got {value!r} ({type(value).__name__}); pass a float"
        )
    return float(value)
