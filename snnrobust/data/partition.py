"""Training, validation and test sets of data that comes as a whole, or with an official test set."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from snnrobust.common.validate import is_count
from snnrobust.data.dataset import Dataset, Splits
from snnrobust.data.split import permutation, stratified_split
from snnrobust.errors import InputError

SPLIT_SEED = 0  # of every split
_PARTS = ("training", "validation", "test")


def partition(
    name: str, x: Tensor, y: Tensor, sizes: tuple[int, int, int], source: str, lengths: Tensor | None = None
) -> Splits:
    """Cuts a whole set, stratified by class.

    Args:
        name: The name of the data in records.
        x: Samples [N, *].
        y: Labels [N].
        sizes: Samples for training, validation and test.
        source: Where the data is from, with version and licence.
        lengths: Valid steps of padded sequences [N].
    """
    whole, parts = Dataset.of(x, y, lengths=lengths), stratified_split(y, sizes, SPLIT_SEED)
    train, validation, test = (
        replace(whole.select(part), name=f"{name}, {split} split of seed {SPLIT_SEED}")
        for part, split in zip(parts, _PARTS, strict=True)
    )
    how = f"{sizes[0]} train, {sizes[1]} validation, {sizes[2]} test, stratified by class, PCG64 seed {SPLIT_SEED}"
    return Splits(train, validation, test, f"{source}; {how}")


def official(
    name: str, train: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], source: str
) -> Splits:
    """The authors' own three sets, pairs of x [N, *] and y [N]; ids count through them in this order."""
    sets: list[Dataset] = []
    start = 0
    for (x, y), split in zip((train, validation, test), _PARTS, strict=True):
        sets.append(Dataset(x, y, torch.arange(start, start + len(x)), name=f"{name}, official {split} set"))
        start += len(x)
    return Splits(sets[0], sets[1], sets[2], f"{source}; the authors' own training, validation and test sets")


def hold_out(y: Tensor, *, stratified: bool) -> tuple[Tensor, Tensor, str]:
    """A tenth of an official training set as validation data.

    Args:
        y: Labels [N] of the official training set.
        stratified: Whether each class gives a tenth of its own; else the last tenth in a fixed order is taken, as for
            the sets that torchvision reads.

    Returns:
        The positions of the training and of the validation samples, and how they were found.

    Raises:
        InputError: Fewer than 10 samples.
    """
    held = len(y) // 10
    if held == 0:
        raise InputError(f"expected at least 10 training samples, got {len(y)}; use the full data set")
    if stratified:
        train, validation = stratified_split(y, (len(y) - held, held), SPLIT_SEED)
        way = f"{held} of the official training set, stratified by class, PCG64 seed {SPLIT_SEED}"
    else:
        train, validation = torch.split(permutation(len(y), SPLIT_SEED), [len(y) - held, held])
        way = f"the last {held} of the official training set in the order of PCG64 seed {SPLIT_SEED}"
    return train, validation, f"validation: {way}; official test set"


def check_sizes(sizes: object, most: tuple[int, int, int] | None = None) -> tuple[int, int, int]:
    """Three numbers of samples, for training, validation and test.

    Args:
        sizes: What was given.
        most: How many there are; None: any number.

    Raises:
        InputError: Not three whole numbers of at least 1, or more than there are.
    """
    if not (isinstance(sizes, tuple | list) and len(sizes) == 3 and all(is_count(each) for each in sizes)):
        raise InputError(
            f"expected sizes as three whole numbers >= 1, for training, validation and test, got {sizes!r}; "
            "pass e.g. (100, 20, 50)"
        )
    train, validation, test = sizes
    if most is not None and any(size > limit for size, limit in zip(sizes, most, strict=True)):
        raise InputError(f"expected sizes of at most {most}, got {tuple(sizes)}; ask for fewer samples")
    return train, validation, test
