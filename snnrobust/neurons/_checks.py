"""Checks of arguments, worded "expected X, got Y; do Z"."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Real

from snnrobust.errors import InputError, InputTypeError


def check_choice(name: str, value: object, choices: Iterable[str]) -> str:
    """Returns `value` if it is one of `choices`; the error names the nearest one."""
    known = list(choices)
    if not isinstance(value, str):
        raise InputTypeError(
            f"expected {name} to be a string, got {value!r} ({type(value).__name__}); do: choose one of {known}"
        )
    if value not in known:
        near = get_close_matches(value, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"expected {name} to be one of {known}, got {value!r}; {hint}do: choose one of these")
    return value


def check_bool(name: str, value: object) -> bool:
    """Returns `value` if it is a bool."""
    if not isinstance(value, bool):
        raise InputTypeError(
            f"expected {name} to be a bool, got {value!r} ({type(value).__name__}); do: pass True or False"
        )
    return value


def check_real(name: str, value: object) -> float:
    """Returns `value` as a float if it is a real number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputTypeError(
            f"expected {name} to be a real number, got {value!r} ({type(value).__name__}); do: pass a float"
        )
    return float(value)
