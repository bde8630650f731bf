"""What happened to each spike: by hand, and against what sets of spikes must obey."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from snnrobust.analysis.spike_changes import SpikeChanges, spike_changes
from snnrobust.errors import InputError


def grids(most: int) -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    """A sample before and after, [T, *] each."""
    shapes = st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 2))
    return shapes.flatmap(lambda s: st.tuples(*(arrays("i8", s, elements=st.integers(0, most)) for _ in range(2))))


def rebuilt(found: SpikeChanges) -> tuple[np.ndarray, np.ndarray]:
    """The sample before and after, from what is said of each spike."""
    flat = (found.shape[0], int(np.prod(found.shape[1:])))
    before, after = np.zeros(flat, dtype=int), np.zeros(flat, dtype=int)
    for line, step, number in found.kept:
        before[step, line] += number
        after[step, line] += number
    for line, step, number in found.deleted:
        before[step, line] += number
    for line, step, number in found.added:
        after[step, line] += number
    for line, old, new, number in found.moved:
        before[old, line] += number
        after[new, line] += number
    return before.reshape(found.shape), after.reshape(found.shape)


@settings(deadline=None, max_examples=150)
@given(grids(1) | grids(3), st.booleans())
def test_every_spike_is_accounted_for(pair: tuple[np.ndarray, np.ndarray], retimed: bool) -> None:
    original, changed = pair
    found = spike_changes(original, changed, retimed=retimed)
    before, after = rebuilt(found)
    np.testing.assert_array_equal(before, original)
    np.testing.assert_array_equal(after, changed)
    assert all((each[:, -1] > 0).all() for each in (found.kept, found.deleted, found.added, found.moved))
    assert (found.moved[:, 1] != found.moved[:, 2]).all()
    flat = [each.reshape(len(each), -1) for each in pair]
    assert found.changed_lines.tolist() == np.flatnonzero((flat[0] != flat[1]).any(axis=0)).tolist()
    assert found.active_lines.tolist() == np.flatnonzero((flat[0] + flat[1]).any(axis=0)).tolist()
    same = flat[0].sum(axis=0) == flat[1].sum(axis=0)
    if retimed:
        assert not np.isin(np.flatnonzero(same), np.union1d(found.deleted[:, 0], found.added[:, 0])).any()
        assert same[found.moved[:, 0]].all()
    else:
        assert len(found.moved) == 0
        changes = np.maximum(flat[0] - flat[1], 0).sum()
        assert found.deleted[:, 2].sum() == changes  # what counts flips: nothing is both deleted and added


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.data())
def test_no_other_matching_moves_a_line_by_less(old: list[int], data: st.DataObject) -> None:
    new = data.draw(st.lists(st.integers(0, 5), min_size=len(old), max_size=len(old)))
    before, after = (np.bincount(each, minlength=6)[:, None] for each in (old, new))
    moved = spike_changes(before, after).moved
    shifts = np.repeat(np.abs(moved[:, 2] - moved[:, 1]), moved[:, 3])
    others = [np.abs(np.array(old) - np.array(each)) for each in permutations(new)]
    assert shifts.sum() == min(each.sum() for each in others)
    assert shifts.max(initial=0) == min(each.max() for each in others)


def test_spikes_in_order_of_time() -> None:
    before, after = np.array([[0], [1], [1], [0]]), np.array([[0], [0], [1], [1]])
    assert spike_changes(before, after).moved.tolist() == [[0, 1, 2, 1], [0, 2, 3, 1]]
    flips = spike_changes(before, after, retimed=False)
    assert (flips.kept.tolist(), flips.deleted.tolist(), flips.added.tolist()) == (
        [[0, 2, 1]],
        [[0, 1, 1]],
        [[0, 3, 1]],
    )


def test_lines_go_by_channel_y_and_x() -> None:
    before = np.zeros((3, 2, 4, 5))
    after = before.copy()
    after[1, 1, 2, 3] = 2
    assert spike_changes(before, after).added.tolist() == [[1 * 20 + 2 * 5 + 3, 1, 2]]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (np.zeros((3, 2)), np.zeros((2, 3)), "same axes"),
        (np.zeros(3), np.zeros(3), r"one sample, \[T, \*\]"),
        (np.zeros((0, 3)), np.zeros((0, 3)), r"one sample, \[T, \*\]"),
        (np.full((3, 2), 0.5), np.zeros((3, 2)), "whole numbers .* in original, got 0.5"),
        (np.zeros((3, 2)), np.full((3, 2), -1), "whole numbers .* in changed, got -1"),
        (np.zeros((3, 2)), np.full((3, 2), np.nan), "whole numbers .* in changed, got nan"),
        (np.full((3, 2), np.inf), np.zeros((3, 2)), "whole numbers .* in original, got inf"),
    ],
)
def test_what_holds_no_spikes_is_refused(before: np.ndarray, after: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        spike_changes(before, after)
