"""A `Dataset` from what users have: tensors, numpy arrays, torch data sets, loaders, items with key names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler
from torch.utils.data import Dataset as TorchDataset

from snnrobust.data.dataset import Dataset
from snnrobust.errors import InputError, InputTypeError

#: Key names of inputs and labels, of items or arrays in a mapping.
INPUT_KEYS = ("x", "image", "images", "img", "input", "inputs", "pixel_values", "features", "data")
LABEL_KEYS = ("y", "label", "labels", "target", "targets", "class")
_WANTED = "pass tensors x [N, *] and y [N]"


def to_dataset(split: Any, name: str) -> Dataset:
    """The samples of a split, in their order.

    Args:
        split: A `Dataset`; (x, y) or a mapping with key names, tensors or numpy arrays; a torch data set with items
            (x, y) or mappings; or a `DataLoader` of one that does not shuffle.
        name: Name of the split, for messages.

    Raises:
        InputTypeError: For anything else, or values of another type: labels have to be whole numbers.
        InputError: For shapes that don't fit, NaN, labels below 0, or a loader that shuffles.

    Example:
        >>> to_dataset({"image": np.zeros((4, 2), np.float32), "label": np.array([0, 1, 1, 0])}, "test")
        Dataset('test', x=[4, 2], classes=2)
    """
    if isinstance(split, Dataset):
        return split
    if isinstance(split, DataLoader):
        if isinstance(split.sampler, RandomSampler):
            raise InputError(
                f"expected a DataLoader that does not shuffle for '{name}', got one with a RandomSampler: sample ids "
                f"would change from run to run; pass shuffle=False"
            )
        pairs = [_pair(batch, name) for batch in split]
        x, y = _joined([x for x, _ in pairs], name, torch.cat), _joined([y for _, y in pairs], name, torch.cat)
    elif isinstance(split, TorchDataset) and hasattr(split, "__len__"):
        pairs = [_pair(split[i], name) for i in range(len(split))]
        x, y = _joined([x for x, _ in pairs], name, torch.stack), _labels([y for _, y in pairs], name)
    else:
        x, y = (_array(each, name) for each in _pair(split, name))
    if not x.ndim:
        raise InputTypeError(f"expected x [N, *] in '{name}', got a single number; {_WANTED}")
    if x.is_floating_point():
        x = x.float()
    if y.dtype in (torch.int32, torch.int16, torch.int8, torch.uint8):
        y = y.long()
    try:
        return Dataset.of(x, y, name=name)
    except (InputError, InputTypeError) as error:
        raise type(error)(f"in '{name}': {error}") from None


def _pair(item: Any, name: str) -> tuple[Any, Any]:
    """Input and label of an item, a batch, or a whole split."""
    if isinstance(item, Mapping):
        found = [[key for key in keys if key in item] for keys in (INPUT_KEYS, LABEL_KEYS)]
        if len(found[0]) != 1 or len(found[1]) != 1:
            raise InputError(
                f"expected one key of {list(INPUT_KEYS)} and one of {list(LABEL_KEYS)} in '{name}', got {list(item)}; "
                f"rename the keys, or {_WANTED}"
            )
        return item[found[0][0]], item[found[1][0]]
    if isinstance(item, tuple | list):
        if len(item) != 2:
            raise InputError(f"expected (x, y) in '{name}', got {len(item)} parts; drop the others, or {_WANTED}")
        return item[0], item[1]
    raise InputTypeError(
        f"expected (x, y), a Dataset or a DataLoader for '{name}', got {type(item).__name__}; {_WANTED}"
    )


def _array(value: Any, name: str) -> Tensor:
    """A tensor of a tensor or a numpy array; nothing else is guessed."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        return torch.from_numpy(np.array(value))
    hint = "; convert it with torchvision.transforms.ToTensor()" if hasattr(value, "convert") else f"; {_WANTED}"
    got = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
    raise InputTypeError(f"expected tensors or numeric numpy arrays in '{name}', got {got}{hint}")


def _joined(values: Iterable[Any], name: str, join: Any) -> Tensor:
    try:
        joined: Tensor = join([_array(each, name) for each in values])
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"expected inputs of one shape in '{name}', got some that can't be stacked ({reason}); {_WANTED}"
        ) from error
    return joined


def _labels(values: list[Any], name: str) -> Tensor:
    """Labels [N] of single items: whole numbers, nothing that would have to be rounded or read."""
    for value in values:
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if isinstance(value, Tensor | np.ndarray):
            kind = value.dtype
            whole = value.ndim == 0 and not (
                kind.is_floating_point or kind.is_complex or kind == torch.bool
                if isinstance(kind, torch.dtype)
                else kind.kind not in "iu"
            )
        if not whole:
            raise InputTypeError(
                f"expected whole numbers as labels in '{name}', got {value!r} ({type(value).__name__}); "
                f"give class indices"
            )
    return torch.tensor([int(value) for value in values])


def overlap(first: Dataset, second: Dataset) -> Tensor:
    """Which samples of the first set have an input that also occurs in the second, to the bit, [N].

    A test set that overlaps the data that a net was trained on says little about the net.

    Example:
        >>> a = Dataset.of(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0, 1, 0]))
        >>> b = Dataset.of(torch.tensor([[3.0], [5.0]]), torch.tensor([0, 1]))
        >>> overlap(a, b)
        tensor([False, False,  True])

    Raises:
        InputError: If inputs have different shapes.
    """
    if first.x.shape[1:] != second.x.shape[1:]:
        raise InputError(
            f"expected inputs of one shape, got {list(first.x.shape[1:])} and {list(second.x.shape[1:])}; "
            f"reshape one set"
        )
    known = {row.tobytes() for row in second.x.numpy()}
    return torch.tensor([row.tobytes() in known for row in first.x.numpy()])
