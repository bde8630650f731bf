import numpy as np
import pytest
import torch

from snnrobust.data import Dataset, Splits, from_npz
from snnrobust.errors import InputError, InputTypeError

X, Y = np.arange(12, dtype=np.uint8).reshape(3, 4), np.array([2, 0, 1], dtype=np.int32)


def save(folder, **arrays):
    path = folder / "mine.npz"
    np.savez(path, **arrays)
    return path


def splits(**changes):
    arrays = {
        f"{field}_{part}": value for part in ("train", "validation", "test") for field, value in (("x", X), ("y", Y))
    }
    return {**arrays, **changes}


def test_one_set(tmp_path):
    data = from_npz(save(tmp_path, x=X, y=Y))
    assert isinstance(data, Dataset)
    assert data.name == "mine"
    assert torch.equal(data.x, torch.arange(12.0).reshape(3, 4))
    assert data.y.tolist() == [2, 0, 1]
    assert data.index.tolist() == [0, 1, 2]
    assert data.lengths is None


def test_sequences(tmp_path):
    data = from_npz(str(save(tmp_path, x=X, y=Y, lengths=np.array([4, 1, 2]))))
    assert data.lengths.tolist() == [4, 1, 2]


def test_three_splits_get_ids_of_their_own(tmp_path):
    lengths = {f"lengths_{part}": np.array([1, 2, 3]) for part in ("train", "validation", "test")}
    for extra in ({}, lengths):
        data = from_npz(save(tmp_path, **splits(**extra)))
        assert isinstance(data, Splits)
        assert torch.cat([data.train.index, data.validation.index, data.test.index]).tolist() == list(range(9))
        assert (data.test.lengths is None) == (not extra)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({}, "got none"),
        ({"x": X}, "got x in"),
        ({"x": X, "y": Y, "lenghts": Y}, "got lenghts, x, y"),
        ({**splits(), "x": X}, "expected the arrays"),
        ({"x": X.astype(object), "y": Y}, "instead of Python objects"),
        ({"x": X.astype(str), "y": Y}, "numbers in x"),
        ({"x": X.astype(complex), "y": Y}, "numbers in x, got dtype complex128"),
        ({"x": np.array([[0.0], [np.nan], [1.0]]), "y": Y}, "NaN or infinity in 1 samples"),
        ({"x": np.array([[0.0], [1e300], [1.0]]), "y": Y}, "NaN or infinity in 1 samples"),
        ({"x": X[:0], "y": Y[:0]}, "at least one sample"),
        ({"x": np.float32(1), "y": Y}, r"x of shape \[N, \*\]"),
        ({"x": X, "y": Y.astype(float)}, r"integers in y, got dtype float64; convert with .astype\('int64'\)"),
        ({"x": X, "y": Y - 1}, "labels from 0 up"),
        ({"x": X, "y": Y[:2]}, r"y of shape \[3\]"),
        ({"x": X, "y": Y, "lengths": np.array([1, 2, 5])}, "between 1 and the 4 steps"),
        ({"x": X, "y": Y, "lengths": np.array([1.0, 2.0, 3.0])}, "integers in lengths"),
        (splits(y_test=Y[:1]), "arrays x_test, y_test"),
    ],
)
def test_unusable_arrays_are_refused(tmp_path, arrays, words):
    with pytest.raises(InputError, match=words):
        from_npz(save(tmp_path, **arrays))


def test_a_file_that_is_missing_damaged_or_of_another_kind(tmp_path):
    with pytest.raises(InputError, match="no file at"):
        from_npz(tmp_path / "none.npz")
    whole = save(tmp_path, x=X, y=Y)
    whole.write_bytes(whole.read_bytes()[:200])
    with pytest.raises(InputError, match="plain arrays"):
        from_npz(whole)
    np.save(tmp_path / "one.npy", X)
    with pytest.raises(InputError, match="one array"):
        from_npz(tmp_path / "one.npy")
    with pytest.raises(InputError, match="plain arrays"):
        from_npz(tmp_path)
    with pytest.raises(InputTypeError, match="a path"):
        from_npz(7)
