"""Image sets through torchvision's own readers, from files that are already on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snnrobust.data.dataset import Dataset, Splits
from snnrobust.data.split import permutation
from snnrobust.errors import InputError, InputTypeError, MissingExtraError

CLASSES = {
    "MNIST": "MNIST/raw",
    "FashionMNIST": "FashionMNIST/raw",
    "KMNIST": "KMNIST/raw",
    "CIFAR10": "cifar-10-batches-py",
    "CIFAR100": "cifar-100-python",
}
"""The torchvision classes that can be read, and the folder below `root` in which each looks for its files."""


def vision(name: str, cls: str, root: str | Path | None, seed: int) -> Splits:
    """The official training set, its last 10 % in a fixed order as validation, and the official test set.

    x is [N, C, H, W] in [0, 1]. Ids count through the training file first and go on in the test file.

    Args:
        name: The name of the data in records.
        cls: One of `CLASSES`.
        root: torchvision's `root`.
        seed: Of the order that the training set is split in.

    Raises:
        InputError: No `root`, or files that are missing or damaged.
        InputTypeError: `root` is not a path.
        MissingExtraError: torchvision is not installed.
    """
    if root is None:
        raise InputError(f"expected the folder that holds '{name}', got none; pass root=")
    if not isinstance(root, str | Path):
        raise InputTypeError(f"expected root as a path, got {root!r}; pass a string or a pathlib.Path")
    try:
        import torchvision
    except ModuleNotFoundError as error:
        raise MissingExtraError("torchvision", "data", f"the data set '{name}'") from error
    reader = getattr(torchvision.datasets, cls)
    try:
        (x, y), (x_test, y_test) = (_tensors(reader(str(root), train=train, download=False)) for train in (True, False))
    except Exception as error:  # torchvision raises any kind of error
        found = str(error).partition(" You can use download=True")[0] or repr(error)
        raise InputError(
            f"expected the unpacked files of {cls} in {Path(root) / CLASSES[cls]}, got: {found}; "
            "unpack the official files there (gunzip what ends in .gz, untar the CIFAR archive)"
        ) from error
    held = len(x) // 10
    if held == 0:
        raise InputError(
            f"expected at least 10 training samples in '{name}', got {len(x)}; put the full data set into root={root!r}"
        )
    order = permutation(len(x), seed)  # [N]
    whole = Dataset.of(x, y)
    train, validation = (
        replace(whole.select(part), name=f"{name}, {split} split of seed {seed}")
        for part, split in ((order[:-held], "training"), (order[-held:], "validation"))
    )
    ids = torch.arange(len(x), len(x) + len(x_test))
    test = Dataset(x_test, y_test, ids, name=f"{name}, official test set")
    source = f"torchvision.datasets.{cls} from {root}, under the licence of its authors"
    how = (
        f"validation: the last {held} of the official training set in the order of PCG64 seed {seed}; official test set"
    )
    return Splits(train, validation, test, f"{source}; {how}")


def _tensors(source: Any) -> tuple[Tensor, Tensor]:
    """Pixels [N, C, H, W] in [0, 1] and labels [N] of a torchvision data set."""
    x = torch.as_tensor(source.data)  # [N, H, W], or [N, H, W, C]
    x = x.unsqueeze(1) if x.ndim == 3 else x.permute(0, 3, 1, 2)  # [N, C, H, W]
    return x.contiguous() / 255, torch.as_tensor(source.targets).long()
