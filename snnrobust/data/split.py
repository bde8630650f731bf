"""Splitting a set, the same on every machine and with every version of numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from snnrobust.errors import InputError, InputTypeError


def permutation(n: int, seed: int) -> Tensor:
    """A fixed order of 0 to n - 1, [n].

    It sorts the raw words of PCG64: numpy promises those for all versions, but not `Generator.permutation`.
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InputTypeError(f"expected seed as an integer, got {seed!r}; pass an int")
    if seed < 0:
        raise InputError(f"expected a seed of 0 or more, got {seed}; pick another")
    return torch.from_numpy(np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable"))


def stratified_split(y: Tensor, sizes: Sequence[int], seed: int) -> tuple[Tensor, ...]:
    """Cuts a set into parts, each with the classes in the proportions of the whole.

    Every class is spread evenly over one line, in a random order within the class, and the line is cut. So the first
    few samples of a part are balanced too, and what `sizes` leaves over belongs to no part.

    Args:
        y: Labels [N].
        sizes: How many samples each part takes; together at most N.
        seed: Of the random order.

    Returns:
        The positions [size] of each part.

    Raises:
        InputTypeError: `y` is no tensor of integers, or a size or the seed is not an integer.
        InputError: Sizes below 1 or beyond N together, labels that are not [N], or a negative seed.

    Example:
        >>> y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
        >>> train, test = stratified_split(y, (6, 2), seed=0)
        >>> y[test].sort().values
        tensor([0, 1])
    """
    if not isinstance(y, Tensor) or y.is_floating_point():
        raise InputTypeError(f"expected labels as a tensor of integers, got {y!r}; pass torch.as_tensor(y)")
    if y.ndim != 1:
        raise InputError(f"expected labels of shape [N], got {list(y.shape)}; flatten them")
    if not all(isinstance(size, int) for size in sizes):
        raise InputTypeError(f"expected integer sizes, got {list(sizes)}; pass numbers of samples")
    if not sizes or min(sizes) < 1 or sum(sizes) > len(y):
        raise InputError(
            f"expected sizes of at least 1 that sum to at most {len(y)} samples, got {list(sizes)}; give at least one "
            f"size, each >= 1, with a sum of at most {len(y)}"
        )
    order = permutation(len(y), seed)  # [N]
    labels = y[order]  # [N]
    place = torch.empty(len(y), dtype=torch.float64)  # [N], in (0, 1): where on the line
    for label in torch.unique(labels):
        mine = labels == label
        count = int(mine.sum())
        place[mine] = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    line = order[place.argsort(stable=True)]  # [N]
    return torch.split(line[: sum(sizes)], list(sizes))
