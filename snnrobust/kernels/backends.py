"""The backends that this machine has."""

from __future__ import annotations

from functools import cache

from snnrobust.kernels.build import BuildError
from snnrobust.kernels.compiled import Compiled
from snnrobust.kernels.fast import Backend
from snnrobust.kernels.native import Native


@cache
def backends(device: str) -> tuple[tuple[Backend, ...], str]:
    """The backends for a type of device, in order of preference, and the reason if there are none."""
    try:
        return ((Native(), Compiled()) if device == "cpu" else (Compiled(),)), ""
    except BuildError as error:
        return (), str(error)
