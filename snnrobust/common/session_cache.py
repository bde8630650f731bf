"""What is computed once and holds while a session of a model is open, by typed keys."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


@dataclass(frozen=True)
class CacheKey(Generic[T]):
    """Names a value of type T.

    Attributes:
        name: What the value is.
        parts: What it depends on.
    """

    name: str
    parts: tuple[Hashable, ...] = ()


class SessionCache:
    """Values that stay valid while nobody changes the net, hence for the length of a session.

    Outside a session nothing is kept: each request computes its value anew.

    Example:
        >>> cache, total = SessionCache(), CacheKey[int]("total")
        >>> cache.open()
        >>> cache.get(total, lambda: 3), cache.get(total, lambda: 4)
        (3, 3)
        >>> cache.close()
        >>> cache.get(total, lambda: 4)
        4
    """

    def __init__(self) -> None:
        self._values: dict[CacheKey[Any], object] = {}
        self._open = False

    def open(self) -> None:
        """Starts to keep values."""
        self._open = True

    def close(self) -> None:
        """Drops all values, and keeps no more."""
        self._values.clear()
        self._open = False

    def get(self, key: CacheKey[T], compute: Callable[[], T]) -> T:
        """The value of `key`; computed if it is not held."""
        if not self._open:
            return compute()
        if key not in self._values:
            self._values[key] = compute()
        return cast(T, self._values[key])
