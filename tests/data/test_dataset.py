import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from snnrobust.data import Dataset, Splits
from snnrobust.errors import InputError, InputTypeError


def toy(n=6, **kwargs):
    return Dataset.of(torch.arange(n * 4.0).reshape(n, 1, 2, 2), torch.arange(n) % 3, name="toy", **kwargs)


def test_selecting_keeps_samples_labels_lengths_and_ids_together():
    data = Dataset.of(torch.rand(5, 7, 2), torch.arange(5), lengths=torch.tensor([1, 7, 3, 4, 5]))
    some = data.select([4, 1]).select([1, 0])
    assert some.index.tolist() == [1, 4]
    assert some.y.tolist() == [1, 4]
    assert some.lengths.tolist() == [7, 5]
    assert torch.equal(some.x, data.x[[1, 4]])
    assert len(some) == 2


@pytest.mark.parametrize(
    "indices",
    [[3, 1], (3, 1), np.array([3, 1]), torch.tensor([3, 1]), torch.tensor([3, 1], dtype=torch.uint8)],
    ids=["list", "tuple", "numpy", "int64", "uint8"],
)
def test_positions_may_be_any_integers(indices):
    assert toy().select(indices).index.tolist() == [3, 1]


def test_a_mask_selects_where_it_is_true():
    data = toy()
    assert data.select(data.y == 2).index.tolist() == [2, 5]


def test_take_gives_the_first():
    assert toy().take(2).index.tolist() == [0, 1]
    assert toy().take(6).index.tolist() == list(range(6))


def test_classes_count_up_to_the_largest_label():
    assert toy().classes == 3


def test_it_is_immutable():
    with pytest.raises(AttributeError):
        toy().x = torch.zeros(6, 1, 2, 2)


def test_a_data_loader_takes_it():
    x, y = next(iter(DataLoader(toy(), batch_size=4)))
    assert x.shape == (4, 1, 2, 2)
    assert y.tolist() == [0, 1, 2, 0]


def test_it_survives_pickling():
    assert torch.equal(pickle.loads(pickle.dumps(toy())).x, toy().x)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"x": [[0.0]]}, InputTypeError, "x as a tensor, got list"),
        ({"x": torch.zeros(2, 3, dtype=torch.float64)}, InputTypeError, "x as torch.float32, got torch.float64"),
        ({"x": torch.zeros(2)}, InputError, r"x of shape \[N, \*\]"),
        ({"x": torch.zeros(0, 3)}, InputError, "at least one sample"),
        ({"x": torch.tensor([[0.0], [torch.nan]])}, InputError, "NaN or infinity in 1 samples"),
        ({"x": torch.tensor([[torch.inf], [torch.nan]])}, InputError, "in 2 samples"),
        ({"y": torch.tensor([0.0, 1.0])}, InputTypeError, "y as torch.int64"),
        ({"y": torch.tensor([0])}, InputError, r"y of shape \[2\], one entry a sample, got \[1\]"),
        ({"y": torch.tensor([0, -1])}, InputError, "labels from 0 up, got -1"),
        ({"index": torch.tensor([1, 1])}, InputError, "repeated ids"),
        ({"lengths": torch.tensor([1, 4])}, InputError, "between 1 and the 3 steps"),
        ({"lengths": torch.tensor([0, 3])}, InputError, "got 0 to 3"),
    ],
)
def test_fields_that_make_no_data_set_are_refused(change, error, words):
    fields = {"x": torch.zeros(2, 3), "y": torch.tensor([0, 1]), "index": torch.tensor([0, 1])}
    Dataset(**fields)
    with pytest.raises(error, match=words):
        Dataset(**{**fields, **change})


@pytest.mark.parametrize(
    ("indices", "error", "words"),
    [
        ([], InputError, "at least one sample"),
        (torch.zeros(6, dtype=torch.bool), InputError, "at least one sample"),
        (torch.ones(5, dtype=torch.bool), InputTypeError, r"mask \[6\]"),
        ([0.0, 1.0], InputTypeError, "integer positions"),
        ([[0, 1]], InputError, r"got \[1, 2\]"),
        ([0, 6], InputError, "from 0 to 5, got 0 to 6"),
        ([-1], InputError, "from 0 to 5"),
        ([2, 2], InputError, "repeated ids"),
    ],
)
def test_selections_that_make_no_sense_are_refused(indices, error, words):
    with pytest.raises(error, match=words):
        toy().select(indices)


@pytest.mark.parametrize(
    ("n", "error"), [(0, InputError), (7, InputError), (2.0, InputTypeError), (True, InputTypeError)]
)
def test_take_refuses_what_it_cannot_give(n, error):
    with pytest.raises(error):
        toy().take(n)


def test_splits_share_no_sample():
    data = toy()
    Splits(data.select([0, 1]), data.select([2, 3]), data.select([4, 5]), "by hand")
    with pytest.raises(InputError, match="1 ids in more than one"):
        Splits(data.select([0, 1]), data.select([2, 3]), data.select([3, 5]), "by hand")
