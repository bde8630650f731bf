"""A batch of samples on the model's device, with all that belongs to each sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from snnrobust.data.dataset import Dataset


@dataclass(frozen=True)
class Batch:
    """Samples that go through a model together.

    Attributes:
        x: Inputs [N, *], on the model's device and in its dtype.
        y: Labels [N], on the model's device.
        index: Sample ids [N], on the CPU.
        lengths: Valid steps of each sequence [N], on the CPU; None where all steps are valid.
        targets: Target classes [N] of a targeted objective, on the model's device; else None.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    lengths: Tensor | None = None
    targets: Tensor | None = None

    @classmethod
    def of(cls, data: Dataset, rows: Tensor, device: torch.device, dtype: torch.dtype) -> Batch:
        """The samples at the positions `rows` [N] of a data set."""
        lengths = None if data.lengths is None else data.lengths[rows]
        x = data.x[rows].to(device=device, dtype=dtype)
        return cls(x, data.y[rows].to(device), data.index[rows], lengths)

    @classmethod
    def concatenate(cls, batches: Sequence[Batch]) -> Batch:
        """Several batches as one."""
        return cls(
            torch.cat([each.x for each in batches]),
            torch.cat([each.y for each in batches]),
            torch.cat([each.index for each in batches]),
            _concatenate([each.lengths for each in batches]),
            _concatenate([each.targets for each in batches]),
        )

    def select(self, rows: Tensor | slice) -> Batch:
        """Some of the samples: positions, or a mask [N] on any device."""
        here = rows if isinstance(rows, slice) else rows.cpu()
        there = rows if isinstance(rows, slice) else rows.to(self.x.device)
        return Batch(
            self.x[there],
            self.y[there],
            self.index[here],
            None if self.lengths is None else self.lengths[here],
            None if self.targets is None else self.targets[there],
        )

    def with_inputs(self, x: Tensor) -> Batch:
        """The same samples with other inputs [N, *]."""
        return replace(self, x=x)

    def __len__(self) -> int:
        return len(self.x)


def _concatenate(parts: Sequence[Tensor | None]) -> Tensor | None:
    given = [each for each in parts if each is not None]
    return torch.cat(given) if len(given) == len(parts) else None
