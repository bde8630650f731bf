"""The named variants of Yin et al. 2024, arXiv 2403.16674."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from snnrobust.common.validate import check_choice
from snnrobust.errors import InputTypeError
from snnrobust.neurons.variants import Variant

PRESETS: Mapping[str, Variant] = MappingProxyType(
    {
        "vanilla": Variant(),
        "no-leak": Variant(leak="none"),
        "complete-leak": Variant(leak="complete"),
        "no-reset": Variant(reset="none"),
        "recurrent": Variant(recurrent=True),
        "no-leak-recurrent": Variant(leak="none", recurrent=True),
        "no-leak-no-reset-recurrent": Variant(leak="none", reset="none", recurrent=True),
    }
)
"""Read-only: the variant of each name."""


def resolve(variant: str | Variant) -> Variant:
    """The variant of a preset's name; a `Variant` is returned as it is.

    Raises:
        InputError: an unknown name, with the nearest known one.
        InputTypeError: neither a name nor a `Variant`.

        >>> resolve("no-leak")
        Variant(leak='none', reset='hard', recurrent=False)
    """
    if isinstance(variant, Variant):
        return variant
    if not isinstance(variant, str):
        raise InputTypeError(
            f"expected a preset's name or a Variant, got {variant!r} ({type(variant).__name__}); "
            f"choose one of {list(PRESETS)} or build a Variant"
        )
    return PRESETS[check_choice("variant", variant, PRESETS)]
