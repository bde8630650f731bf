import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snnrobust.data import stratified_split
from snnrobust.errors import InputError, InputTypeError


@given(
    labels=st.lists(st.integers(0, 4), min_size=3, max_size=80), seed=st.integers(0, 2**40), share=st.floats(0.1, 0.8)
)
def test_parts_are_disjoint_and_keep_the_proportions(labels, seed, share):
    y = torch.tensor(labels)
    first = max(1, int(share * len(y)))
    parts = stratified_split(y, (first, len(y) - first), seed)
    assert torch.cat(parts).sort().values.tolist() == list(range(len(y)))
    for label in y.unique():
        expected = first * (y == label).sum() / len(y)
        assert abs((y[parts[0]] == label).sum() - expected) <= len(y.unique()) / 2 + 1


def test_equal_classes_are_split_equally_also_at_the_start_of_a_part():
    y = torch.arange(10).repeat_interleave(50)  # sorted by class, as the real files are
    train, test = stratified_split(y, (300, 100), seed=0)
    assert y[train].bincount().tolist() == [30] * 10
    assert y[test].bincount().tolist() == [10] * 10
    assert y[train][:20].bincount().tolist() == [2] * 10


PINNED = [[11, 3, 1, 2, 6, 7], [8, 0, 4]]


def test_it_is_the_same_everywhere():
    y = torch.arange(3).repeat(4)
    assert [part.tolist() for part in stratified_split(y, (6, 3), seed=0)] == PINNED
    assert [part.tolist() for part in stratified_split(y, (6, 3), seed=1)] != PINNED


def test_global_generators_stay_untouched():
    before = torch.random.get_rng_state()
    stratified_split(torch.arange(9) % 3, (3, 3), seed=0)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("y", "sizes", "seed", "error"),
    [
        (torch.arange(4), (), 0, InputError),
        (torch.arange(4), (3, 0), 0, InputError),
        (torch.arange(4), (3, 2), 0, InputError),
        (torch.arange(4).reshape(2, 2), (1,), 0, InputError),
        (torch.arange(4), (2,), -1, InputError),
        (torch.arange(4), (2.0,), 0, InputTypeError),
        (torch.arange(4), (2,), 0.5, InputTypeError),
        (torch.rand(4), (2,), 0, InputTypeError),
        ([0, 1, 2], (2,), 0, InputTypeError),
    ],
)
def test_impossible_splits_are_refused(y, sizes, seed, error):
    with pytest.raises(error, match="expected"):
        stratified_split(y, sizes, seed)
