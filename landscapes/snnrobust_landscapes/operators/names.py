"""Operators by name, as the settings of measurements give them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from snnrobust.errors import InputError, InputTypeError
from snnrobust_landscapes.operators.field import Field
from snnrobust_landscapes.operators.gauss_newton import Fisher, GaussNewton
from snnrobust_landscapes.operators.hessian import Formal
from snnrobust_landscapes.operators.operator import OperatorSpec
from snnrobust_landscapes.operators.relaxed import Relaxed
from snnrobust_landscapes.operators.smoothed import Smoothed

NAMES: dict[str, Callable[..., OperatorSpec]] = {
    "gauss-newton": GaussNewton,
    "relaxed": Relaxed,
    "formal": Formal,
    "field": Field,
    "fisher": Fisher,
    "smoothed": Smoothed,
}


def operator_spec(value: str | Mapping[str, Any] | OperatorSpec) -> OperatorSpec:
    """The operator that `value` specifies.

    Args:
        value: A name, a mapping of "name" and settings, or an operator itself.

    Raises:
        InputError: For an unknown name or setting, or a setting out of range.
        InputTypeError: For something else.

    Example:
        >>> operator_spec("gauss-newton")
        GaussNewton(surrogate='matched', radius=0.1)
        >>> operator_spec({"name": "field", "part": "symmetric"}).name
        'symmetric part of the Jacobian of the surrogate-gradient field'
    """
    if isinstance(value, str):
        return operator_spec({"name": value})
    if isinstance(value, Mapping):
        settings = dict(value)
        name = settings.pop("name", None)
        if name not in NAMES:
            close = difflib.get_close_matches(str(name), NAMES, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"choose one of {', '.join(NAMES)}"
            hessian = "; the surrogate Hessian is 'formal'" if name == "hessian" else ""
            raise InputError(f"expected the name of an operator, got {name!r}; {hint}{hessian}")
        try:
            return NAMES[name](**settings)
        except TypeError as error:
            raise InputError(f"expected settings of operator '{name}', got {settings}: {error}; check them") from error
    if not callable(getattr(value, "on", None)):
        raise InputTypeError(
            f"expected an operator's name, a mapping with it, or an operator, got {value!r}; e.g. 'gauss-newton'"
        )
    return value
