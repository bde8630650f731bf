"""Recordings in the source distribution of nir: Braille letters read by touch, and ten digits of N-MNIST."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from snnrobust.common.validate import is_count
from snnrobust.data.dataset import Dataset, Splits
from snnrobust.data.download import downloaded_member
from snnrobust.data.partition import official
from snnrobust.data.releases import COMMAND, NIR
from snnrobust.errors import InputError, StoreError

RECORDED_MS = 300
"""Length of the recordings of digits: steps of 1 ms."""
_SOURCE = "source distribution of nir 1.0.3 (BSD-3-Clause; Pedersen et al. 2024, Nature Communications 15, 8122)"


def braille(root: str | Path | None = None) -> Splits:
    """Braille letters read by a fingertip of 12 touch sensors, x [N, 256, 12], binary, 980 / 280 / 140 samples.

    Seven classes of equal size: space, A, E, I, O, U, Y. An entry is 1 where a sensor made an event of either polarity
    in that step of 5 ms. 23 % of the entries are 1. The split is the authors' own.

    Raises:
        InputError: The files were not downloaded.
        StoreError: They are damaged.
    """
    release = replace(NIR, command=f"{COMMAND} braille")
    sets = [
        _tensors(downloaded_member(release, f"paper/03_rnn/data/ds_{part}.pt", root))
        for part in ("train", "val", "test")
    ]
    source = (
        f"tactile events of Braille letters (Müller-Cleve et al. 2022, Frontiers in Neuroscience 16, 951164; Zenodo "
        f"7050094), as shipped in the {_SOURCE}"
    )
    return official("braille", sets[0], sets[1], sets[2], source)


def nmnist_digits(bin_ms: int = 1, root: str | Path | None = None) -> Dataset:
    """One recording of each digit from the test set of N-MNIST, x [10, 300 / bin_ms, 2, 34, 34], counts of events.

    Channel 0 holds the events of falling, channel 1 those of rising intensity, as the sensor labels them. At 1 ms the
    largest count is 2.

    Args:
        bin_ms: Width of a bin in milliseconds, a divisor of 300.
        root: The folder that holds the file; None: the user's cache.

    Raises:
        InputError: A width that does not divide 300, or a file that was not downloaded.
        StoreError: A damaged file.
    """
    if not is_count(bin_ms) or RECORDED_MS % bin_ms:
        raise InputError(
            f"expected bin_ms to be a whole number of milliseconds that divides {RECORDED_MS}, got {bin_ms!r}; "
            "pass e.g. 1, 5, 10 or 30"
        )
    release = replace(NIR, command=f"{COMMAND} nmnist-sample")
    path = downloaded_member(release, "paper/02_cnn/cnn_numbers.npy", root)
    counts = torch.from_numpy(np.load(path, allow_pickle=False)).float()  # [300, 10, 2, 34, 34]
    x = counts.reshape(-1, bin_ms, *counts.shape[1:]).sum(dim=1).transpose(0, 1).contiguous()
    return Dataset.of(x, torch.arange(10), name="nmnist-sample")


def nmnist_sample(bin_ms: int = 1, root: str | Path | None = None) -> Splits:
    """`nmnist_digits` as splits, each of which has to hold a sample: 0 to train, 1 for validation, 2 to 9 to test.

    Ten recordings are too few to train a net on.

    Raises:
        InputError: As for `nmnist_digits`.
        StoreError: As for `nmnist_digits`.
    """
    digits = nmnist_digits(bin_ms, root)
    train, validation, test = (
        replace(digits.select(rows), name=f"nmnist-sample, {split} split")
        for rows, split in (([0], "training"), ([1], "validation"), (range(2, 10), "test"))
    )
    source = (
        f"ten recordings of the test set of N-MNIST (Orchard et al. 2015), as shipped in the {_SOURCE}; counted in "
        f"bins of {bin_ms} ms"
    )
    return Splits(train, validation, test, f"{source}; digit 0 to train, 1 for validation, 2 to 9 to test")


def _tensors(path: Path) -> tuple[Tensor, Tensor]:
    try:
        with torch.serialization.safe_globals([torch.utils.data.TensorDataset]):
            data = torch.load(path, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise StoreError(f"expected tensors in '{path}', got: {error}; load it with another torch") from error
    x, y = data.tensors
    return x.clone(), y.clone()  # each file holds the storage of all 1400 samples
