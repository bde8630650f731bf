"""Tensors that belong to samples: kept by sample id, gathered for whatever batch comes next."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from snnrobust.errors import InputError, PluginError


class SampleMemory:
    """Tensors [N, *] under keys, each row a sample's own; `take` gives zeros for a sample without stored values.

    Rows stay on the device they came from; those of forgotten samples are used again.

    Example:
        >>> memory = SampleMemory()
        >>> memory.put("a", torch.tensor([7, 3]), {"count": torch.tensor([1.0, 2.0])})
        >>> memory.take("a", torch.tensor([3, 9]))
        {'count': tensor([2., 0.])}
    """

    def __init__(self) -> None:
        self._row: dict[int, int] = {}  # sample id -> row
        self._free: list[int] = []
        self._kept: dict[Hashable, dict[str, Tensor]] = {}
        self._replaced: list[tuple[Hashable, str, Tensor, Tensor]] | None = None  # key, name, rows, what they held

    def take(self, key: Hashable, index: Tensor) -> dict[str, Tensor]:
        """What was put under `key`, for the sample ids `index` [N]; empty if nothing was."""
        kept = self._kept.get(key)
        if kept is None:
            return {}
        rows = self._rows(index)
        for name in kept:
            kept[name] = self._grown(kept[name])
        return {name: value[rows.to(value.device)] for name, value in kept.items()}

    def put(self, key: Hashable, index: Tensor, values: Mapping[str, Tensor]) -> None:
        """Keeps `values`, tensors [N, *] by name, for the sample ids `index` [N].

        Raises:
            PluginError: If a value has no row for each sample.
        """
        rows = self._rows(index)
        kept = self._kept.setdefault(key, {})
        for name, value in values.items():
            if not value.ndim or len(value) != len(index):
                where = f"node '{key[0]}', call {key[1]}" if isinstance(key, tuple) and len(key) == 2 else repr(key)
                raise PluginError(
                    f"expected memory '{name}' with a row for each of {len(index)} samples, got shape "
                    f"{tuple(value.shape)} at {where}; store tensors with one row per sample, [N, *]"
                )
            value = value.detach()
            if name not in kept:
                kept[name] = value.new_zeros(self._capacity, *value.shape[1:])
            kept[name] = self._grown(kept[name])
            at = rows.to(value.device)
            if self._replaced is not None:
                self._replaced.append((key, name, at, kept[name][at]))
            kept[name][at] = value

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Puts everything back that is replaced inside, should anything fail there."""
        self._replaced = []
        try:
            yield
        except BaseException:
            for key, name, at, before in reversed(self._replaced):
                self._kept[key][name][at] = before
            raise
        finally:
            self._replaced = None

    def forget(self, index: Tensor | None = None) -> None:
        """Drops all, or what belongs to the sample ids `index` [N], whose rows become free."""
        if index is None:
            self._row, self._free, self._kept = {}, [], {}
            return
        freed = [self._row.pop(i) for i in index.tolist() if i in self._row]
        self._free += freed
        for values in self._kept.values():
            for name in values:
                values[name] = self._grown(values[name])
                values[name][freed] = 0

    @property
    def _capacity(self) -> int:
        return len(self._row) + len(self._free)

    def _rows(self, index: Tensor) -> Tensor:
        ids = index.tolist()
        if len(set(ids)) < len(ids):
            raise InputError(f"expected each sample id once in a batch, got {ids}; ask for a sample once")
        for sample in ids:
            if sample not in self._row:
                self._row[sample] = self._free.pop() if self._free else len(self._row)
        return torch.tensor([self._row[sample] for sample in ids], dtype=torch.long)

    def _grown(self, value: Tensor) -> Tensor:
        missing = self._capacity - len(value)
        return torch.cat([value, value.new_zeros(missing, *value.shape[1:])]) if missing > 0 else value
