"""SpikingJelly's readers on small files in the official formats."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from snnrobust.data import Splits, load
from snnrobust.errors import InputError

pytest.importorskip("torchvision", reason="SpikingJelly's data sets need it")
h5py = pytest.importorskip("h5py", reason="SpikingJelly's data sets need it")

Event = tuple[int, int, int, int]  # t, x, y, p


def write_atis(path: Path, events: Sequence[Event]) -> None:
    """N-MNIST's format, 40 bits an event: x, y, polarity and 23 bits of microseconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(struct.pack(">BBBH", x, y, p << 7 | t >> 16, t & 0xFFFF) for t, x, y, p in events))


def write_aedat(path: Path, events: Sequence[Event]) -> None:
    """DVS Gesture's format, AEDAT 3.1: a header of text, then packets of polarity events."""
    header = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#Start-Time: 2016-01-01 00:00:00 (TZ+0000)\r\n"
    packets = []
    for start in range(0, len(events), 4):
        some = events[start : start + 4]
        packets.append(struct.pack("<HHIIIIII", 1, 1, 8, 4, 0, len(some), len(some), len(some)))
        packets.extend(struct.pack("<II", x << 17 | y << 2 | p << 1 | 1, t) for t, x, y, p in some)
    # Another kind of packet, special events, which holds no polarity events.
    special = struct.pack("<HHIIIIII", 0, 1, 8, 4, 0, 1, 1, 1) + struct.pack("<II", 0, 0)
    path.write_bytes(header + b"#!END-HEADER\r\n" + special + b"".join(packets))


def write_spikes(path: Path, samples: Sequence[tuple[Sequence[float], Sequence[int], int]]) -> None:
    """The format of SHD and SSC: seconds and channels of each sample, and labels."""
    with h5py.File(path, "w") as file:
        spikes = file.create_group("spikes")
        times = spikes.create_dataset("times", (len(samples),), h5py.vlen_dtype(np.float16))
        units = spikes.create_dataset("units", (len(samples),), h5py.vlen_dtype(np.uint16))
        for i, (seconds, channels, _) in enumerate(samples):
            times[i], units[i] = np.array(seconds, np.float16), np.array(channels, np.uint16)
        file.create_dataset("labels", data=np.array([label for *_, label in samples], np.uint16))


def recording(label: int, number: int, count: int = 12) -> list[Event]:
    """Events 1 ms apart: x tells the label, y the number of the recording, polarities alternate."""
    return [(1000 * (k + 1), label, number, k % 2) for k in range(count)]


@pytest.fixture
def nmnist(tmp_path: Path) -> Path:
    for part, per_class in (("Train", 2), ("Test", 1)):
        for label in range(10):
            for number in range(per_class):
                count = 12 if number == 0 else 20
                path = tmp_path / "extract" / part / str(label) / f"{label * 10 + number:05d}.bin"
                write_atis(path, recording(label, number, count))
    return tmp_path


@pytest.fixture
def gesture(tmp_path: Path) -> Path:
    folder = tmp_path / "extract" / "DvsGesture"
    folder.mkdir(parents=True)
    for part, user in (("train", 1), ("test", 24)):
        events: list[Event] = []
        rows = ["class,startTime_usec,endTime_usec"]
        for label in range(11):
            start = 100_000 * (label + 1)
            events.extend((start + t, 100 + x, 90 + y, p) for t, x, y, p in recording(label, user))
            rows.append(f"{label + 1},{start},{start + 50_000}")
            events.append((start + 60_000, 0, 0, 0))  # between two gestures: belongs to none
        write_aedat(folder / f"user{user:02d}_led.aedat", events)
        (folder / f"user{user:02d}_led_labels.csv").write_text("\n".join(rows) + "\n")
        (folder / f"trials_to_{part}.txt").write_text(f"user{user:02d}_led.aedat\n")
    return tmp_path


def spoken(root: Path, kind: str, parts: Sequence[str], classes: int) -> Path:
    """Each sample has ten spikes 4 ms apart in the channels label, label + 1, ...; samples of class 1 have five."""
    (root / "extract").mkdir()
    for part in parts:
        samples = []
        for label in range(classes):
            count = 5 if label == 1 else 10
            samples.append(([0.004 * k for k in range(count)], [label + k for k in range(count)], label))
        write_spikes(root / "extract" / f"{kind}_{part}.h5", samples)
    return root


def whole(data: Splits) -> tuple[torch.Tensor, torch.Tensor]:
    sets = (data.train, data.validation, data.test)
    assert sorted(torch.cat([each.index for each in sets]).tolist()) == list(range(sum(map(len, sets))))
    order = torch.cat([each.index for each in sets]).argsort()
    return torch.cat([each.x for each in sets])[order], torch.cat([each.y for each in sets])[order]


