"""Fashion-MNIST from Debian's package, or from the official files."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from snnrobust.data.dataset import Dataset, Splits
from snnrobust.data.partition import SPLIT_SEED, hold_out
from snnrobust.errors import InputError, StoreError

FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package puts the files."""
#: SHA-256 of the unpacked files. They are those whose .gz files the authors publish, with the MD5 sums that torchvision
#: checks; Debian's .gz files have another header.
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
_HEADERS = {"images": 16, "labels": 8}  # bytes of an IDX file before its numbers


def fashion_mnist(root: str | Path | None = None) -> Splits:
    """70,000 pictures of clothes, x [N, 1, 28, 28] in [0, 1]: 54,000 train, 6000 validation, 10,000 test.

    Ten classes of 6000 + 1000. The split is that of "torchvision:FashionMNIST". Files with another SHA-256 sum than
    the authors' are refused.

    Args:
        root: The folder with the four official files, unpacked or as .gz; None: that of Debian's package.

    Raises:
        InputError: A file is missing.
        StoreError: A file is damaged or another one.
    """
    folder = FOLDER if root is None else Path(root)
    x, y = _read(folder, "train")
    x_test, y_test = _read(folder, "t10k")
    train, validation, how = hold_out(y, stratified=False)
    whole = Dataset.of(x, y)
    parts = [
        replace(whole.select(rows), name=f"fashion-mnist, {split} split of seed {SPLIT_SEED}")
        for rows, split in ((train, "training"), (validation, "validation"))
    ]
    ids = torch.arange(len(x), len(x) + len(x_test))
    test = Dataset(x_test, y_test, ids, name="fashion-mnist, official test set")
    source = f"Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, MIT) from {folder}"
    return Splits(parts[0], parts[1], test, f"{source}; {how}")


def _read(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Pixels [N, 1, 28, 28] in [0, 1] and labels [N]."""
    pixels = _numbers(folder, f"{part}-images-idx3-ubyte", "images")
    labels = _numbers(folder, f"{part}-labels-idx1-ubyte", "labels")
    return torch.from_numpy(pixels).reshape(-1, 1, 28, 28) / 255, torch.from_numpy(labels).long()


def _numbers(folder: Path, name: str, kind: str) -> np.ndarray:
    packed, plain = folder / f"{name}.gz", folder / name
    path = plain if plain.is_file() else packed
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path == packed else content
    except FileNotFoundError:
        raise InputError(
            f"expected '{packed.name}' or '{name}' of Fashion-MNIST in '{folder}', got neither; run apt install "
            "dataset-fashion-mnist, or pass root= with the folder that holds the four official files"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise StoreError(f"expected '{path}' to be readable, got: {error}; get the official file again") from error
    if (found := hashlib.sha256(content).hexdigest()) != SHA256[name]:
        raise StoreError(
            f"expected '{path}' to hold Fashion-MNIST with SHA-256 {SHA256[name]}, got {found}; get the official file "
            "again"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=_HEADERS[kind]).copy()
