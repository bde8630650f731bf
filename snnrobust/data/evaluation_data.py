"""The data of an evaluation, checked once at its start."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from snnrobust.data.convert import INPUT_KEYS, to_dataset
from snnrobust.data.dataset import Dataset, Splits
from snnrobust.errors import InputError

__all__ = ["EvaluationData"]

#: The largest batch size that is chosen automatically: larger is hardly faster, and results that depend on the batch
#: should not depend on the machine.
BATCH = 256


@dataclass(frozen=True)
class EvaluationData:
    """Test data, and where given the training data for curvature and validation data.

    Attributes:
        test: The data that is attacked and corrupted.
        train: Training data, or None.
        validation: Held-out data for choices, or None.
        batch_size: Samples in a batch.
    """

    test: Dataset
    train: Dataset | None
    validation: Dataset | None
    batch_size: int

    def training(self, purpose: str) -> Dataset:
        """The training data; raises an `InputError` naming the `purpose` if there is none."""
        if self.train is None:
            raise InputError(
                f"expected training data for {purpose}, got test data alone; pass data={{'test': ..., 'train': ...}}"
            )
        return self.train

    def fingerprint(self) -> str:
        """A digest of all samples and labels."""
        digest = hashlib.blake2b(digest_size=16)
        for name, split in (("test", self.test), ("train", self.train), ("validation", self.validation)):
            if split is not None:
                digest.update(name.encode())
                for tensor in (split.x, split.y, split.index, *(() if split.lengths is None else (split.lengths,))):
                    digest.update(repr((tuple(tensor.shape), tensor.dtype)).encode())
                    for part in torch.split(tensor.detach(), BATCH):  # without a copy of all data
                        digest.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def prepare(data: Any, batch_size: int = BATCH) -> EvaluationData:
    """Turns what `to_dataset` takes, or {"test": ..., "train": ..., "validation": ...} of it, into `EvaluationData`.

    Raises:
        InputTypeError: For anything else, or tensors of another type.
        InputError: For empty data, NaN, labels below 0, or lengths that don't match.
    """
    if isinstance(data, EvaluationData):
        return data
    if isinstance(data, Splits):
        data = {"test": data.test, "train": data.train, "validation": data.validation}
    elif not isinstance(data, Mapping) or set(data) & set(INPUT_KEYS):
        data = {"test": data}
    if unknown := sorted(set(data) - {"test", "train", "validation"}):
        raise InputError(f"expected splits among 'test', 'train', 'validation', got {unknown}; rename them")
    if "test" not in data:
        raise InputError(f"expected a 'test' split, got {sorted(data)}; name the data to attack 'test'")
    splits = {name: None if split is None else to_dataset(split, name) for name, split in data.items()}
    test = splits["test"]
    if test is None:
        raise InputError("expected data in the 'test' split, got None; pass (x, y) or a Dataset")
    return EvaluationData(test, splits.get("train"), splits.get("validation"), batch_size)
