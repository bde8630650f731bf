import struct

import numpy as np
import pytest
import torch

from snnrobust.data import load
from snnrobust.errors import InputError, InputTypeError


def write_idx(path, array):
    """The real IDX format: 0, 0, type 8 (unsigned byte), rank, big-endian sizes, bytes."""
    path.write_bytes(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


@pytest.fixture
def root(tmp_path):
    """30 training and 10 test pictures of 28 x 28, of which pixel (0, 0) is the number of the picture."""
    pytest.importorskip("torchvision", reason="torchvision reads the files")
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 30), ("t10k", 10)):
        images = np.full((count, 28, 28), 255, dtype=np.uint8)
        images[:, 0, 0] = np.arange(count)
        write_idx(raw / f"{part}-images-idx3-ubyte", images)
        write_idx(raw / f"{part}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    return tmp_path


def test_the_official_files_are_read_and_split(root):
    data = load("torchvision:FashionMNIST", root=root)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [27, 3, 10]
    assert data.train.x.shape == (27, 1, 28, 28)
    assert data.train.x.max() == 1
    for part, first in ((data.train, 0), (data.validation, 0), (data.test, 30)):
        number = (part.x[:, 0, 0, 0] * 255).round().long()
        assert torch.equal(part.index, number + first)
        assert torch.equal(part.y, number % 10)
    assert "last 3" in data.description
    assert data.train.name == "torchvision:FashionMNIST, training split of seed 0"


def test_the_split_is_fixed(root):
    first, second = (load("torchvision:FashionMNIST", root=str(root)) for _ in range(2))
    assert torch.equal(first.validation.index, second.validation.index)


@pytest.mark.parametrize(("cls", "folder"), [("MNIST", "MNIST/raw"), ("CIFAR10", "cifar-10-batches-py")])
def test_missing_files_are_told_where_to_go(tmp_path, cls, folder):
    pytest.importorskip("torchvision", reason="torchvision reads the files")
    with pytest.raises(InputError, match="not found") as caught:
        load(f"torchvision:{cls}", root=tmp_path)
    assert str(tmp_path / folder) in str(caught.value)
    assert "download=True" not in str(caught.value)


def test_a_damaged_file_is_an_input_error(root):
    file = root / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match="FashionMNIST"):
        load("torchvision:FashionMNIST", root=root)


def test_a_root_is_needed():
    with pytest.raises(InputError, match="pass root="):
        load("torchvision:MNIST")
    with pytest.raises(InputTypeError, match="got 3"):
        load("torchvision:MNIST", root=3)


def test_colour_becomes_channels_first():
    pytest.importorskip("torchvision", reason="torchvision reads the files")
    from types import SimpleNamespace

    from snnrobust.data.vision import _tensors

    pixels = np.zeros((4, 32, 32, 3), dtype=np.uint8)
    pixels[..., 2] = 51
    x, y = _tensors(SimpleNamespace(data=pixels, targets=[3, 1, 2, 0]))
    assert x.shape == (4, 3, 32, 32)
    assert torch.allclose(x.mean(dim=(0, 2, 3)), torch.tensor([0.0, 0.0, 0.2]))
    assert y.tolist() == [3, 1, 2, 0]
