"""Events of an event camera that moves over still images, simulated.

A simulation after the recordings of N-MNIST (Orchard et al. 2015, Frontiers in Neuroscience 9, 437), not data of a
sensor: it has no noise, no latency and no dead pixels. In counts of events, their course in time and the direction of
each saccade it was compared with the ten real recordings of "nmnist-sample".
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.validate import is_count
from snnrobust.data.dataset import Dataset, Splits
from snnrobust.errors import InputError, InputTypeError

MILLISECONDS = 300
"""Length of a recording: three saccades of 100 ms."""
SIZE = 34
"""Height and width of the view."""
BIN_MS = 30
"""The default width of a bin: 10 steps."""
THRESHOLD, SPREAD, DARK = 0.28, 0.08, 0.15
"""Change of log intensity that makes an event, its relative standard deviation over pixels, and what is added to the
intensity in [0, 1] before the logarithm."""

#: Where the image stands before the first saccade and after each, in pixels right and down of the centre: a triangle,
#: as the digits of "nmnist-sample" move.
_CORNERS = ((-1.7, -1.6), (-0.8, 2.6), (2.5, -1.0), (-1.7, -1.6))
#: Everything is computed in whole numbers, so that the events are the same on every machine: positions in 1/64 pixel,
#: intensities in 1/1020, logarithms in 1/4096.
_SUBPIXELS, _LEVELS, _UNIT = 64, 1020, 4096
_IMAGE, _MARGIN = 28, 3
_CHUNK = 128


def saccade_events(images: Tensor | np.ndarray, seed: int = 0) -> list[np.ndarray]:
    """The events of three saccades over each image.

    The image stands in the middle of a view of 34 x 34 pixels and moves along a triangle, 100 ms a side, with the
    bell-shaped speed of least jerk (Flash and Hogan 1985). A pixel compares log(intensity + .15) with its value at its
    last event, once a millisecond; where they differ by its threshold it makes one event, and the threshold is added
    to the value that it compares with. Thresholds are .28 with a standard deviation of 8 % over pixels and
    polarities; they belong to the sensor, so all images share them. As in N-MNIST a rising intensity is polarity 0.

    The events of an image depend on nothing but the image and the seed.

    Args:
        images: Images [N, 28, 28] or [N, 1, 28, 28]: numbers in [0, 1], or bytes.
        seed: Of the thresholds.

    Returns:
        For each image its events [E, 4], int64, with columns t in milliseconds from 0 to 299, x and y from 0 to 33, and
        p (0 or 1). They are ordered by time, then y, then x. No pixel has two in a millisecond.

    Raises:
        InputError: Another shape, no image, values out of range, or a negative seed.
        InputTypeError: `images` is neither a tensor nor an array of numbers.
    """
    pixels = _pixels(images)  # [N, 28, 28]
    thresholds = _thresholds(seed)
    found: list[np.ndarray] = []
    for start in range(0, len(pixels), _CHUNK):
        found.extend(_simulate(pixels[start : start + _CHUNK], thresholds))
    return found


def saccades(digits: Splits, bin_ms: int = BIN_MS, sizes: tuple[int, int, int] | None = None) -> Splits:
    """Binned events of splits of images.

    Args:
        digits: Images [N, 1, 28, 28] in [0, 1].
        bin_ms: Width of a bin in milliseconds, a divisor of 300.
        sizes: The number of samples to take from the start of each split; None: all.

    Returns:
        Splits with x [N, 300 / bin_ms, 2, 34, 34], counts of events; the ids are those of the images.
        A sample takes 92 kB at 30 ms, 2.8 MB at 1 ms.

    Raises:
        InputError: A width that does not divide 300.
    """
    if not is_count(bin_ms) or MILLISECONDS % bin_ms:
        raise InputError(
            f"expected bin_ms to be a whole number of milliseconds that divides {MILLISECONDS}, got {bin_ms!r}; "
            "pass e.g. 1, 5, 10, 30 or 100"
        )
    sets: list[Dataset] = []
    for part, split in zip(
        (digits.train, digits.validation, digits.test), ("training", "validation", "test"), strict=True
    ):
        taken = part if sizes is None else part.take(sizes[len(sets)])
        sets.append(replace(_binned(taken, bin_ms), name=f"saccades (simulated), {split} split of seed 0"))
    how = (
        f"events SIMULATED from the images, no recordings: three saccades of 100 ms, 34x34, threshold {THRESHOLD} with "
        f"sd {SPREAD:.0%} over pixels (seed 0), log(intensity + {DARK}), counted in bins of {bin_ms} ms"
    )
    some = "" if sizes is None else f"; of these the first {sizes[0]}, {sizes[1]} and {sizes[2]}"
    return Splits(sets[0], sets[1], sets[2], f"{how}; images: {digits.description}{some}")


def _binned(images: Dataset, bin_ms: int) -> Dataset:
    steps = MILLISECONDS // bin_ms
    cells = steps * 2 * SIZE * SIZE
    x = torch.empty(len(images), steps, 2, SIZE, SIZE)
    for start in range(0, len(images), _CHUNK):
        chunk = saccade_events(images.x[start : start + _CHUNK])
        events = np.concatenate(chunk)  # [E, 4]
        sample = np.repeat(np.arange(len(chunk)), [len(each) for each in chunk])  # [E]
        t, column, row, p = events.T
        at = (((sample * steps + t // bin_ms) * 2 + p) * SIZE + row) * SIZE + column  # [E]
        counts = np.bincount(at, minlength=len(chunk) * cells)
        x[start : start + len(chunk)] = torch.from_numpy(counts).reshape(-1, steps, 2, SIZE, SIZE)
    return replace(images, x=x)


def _pixels(images: Tensor | np.ndarray) -> np.ndarray:
    """Images as bytes [N, 28, 28]."""
    values = images.detach().cpu().numpy() if isinstance(images, Tensor) else images
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fu":
        kind = values.dtype if isinstance(values, np.ndarray) else type(images).__name__
        raise InputTypeError(f"expected images as a tensor of floats or bytes, got {kind}; pass them in [0, 1]")
    shape = list(values.shape)
    if values.ndim == 4 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 3 or values.shape[1:] != (_IMAGE, _IMAGE) or len(values) == 0:
        raise InputError(
            f"expected images of shape [N, {_IMAGE}, {_IMAGE}] with N >= 1, got {shape}; resize or reshape them"
        )
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind != "f" or not (values.min() >= 0 and values.max() <= 1):  # NaN fails both
        raise InputError(
            f"expected images in [0, 1], got {values.dtype} from {values.min()} to {values.max()}; scale them"
        )
    scaled: np.ndarray = np.rint(values * 255).astype(np.uint8)
    return scaled


def _thresholds(seed: int) -> np.ndarray:
    """Thresholds of a sensor [2, 34, 34], for a falling and a rising intensity, int16."""
    if not is_count(seed, 0):
        raise InputError(f"expected seed to be a whole number >= 0, got {seed!r}; pass one")
    spread = Draws(seed, "saccades").normal(torch.tensor([0]), (2, SIZE, SIZE))[0].double().numpy()
    relative = np.maximum(1 + SPREAD * spread, 0.25)
    thresholds: np.ndarray = np.rint(_UNIT * THRESHOLD * relative).astype(np.int16)
    return thresholds


def _path() -> np.ndarray:
    """Where the image stands at 0, 1, ..., 300 ms: pixels right and down [301, 2] in 1/64."""
    duration = MILLISECONDS // 3
    share = np.arange(1, duration + 1) / duration
    course = share**3 * (10 - 15 * share + 6 * share**2)  # of least jerk
    corners = np.array(_CORNERS)
    sides = [start + course[:, None] * (end - start) for start, end in pairwise(corners)]
    path: np.ndarray = np.rint(_SUBPIXELS * np.concatenate([corners[:1], *sides])).astype(np.int64)
    return path


def _simulate(images: np.ndarray, thresholds: np.ndarray) -> list[np.ndarray]:
    """The events [E, 4] of each image; images are bytes [N, 28, 28]."""
    top, height = _window(images.max(axis=(0, 2)))
    left, width = _window(images.max(axis=(0, 1)))
    if height == 0:
        return [np.empty((0, 4), dtype=np.int64) for _ in images]
    falling, rising = thresholds[:, top : top + height, left : left + width].reshape(2, -1)  # [P] each
    border = 2 * _MARGIN
    padded = np.zeros((len(images), SIZE + 2 * _MARGIN + 1, SIZE + 2 * _MARGIN + 1), dtype=np.int16)
    padded[:, border : border + _IMAGE, border : border + _IMAGE] = images
    levels = np.rint(_UNIT * np.log(np.arange(_LEVELS + 1) / _LEVELS + DARK)).astype(np.int16)

    def view(right: int, down: int) -> np.ndarray:
        """Log intensity [N, P] in the window, of the image moved by so many 1/64 pixels; bilinear."""
        row, below = divmod(_MARGIN * _SUBPIXELS - down, _SUBPIXELS)
        column, beside = divmod(_MARGIN * _SUBPIXELS - right, _SUBPIXELS)
        row, column = row + top, column + left
        across = slice(column, column + width + 1)
        rows = padded[:, row : row + height, across] * np.int16(_SUBPIXELS - below)
        rows += padded[:, row + 1 : row + height + 1, across] * np.int16(below)
        wide = rows.astype(np.int32)  # to 255 * 64; both together to 255 * 64 * 64
        value = wide[:, :, :-1] * np.int32(_SUBPIXELS - beside)
        value += wide[:, :, 1:] * np.int32(beside)
        value >>= 10  # to 255 * 4
        return np.take(levels, value.reshape(len(images), -1).astype(np.int64), mode="clip")

    path = _path()
    last = view(*path[0])  # [N, P]
    flat, pixels = last.reshape(-1), height * width
    times, places, signs = [], [], []
    for step, position in enumerate(path[1:]):
        change = view(*position) - last
        hit = np.flatnonzero((change >= rising) | (change <= -falling))
        up = change.reshape(-1)[hit] > 0
        pixel = hit % pixels
        flat[hit] += np.where(up, rising[pixel], -falling[pixel])
        times.append(np.full(len(hit), step))
        places.append(hit)
        signs.append(up)
    t, place, up = np.concatenate(times), np.concatenate(places), np.concatenate(signs)
    sample, pixel = np.divmod(place, pixels)
    events = np.stack([t, left + pixel % width, top + pixel // width, ~up], axis=1).astype(np.int64)  # swapped polarity
    order = np.argsort(sample, kind="stable")  # by time, y and x already
    return np.split(events[order], np.cumsum(np.bincount(sample, minlength=len(images)))[:-1])


def _window(used: np.ndarray) -> tuple[int, int]:
    """First row and number of rows of the view [34] that the rows of images [28] with any light can come to."""
    where = np.flatnonzero(used)
    if len(where) == 0:
        return 0, 0
    first, last = max(int(where[0]) - 1, 0), min(int(where[-1]) + 2 * _MARGIN + 1, SIZE - 1)
    return first, last - first + 1
