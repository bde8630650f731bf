"""Intermediate results of a long measurement, from which a killed run is resumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from snnrobust.common.batching import out_of_memory
from snnrobust.common.files import Arrays, exists, pack, reading, unpack, write
from snnrobust.errors import PluginError, SnnRobustError

#: What to do about a damaged file.
CURE = "delete it and resume (`--resume`, or the same out=)"
#: Seconds between two writes: about what a kill may cost.
EVERY = 2.0


class MeasurementCheckpoint:
    """Arrays by name, all of them in one file that is whole or absent; in memory alone where no file is named.

    Args:
        path: An .npz file, which may hold what an earlier process kept.
        every: Seconds between two writes.
        on_put: Called with the name of each array and the share of it that is finite, to show progress.

    Raises:
        StoreError: If the file is damaged.

    Example:
        >>> checkpoint = MeasurementCheckpoint()
        >>> checkpoint.get("loss") is None
        True
        >>> checkpoint.put("loss", np.array([0.5, np.nan]))
        >>> checkpoint.get("loss")
        array([0.5, nan])
    """

    def __init__(
        self,
        path: Path | None = None,
        every: float = EVERY,
        on_put: Callable[[str, float], object] = lambda what, share: None,
    ) -> None:
        self._path = path
        self._every = every
        self._on_put = on_put
        self._arrays: Arrays = unpack(path, CURE) if path is not None and exists(path) else {}
        self._resumed = bool(self._arrays)
        self._written = time.monotonic()
        self._changed = False

    def get(self, name: str) -> np.ndarray | None:
        """A copy of what was put under this name, or None."""
        found = self._arrays.get(name)
        return None if found is None else found.copy()

    def put(self, name: str, array: np.ndarray) -> None:
        """Keeps a copy of `array`, on disk at the next write."""
        self._arrays[name] = np.array(array)
        self._changed = True
        self._on_put(name, float(np.isfinite(array).mean()))
        if time.monotonic() - self._written >= self._every:
            self.write()

    def write(self) -> None:
        """Writes what has changed since the last time, now."""
        if self._path is not None and self._changed:
            write(self._path, pack(self._arrays))
        self._written, self._changed = time.monotonic(), False

    @contextmanager
    def written(self) -> Iterator[MeasurementCheckpoint]:
        """Writes what was put on leaving, too, also after an interruption or an error.

        Raises:
            StoreError: If a measurement fails on what an earlier process kept.
        """
        try:
            yield self
        except Exception as error:
            ours = isinstance(error, SnnRobustError) and not isinstance(error, PluginError)
            if ours or out_of_memory(error) or not self._resumed or self._path is None:
                raise
            with reading(self._path, "intermediate results of this measurement", CURE):
                raise
        finally:
            self.write()
