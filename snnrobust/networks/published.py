"""Published nets with their data, by name."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snnrobust.common.validate import check_choice, check_count
from snnrobust.errors import InputError, StoreError
from snnrobust.networks.nir.archive import COMMAND, member
from snnrobust.networks.nir.load import from_nir

_PAPER = (
    "Pedersen et al. 2024, Nature Communications 15, 8122; from the source distribution of nir 1.0.3 (BSD-3-Clause)"
)
PUBLISHED = ("nmnist-scnn", "braille-rsnn", "braille-rsnn-subtract")
"""Every name that `published` knows."""
_DIGITS = "paper/02_cnn/cnn_numbers.npy"
_LETTERS = "paper/03_rnn/data/ds_test.pt"
#: Steps of 1 ms in the recordings of digits.
_RECORDED = 300


@dataclass(frozen=True, eq=False)
class PublishedNet:
    """A trained net and data to test it on.

    Attributes:
        name: Its name.
        net: Maps [T, N, *] to spikes [T, N, K].
        x: Events or spikes [N, T, *], float32.
        y: Labels [N].
        wrap: The arguments of `sr.wrap` for it.
        accuracy: The share that it classifies rightly here; None if unknown.
        description: What it is, its source and licence.

    Example:
        >>> known = published("braille-rsnn")  # doctest: +SKIP
        >>> model = sr.wrap(known.net, **known.wrap)  # doctest: +SKIP
    """

    name: str
    net: nn.Module
    x: Tensor
    y: Tensor
    wrap: Mapping[str, Any]
    accuracy: float | None
    description: str


def published(name: str, *, steps: int | None = None, folder: str | Path | None = None) -> PublishedNet:
    """A published net with its data, from files that `fetch_published` has downloaded.

    - "nmnist-scnn": a spiking CNN of integrate-and-fire neurons for N-MNIST, and the events of one recording of each
      digit, x [10, T, 2, 34, 34], event counts. In the paper's 300 steps of 1 ms it is right in all 10, in 60 steps
      in 9.
    - "braille-rsnn": a recurrent SNN of current-based neurons with a reset to zero, for Braille letters read by a
      fingertip, and its test set, x [140, 256, 12], binary: space, A, E, I, O, U, Y. 95.0 % are right.
    - "braille-rsnn-subtract": another one, without biases, with a reset by subtraction: 93.6 %.

    Args:
        name: One of `PUBLISHED`.
        steps: For "nmnist-scnn": time steps T, a divisor of 300; events that fall into the same step are counted.
            None: 300.
        folder: As for `fetch_published`.

    Raises:
        InputError: An unknown name, steps that do not fit, or files that were not downloaded.
        MissingExtraError: nir or nirtorch is not installed.
        StoreError: A damaged file.
    """
    check_choice("name", name, PUBLISHED)
    if name == "nmnist-scnn":
        return _digits(_RECORDED if steps is None else steps, folder)
    if steps is not None:
        raise InputError(f"expected no steps for '{name}', which has 256, got {steps!r}; leave it out")
    return _letters(name, folder)


def _digits(steps: int, folder: str | Path | None) -> PublishedNet:
    check_count("steps", steps, 1, f"give a divisor of {_RECORDED}")
    if _RECORDED % steps:
        raise InputError(f"expected steps to divide {_RECORDED}, got {steps}; pass e.g. 60 or 150")
    path = member(_DIGITS, folder)
    counts = torch.from_numpy(np.load(path, allow_pickle=False)).float()  # [300, 10, 2, 34, 34]
    x = counts.reshape(steps, -1, *counts.shape[1:]).sum(dim=1).transpose(0, 1).contiguous()
    # Exported from integrators that add up their input, whatever the step: dt is 1.
    net = from_nir(member("paper/02_cnn/cnn_sinabs.nir", folder), dt=1.0)
    return PublishedNet(
        "nmnist-scnn",
        net,
        x,
        torch.arange(10),
        {"name": "nmnist-scnn", "layout": "TN", "encoder": None, "domain": "integer", "bounds": (0.0, float(x.max()))},
        {300: 1.0, 60: 0.9}.get(steps),
        f"spiking CNN for N-MNIST, on one recording of each digit in {steps} steps; {_PAPER}; recordings of N-MNIST "
        "(Orchard et al. 2015)",
    )


def _letters(name: str, folder: str | Path | None) -> PublishedNet:
    zero = name == "braille-rsnn"
    kind = "bias_zero" if zero else "noBias_subtract"
    net = from_nir(
        member(f"paper/03_rnn/braille_noDelay_{kind}.nir", folder), dt=1e-4, reset="hard" if zero else "soft"
    )
    path = member(_LETTERS, folder)
    try:
        with torch.serialization.safe_globals([torch.utils.data.TensorDataset]):
            data = torch.load(path, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise StoreError(f"expected tensors in '{path}', got: {error}; run {COMMAND} with another torch") from error
    x, y = data.tensors
    return PublishedNet(
        name,
        net,
        x,
        y,
        {"name": name, "layout": "TN", "encoder": None, "domain": "binary", "readout": "sum"},
        0.95 if zero else 131 / 140,
        f"recurrent SNN for Braille letters, on its test set; {_PAPER}; data after Müller-Cleve et al. 2022, Frontiers "
        "in Neuroscience 16, 951164",
    )
