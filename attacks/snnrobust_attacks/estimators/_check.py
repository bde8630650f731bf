"""The one check that most estimators need."""

from __future__ import annotations

import math

from snnrobust.errors import InputError


def check_positive(**values: float) -> None:
    """Raises an `InputError` that names the first value that is no positive, finite number."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not (value > 0 and math.isfinite(value)):
            raise InputError(f"expected {name} > 0, got {value!r}; give a positive, finite number")
