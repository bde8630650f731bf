"""Your own data from a `.npz` file, read without running code."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from snnrobust.data.dataset import Dataset, Splits
from snnrobust.errors import InputError, InputTypeError

_PARTS = ("train", "validation", "test")


def from_npz(path: str | Path) -> Dataset | Splits:
    """Samples and labels from a file that `numpy.savez` wrote.

    Numbers are taken as they are: nothing is scaled or shuffled. Arrays that hold Python objects are refused, as
    reading them would run code.

    Args:
        path: The file, with either
            `x` [N, *], `y` [N] and, for padded sequences, `lengths` [N]; or
            `x_train`, `y_train`, `x_validation`, `y_validation`, `x_test`, `y_test` and, for padded sequences,
            `lengths_train`, `lengths_validation`, `lengths_test`.
            x is of any real, integer or bool dtype, y and lengths of an integer dtype.

    Returns:
        One set, named after the file, or three splits. Ids count through the file, over train, validation and test.

    Raises:
        InputError: The file is missing or damaged, arrays are missing, unknown or of unusable dtype, or the values
            are not valid for a `Dataset`.
        InputTypeError: `path` is not a path.
    """
    if not isinstance(path, str | Path):
        raise InputTypeError(f"expected a path, got {path!r}; pass a string or a pathlib.Path")
    arrays = _read_arrays(Path(path))
    split_keys = {f"{field}_{part}" for field in ("x", "y") for part in _PARTS}
    length_keys = {f"lengths_{part}" for part in _PARTS}
    keys, name = set(arrays), Path(path).stem
    if keys in ({"x", "y"}, {"x", "y", "lengths"}):
        return _dataset_from_arrays(arrays, "", 0, name)
    if keys in (split_keys, split_keys | length_keys):
        train = _dataset_from_arrays(arrays, "_train", 0, name)
        validation = _dataset_from_arrays(arrays, "_validation", len(train), name)
        test = _dataset_from_arrays(arrays, "_test", len(train) + len(validation), name)
        return Splits(train, validation, test, f"the splits in {path}")
    raise InputError(
        f"expected the arrays x, y and optionally lengths, or these for each split ({', '.join(sorted(split_keys))}), "
        f"got {', '.join(sorted(keys)) or 'none'} in {path}; write np.savez(path, x=..., y=...)"
    )


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            with loaded:
                return dict(loaded)
    except FileNotFoundError as error:
        raise InputError(f"expected a .npz file, got no file at {path}; check the path") from error
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"expected a .npz file of plain arrays, got {path}: {error}; write it again with np.savez, with numbers "
            "instead of Python objects"
        ) from error
    raise InputError(f"expected a .npz file with arrays x and y, got one array in {path}; write it with np.savez")


def _dataset_from_arrays(arrays: dict[str, np.ndarray], suffix: str, start: int, name: str) -> Dataset:
    x = arrays["x" + suffix]
    if x.dtype.kind not in "fiub":
        raise InputError(f"expected numbers in x{suffix}, got dtype {x.dtype}; convert it to float32")
    y = _integers(arrays, "y" + suffix)
    lengths = _integers(arrays, "lengths" + suffix) if "lengths" + suffix in arrays else None
    with np.errstate(over="ignore"):  # what float32 can't hold becomes infinite, and Dataset refuses it
        samples = torch.from_numpy(x.astype(np.float32))
    index = torch.arange(start, start + x.shape[0] if x.ndim else start)
    try:
        return Dataset(samples, y, index, lengths, name)
    except InputError as error:
        raise InputError(f"{error} (arrays x{suffix}, y{suffix} of '{name}')") from error


def _integers(arrays: dict[str, np.ndarray], key: str) -> Tensor:
    value = arrays[key]
    if value.dtype.kind not in "iu":
        raise InputError(f"expected integers in {key}, got dtype {value.dtype}; convert with .astype('int64')")
    return torch.from_numpy(value.astype(np.int64))