@pytest.mark.parametrize("split_by", [None, "number", "time"])
def test_nmnist_in_a_number_of_frames(nmnist: Path, split_by: str | None) -> None:
    data = load("spikingjelly:NMNIST", root=nmnist, frames_number=4, split_by=split_by)
    assert [len(each) for each in (data.train, data.validation, data.test)] == [18, 2, 10]
    assert data.test.lengths is None
    x, y = whole(data)
    assert x.shape == (30, 4, 2, 34, 34)
    expected = torch.zeros_like(x)
    for i in range(30):
        label, number = (i // 2, i % 2) if i < 20 else (i - 20, 0)
        assert int(y[i]) == label
        events = recording(label, number, 12 if number == 0 else 20)
        span = (events[-1][0] - events[0][0]) // 4
        for k, (t, column, row, p) in enumerate(events):
            frame = k // (len(events) // 4) if split_by != "time" else (t - events[0][0]) // span
            expected[i, min(frame, 3), p, row, column] += 1
    assert torch.equal(x, expected)
    assert "stratified by class" in data.description
    assert "spikingjelly.datasets.NMNIST" in data.description
    assert not (nmnist / "download").exists()


def test_nmnist_in_frames_of_a_duration(nmnist: Path) -> None:
    data = load("spikingjelly:NMNIST", root=nmnist, duration=3000)
    x, y = whole(data)
    assert x.shape == (30, 7, 2, 34, 34)
    assert torch.equal(y.bincount(), torch.full((10,), 3))
    sets = (data.train, data.validation, data.test)
    for each in sets:
        assert each.lengths is not None
        count = each.x.sum(dim=(1, 2, 3, 4))
        assert torch.equal(each.lengths, torch.where(count == 12, 4, 7))
        assert set(count.tolist()) <= {12, 20}
        padding = torch.arange(7) >= each.lengths[:, None]
        assert (each.x[padding] == 0).all()
        assert (each.x.sum(dim=(2, 3, 4))[:, :3] == 3).all()


def test_what_was_counted_once_is_kept(nmnist: Path) -> None:
    first = load("spikingjelly:NMNIST", root=nmnist, frames_number=2)
    for path in (nmnist / "extract").rglob("*.bin"):
        path.unlink()
    again = load("spikingjelly:NMNIST", root=str(nmnist), frames_number=2)
    assert torch.equal(whole(first)[0], whole(again)[0])
    assert torch.equal(first.test.index, again.test.index)
    other = load("spikingjelly:NMNIST", root=nmnist, frames_number=3)
    assert whole(other)[0].shape[1] == 3


def test_fewer_samples_are_those_that_come_first(nmnist: Path) -> None:
    data = load("spikingjelly:NMNIST", root=nmnist, frames_number=2)
    some = load("spikingjelly:NMNIST", root=nmnist, frames_number=2, sizes=(5, 1, 10))
    assert torch.equal(some.train.index, data.train.index[:5])
    assert torch.equal(some.train.x, data.train.x[:5])
    assert some.test.y.bincount().tolist() == [1] * 10
    with pytest.raises(InputError, match=r"at most \(18, 2, 10\)"):
        load("spikingjelly:NMNIST", root=nmnist, frames_number=2, sizes=(19, 1, 1))


def test_gestures_are_cut_out_and_labelled_as_spikingjelly_does(gesture: Path) -> None:
    data = load("spikingjelly:DVS128Gesture", root=gesture, frames_number=3, split_by="number")
    x, y = whole(data)
    assert x.shape == (22, 3, 2, 128, 128)
    assert y.bincount().tolist() == [2] * 11
    assert x.sum(dim=(1, 2, 3, 4)).tolist() == [12] * 22
    order = [0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9]
    assert "in the order 0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9" in data.description
    for frames, label in zip(x, y, strict=True):
        assert frames.sum(dim=(0, 1, 2)).nonzero().flatten().tolist() == [100 + order[int(label)]]
    assert x[:11].sum(dim=(0, 1, 2, 4)).nonzero().flatten().tolist() == [91]  # user 1 to train, 24 to test
    assert x[11:].sum(dim=(0, 1, 2, 4)).nonzero().flatten().tolist() == [114]
    assert torch.equal(x[:, :, 0].sum(dim=(2, 3)), torch.full((22, 3), 2.0))


@pytest.mark.parametrize(
    ("name", "kind", "parts", "classes"),
    [("SHD", "shd", ("train", "test"), 20), ("SSC", "ssc", ("train", "valid", "test"), 35)],
)
def test_spoken_digits_and_words(
    tmp_path: Path, name: str, kind: str, parts: tuple[str, ...], classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken(tmp_path, kind, parts, classes)
    monkeypatch.chdir(tmp_path.parent)
    root = Path(tmp_path.name)  # SpikingJelly links to files: also from a relative root
    data = load(f"spikingjelly:{name}", root=root, frames_number=5)
    x, y = whole(data)
    assert x.shape == (len(parts) * classes, 5, 700)
    assert torch.equal(y.bincount(), torch.full((classes,), len(parts)))
    sets = [len(each) for each in (data.train, data.validation, data.test)]
    assert sets == ([35, 35, 35] if name == "SSC" else [18, 2, 20])
    order = sorted(range(classes), key=str)
    for frames, label in zip(x, y, strict=True):
        true, count = order[int(label)], 5 if order[int(label)] == 1 else 10
        expected = torch.zeros(5, 700)
        for k in range(count):
            expected[k // (count // 5), true + k] += 1
        assert torch.equal(frames, expected)
    timed = load(f"spikingjelly:{name}", root=root, duration=9)
    assert timed.test.lengths is not None
    assert timed.test.x.shape[1:] == (4, 700)  # 36 ms
    short = timed.test.y == order.index(1)
    assert timed.test.lengths.tolist() == [2 if each else 4 for each in short.tolist()]
    assert timed.test.x.sum(dim=(1, 2)).tolist() == [5 if each else 10 for each in short.tolist()]


def test_what_is_missing_is_named_and_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr(torchvision.datasets.utils, "download_url", never)
    monkeypatch.setattr("spikingjelly.datasets.base.download_url", never)
    for name, file in (
        ("NMNIST", "Train"),
        ("DVS128Gesture", "DvsGesture"),
        ("SHD", "shd_train.h5"),
        ("SSC", "ssc_valid"),
    ):
        with pytest.raises(InputError, match=rf"expected .*{file}.*unpack the official archives into"):
            load(f"spikingjelly:{name}", root=tmp_path, frames_number=2)
    (tmp_path / "extract").mkdir()
    (tmp_path / "download").mkdir()
    (tmp_path / "download" / "shd_train.h5.zip").write_bytes(b"whatever the user has put here stays")
    with pytest.raises(InputError, match="unpack"):
        load("spikingjelly:SHD", root=tmp_path, frames_number=2)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["download", "extract", "shd_train.h5.zip"]


def test_a_failure_leaves_nothing_behind(nmnist: Path) -> None:
    """SpikingJelly refuses a recording with a frame without events; other options can be tried at once."""
    path = nmnist / "extract" / "Train" / "3" / "00030.bin"
    write_atis(path, [(1000, 3, 0, 0), (1001, 3, 0, 1), (9000, 3, 0, 0)])
    before = sorted(nmnist.iterdir())
    with pytest.raises(InputError, match="the options for frames"):
        load("spikingjelly:NMNIST", root=nmnist, frames_number=3, split_by="time")
    assert sorted(nmnist.iterdir()) == [nmnist / "events_np", *before]
    assert load("spikingjelly:NMNIST", root=nmnist, frames_number=3, split_by="number").train.x.shape[1] == 3
    with pytest.raises(InputError, match="the options for frames"):
        load("spikingjelly:NMNIST", root=nmnist, frames_number=3, split_by="time")


def test_damaged_recordings_are_an_input_error(gesture: Path) -> None:
    file = gesture / "extract" / "DvsGesture" / "user01_led.aedat"
    whole_file = file.read_bytes()
    file.write_bytes(whole_file[:-3])
    with pytest.raises(InputError, match="expected the official files of DVS128Gesture"):
        load("spikingjelly:DVS128Gesture", root=gesture, frames_number=2)
    assert not (gesture / "events_np").exists()
    file.write_bytes(whole_file)
    assert len(load("spikingjelly:DVS128Gesture", root=gesture, frames_number=2).test) == 11


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "either frames_number= or duration=.*got neither"),
        ({"frames_number": 2, "duration": 5}, "got both"),
        ({"frames_number": 0}, "frames_number"),
        ({"frames_number": 2.5}, "frames_number"),
        ({"frames_number": 2, "split_by": "size"}, "split_by"),
        ({"duration": -1}, "microseconds"),
        ({"duration": 5, "split_by": "time"}, "no split_by with duration"),
    ],
)
def test_options_are_checked_first(tmp_path: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load("spikingjelly:NMNIST", root=tmp_path, **options)  # type: ignore[arg-type]
