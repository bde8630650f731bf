"""What an attack did to the spikes of a sample: kept, deleted, added and moved in time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from snnrobust.errors import InputError


@dataclass(frozen=True, eq=False)
class SpikeChanges:
    """The spikes of a sample before and after a change, by line: an entry of a step, e.g. a pixel of a polarity.

    Lines are numbered in the order of the entries of a step: by channel, y and x for [T, C, H, W]. Steps count from 0.
    With `retimed`, a changed line with as many spikes as before has had spikes moved: the k-th spike to the place of
    the k-th, which makes the largest and the total shift of the line least. All other changes are deletions and
    additions.

    Attributes:
        kept: Line, step and number of spikes that stayed, [A, 3].
        deleted: Line, step and number, [B, 3].
        added: Line, step and number, [C, 3].
        moved: Line, step before, step after and number, [D, 4].
        shape: Axes of the sample, (T, *).
    """

    kept: np.ndarray
    deleted: np.ndarray
    added: np.ndarray
    moved: np.ndarray
    shape: tuple[int, ...]

    @property
    def changed_lines(self) -> np.ndarray:
        """Lines of which a spike was deleted, added or moved, ascending."""
        return np.unique(np.concatenate([each[:, 0] for each in (self.deleted, self.added, self.moved)]))

    @property
    def active_lines(self) -> np.ndarray:
        """Lines with a spike before or after, ascending."""
        return np.union1d(self.kept[:, 0], self.changed_lines)


def spike_changes(original: np.ndarray, changed: np.ndarray, *, retimed: bool = True) -> SpikeChanges:
    """Compares the spikes of a sample before and after.

    Args:
        original: Spikes or numbers of spikes, [T, *].
        changed: The same after the attack, [T, *].
        retimed: Whether a line that kept its number of spikes has had them moved; else all changes are deletions and
            additions.

    Raises:
        InputError: If the two differ in shape, have no axis beside time, or hold anything but whole numbers from 0 up.

    Example:
        >>> before = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]])  # [T = 3, F = 3]
        >>> after = np.array([[0, 0, 1], [1, 0, 0], [0, 0, 1]])
        >>> found = spike_changes(before, after)
        >>> found.moved.tolist(), found.deleted.tolist(), found.added.tolist(), found.kept.tolist()
        ([[0, 0, 1, 1]], [[1, 2, 1]], [[2, 2, 1]], [[2, 0, 1]])
    """
    before, after = _counts("original", original), _counts("changed", changed)
    if np.shape(original) != np.shape(changed):
        raise InputError(
            f"expected the same axes before and after, got {np.shape(original)} and {np.shape(changed)}; pass one "
            f"sample and its changed version"
        )
    retimed_lines = np.flatnonzero((before.sum(axis=1) == after.sum(axis=1)) & (before != after).any(axis=1))
    pairs = [_pairs(line, before[line], after[line]) for line in (retimed_lines.tolist() if retimed else ())]
    moved = np.concatenate([np.zeros((0, 3), dtype=np.int64), *pairs])
    staying = np.minimum(before, after)
    lost, gained = before - staying, after - staying
    if retimed:
        lost[retimed_lines], gained[retimed_lines], staying[retimed_lines] = 0, 0, 0
        still = moved[:, 1] == moved[:, 2]
        np.add.at(staying, (moved[still, 0], moved[still, 1]), 1)
        moved = moved[~still]
    rows, number = np.unique(moved, axis=0, return_counts=True)
    return SpikeChanges(
        _entries(staying),
        _entries(lost),
        _entries(gained),
        np.concatenate([rows, number[:, None]], axis=1).astype(np.int64),
        tuple(np.shape(original)),
    )


def _counts(name: str, spikes: np.ndarray) -> np.ndarray:
    """Numbers of spikes by line and step, [L, T]."""
    array = np.asarray(spikes)
    if array.ndim < 2 or array.size == 0:
        raise InputError(f"expected {name} of one sample, [T, *], got shape {list(array.shape)}; select a sample")
    whole = np.isfinite(array) & (array >= 0) & (array == np.floor(array))
    if not whole.all():
        raise InputError(
            f"expected whole numbers of spikes from 0 up in {name}, got {array[~whole].flat[0]:.4g}; only binary and "
            f"integer inputs have spikes to compare"
        )
    counts: np.ndarray = array.reshape(len(array), -1).T.astype(np.int64)
    return counts


def _pairs(line: int, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Line, step before and step after of each spike of a line, in order of time, [S, 3]."""
    steps = np.arange(len(before))
    first, second = np.repeat(steps, before), np.repeat(steps, after)
    return np.stack([np.full(len(first), line), first, second], axis=1)


def _entries(counts: np.ndarray) -> np.ndarray:
    """Line, step and number of the entries of [L, T] that are not 0, [M, 3]."""
    line, step = np.nonzero(counts)
    return np.stack([line, step, counts[line, step]], axis=1)
