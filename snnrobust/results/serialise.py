"""Artifacts as arrays and plain JSON, and back: what the store writes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np

from snnrobust.common.files import Arrays
from snnrobust.errors import StoreError
from snnrobust.results.artifacts import Artifact

#: "Surface" -> Surface, and so on.
_KINDS: dict[str, type[Artifact]] = {kind.__name__: kind for kind in get_args(Artifact)}
_ARRAY, _ARRAYS = "np.ndarray", "dict[str, np.ndarray]"


def as_plain(artifacts: Sequence[Artifact]) -> tuple[list[dict[str, Any]], Arrays]:
    """What JSON can hold of artifacts, and the arrays beside it; equal artifacts give equal bytes.

    The k-th array of a field that holds several is called "ARTIFACT.FIELD.K", since a file's entries can't have any
    name, and quantities can.

    Example:
        >>> from snnrobust.results.artifacts import Profile
        >>> drawn = Profile(np.zeros(2), {"loss": np.ones(2)}, "radius", "A line.")
        >>> plain, arrays = as_plain([drawn])
        >>> plain[0]["kind"], plain[0]["values"], list(arrays)
        ('Profile', ['loss'], ['0.x', '0.values.0'])
        >>> from_plain(plain, arrays)[0].values
        {'loss': array([1., 1.])}
    """
    described: list[dict[str, Any]] = []
    arrays: Arrays = {}
    for i, artifact in enumerate(artifacts):
        plain: dict[str, Any] = {"kind": type(artifact).__name__}
        for each in dataclasses.fields(artifact):
            value, name = getattr(artifact, each.name), f"{i}.{each.name}"
            if each.type == _ARRAY:
                arrays[name] = np.asarray(value, order="C")  # the order in memory would change the bytes
            elif each.type == _ARRAYS:
                plain[each.name] = list(value)
                arrays |= {f"{name}.{k}": np.asarray(array, order="C") for k, array in enumerate(value.values())}
            else:
                plain[each.name] = value
        described.append(plain)
    return described, arrays


def from_plain(described: Sequence[dict[str, Any]], arrays: Arrays) -> list[Artifact]:
    """The artifacts of `as_plain`.

    Raises:
        StoreError: If one is of no known kind.
    """
    return [_artifact(plain, arrays, i) for i, plain in enumerate(described)]


def array_names(described: Sequence[dict[str, Any]]) -> list[str]:
    """Names of the arrays that `from_plain` takes for what JSON holds of artifacts.

    Raises:
        StoreError: If one is of no known kind.
        ValueError: If a part of the description is missing or of another type.
    """
    names = []
    for i, plain in enumerate(described):
        for each in dataclasses.fields(_kind(plain)):
            if each.type == _ARRAY:
                names.append(f"{i}.{each.name}")
                continue
            value: Any = plain[each.name]
            several = each.type != "str"
            if not isinstance(value, list if several else str) or not all(isinstance(part, str) for part in value):
                raise ValueError(f"{type(value).__name__} for '{each.name}' of a {plain['kind']}")
            if each.type == _ARRAYS:
                names += [f"{i}.{each.name}.{k}" for k in range(len(value))]
    return names


def _kind(plain: dict[str, Any]) -> type[Artifact]:
    kind = _KINDS.get(plain["kind"])
    if kind is None:
        raise StoreError(
            f"expected an artifact of a kind in {list(_KINDS)}, got {plain['kind']!r}; use the version that wrote it"
        )
    return kind


def _artifact(plain: dict[str, Any], arrays: Arrays, i: int) -> Artifact:
    kind = _kind(plain)
    values: dict[str, Any] = {}
    for each in dataclasses.fields(kind):
        name = f"{i}.{each.name}"
        if each.type == _ARRAY:
            values[each.name] = arrays[name]
        elif each.type == _ARRAYS:
            values[each.name] = {key: arrays[f"{name}.{k}"] for k, key in enumerate(plain[each.name])}
        else:
            value = plain[each.name]
            values[each.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)
