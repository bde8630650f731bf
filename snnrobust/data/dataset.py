"""`Dataset`: samples, labels and the ids that key random numbers; `Splits`: train, validation and test set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.utils.data
from torch import Tensor

from snnrobust.errors import InputError, InputTypeError


@dataclass(frozen=True, eq=False, repr=False)
class Dataset(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """An immutable set of samples in memory, each with an id that selecting and shuffling keep.

    Attributes:
        x: Samples [N, *], float32 and finite. Static data is [N, *], temporal data [N, T, *].
        y: Labels [N], int64, 0 to K - 1.
        index: Ids [N], int64: the position of each sample in its source. No id occurs twice.
        lengths: For sequences padded to T steps: how many of them count, [N], int64, 1 to T. Otherwise None.
        name: The name of the set in records.

    Raises:
        InputTypeError: A field is not a tensor or has another dtype.
        InputError: The set is empty, shapes disagree, or a value is out of range.

    Example:
        >>> data = Dataset.of(torch.rand(6, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1, 2]), name="toy")
        >>> data.select([5, 0])
        Dataset('toy', x=[2, 1, 2, 2], classes=3)
        >>> data.select([5, 0]).index
        tensor([5, 0])
    """

    x: Tensor
    y: Tensor
    index: Tensor
    lengths: Tensor | None = None
    name: str = "data"

    def __post_init__(self) -> None:
        for name in ("x", "y", "index", "lengths"):
            object.__setattr__(self, name, _without_graph(getattr(self, name)))
        _check_dtype("x", self.x, torch.float32)
        if self.x.ndim < 2 or self.x.numel() == 0:
            raise InputError(
                f"expected x of shape [N, *] with at least one sample, got {list(self.x.shape)}; pass at least one "
                "sample, with the axis of samples before one or more axes of features"
            )
        vectors = {"y": self.y, "index": self.index}
        if self.lengths is not None:
            vectors["lengths"] = self.lengths
        for field, value in vectors.items():
            _check_dtype(field, value, torch.int64)
            if value.shape != self.x.shape[:1]:
                raise InputError(
                    f"expected {field} of shape [{len(self.x)}], one entry a sample, got {list(value.shape)}; "
                    "line them up"
                )
        least, most = self.x.aminmax()  # NaN if any entry is; makes no copy of the data
        if not (bool(least.isfinite()) and bool(most.isfinite())):
            count = int((~self.x.isfinite()).flatten(1).any(1).sum())
            raise InputError(
                f"expected finite x, got NaN or infinity in {count} samples; clean or leave them out, and put absent "
                "spike times at the end of the window (wrap with silent=)"
            )
        if int(self.y.min()) < 0:
            raise InputError(f"expected labels from 0 up, got {int(self.y.min())}; number the classes from 0")
        if torch.unique(self.index).numel() != len(self.index):
            raise InputError("expected each id once, got repeated ids in index; select each sample only once")
        if self.lengths is not None:
            steps, low, high = self.x.shape[1], int(self.lengths.min()), int(self.lengths.max())
            if low < 1 or high > steps:
                raise InputError(
                    f"expected lengths between 1 and the {steps} steps of x [N, T, *], got {low} to {high}; "
                    "count the valid steps of each sample"
                )

    @classmethod
    def of(cls, x: Tensor, y: Tensor, *, lengths: Tensor | None = None, name: str = "data") -> Dataset:
        """The samples `x` [N, *] with labels `y` [N], numbered 0 to N - 1."""
        return cls(x, y, torch.arange(len(x)), lengths, name)

    @property
    def classes(self) -> int:
        """The number of classes: the largest label + 1."""
        return int(self.y.max()) + 1

    def take(self, n: int) -> Dataset:
        """The first `n` samples.

        Raises:
            InputError: `n` is below 1 or above the number of samples.
        """
        if isinstance(n, bool) or not isinstance(n, int):
            raise InputTypeError(f"expected an integer number of samples, got {n!r}; pass an int")
        if not 1 <= n <= len(self):
            raise InputError(f"expected 1 to {len(self)} samples, got {n}; take at most what '{self.name}' holds")
        return self.select(torch.arange(n))

    def select(self, indices: Tensor | Sequence[int] | np.ndarray) -> Dataset:
        """The samples at these positions, in this order; each keeps its id.

        Args:
            indices: Positions [M] from 0 to N - 1, each at most once, or a mask [N] of bool.

        Raises:
            InputTypeError: `indices` are neither integers nor bool.
            InputError: Nothing is selected, or a position is out of range or repeated.
        """
        at = torch.as_tensor(indices, device="cpu")  # a CPU index fits tensors on every device
        if at.dtype == torch.bool and at.shape == self.index.shape:
            at = at.nonzero().flatten()  # [M]
        if at.numel() == 0:
            raise InputError("expected at least one sample to select, got none; check what the selection leaves")
        if at.dtype == torch.bool or at.is_floating_point() or at.is_complex():
            raise InputTypeError(
                f"expected integer positions [M] or a bool mask [{len(self)}], got {at.dtype} of shape "
                f"{list(at.shape)}; pass positions"
            )
        if at.ndim != 1:
            raise InputError(f"expected positions of shape [M], got {list(at.shape)}; flatten them")
        if int(at.min()) < 0 or int(at.max()) >= len(self):
            raise InputError(
                f"expected positions from 0 to {len(self) - 1}, got {int(at.min())} to {int(at.max())}; "
                "stay inside the set"
            )
        at = at.long()
        lengths = None if self.lengths is None else self.lengths[at]
        return replace(self, x=self.x[at], y=self.y[at], index=self.index[at], lengths=lengths)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        return self.x[position], self.y[position]

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}, x={list(self.x.shape)}, classes={self.classes})"


@dataclass(frozen=True)
class Splits:
    """Three sets that share no sample, and where they come from.

    Attributes:
        train: For training.
        validation: For the choice of settings.
        test: For reported numbers.
        description: Source, licence and how it was split.

    Raises:
        InputError: A sample id occurs in more than one split.
    """

    train: Dataset
    validation: Dataset
    test: Dataset
    description: str

    def __post_init__(self) -> None:
        ids = torch.cat([part.index for part in (self.train, self.validation, self.test)])
        shared = ids.numel() - torch.unique(ids).numel()
        if shared:
            raise InputError(
                f"expected splits without a common sample, got {shared} ids in more than one; "
                "number the samples through and give each to one split"
            )


def _without_graph(value: Any) -> Any:
    """A tensor that autograd may use and that requires no gradient; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    if value.is_inference():
        with torch.inference_mode(False):
            value = value.clone()
    return value.detach()


def _check_dtype(field: str, value: object, dtype: torch.dtype) -> None:
    if not isinstance(value, Tensor):
        raise InputTypeError(f"expected {field} as a tensor, got {type(value).__name__}; pass torch.as_tensor({field})")
    if value.dtype != dtype:
        raise InputTypeError(f"expected {field} as {dtype}, got {value.dtype}; pass {field}.to({dtype})")
