"""Recordings of event sensors through SpikingJelly's own readers, from files that are already on disk."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snnrobust.common.validate import check_choice, check_count
from snnrobust.data.dataset import Dataset, Splits
from snnrobust.data.partition import SPLIT_SEED, check_sizes, hold_out
from snnrobust.data.split import stratified_split
from snnrobust.errors import InputError, MissingExtraError, SnnRobustError


@dataclass(frozen=True)
class Kind:
    """A set that SpikingJelly reads.

    Attributes:
        module: The module of `spikingjelly.datasets` that it is in.
        reader: Its class there.
        raw: The folder below `root` that SpikingJelly keeps the converted recordings in.
        unpacked: What the unpacked archives put into "extract" below `root`.
        unit: The unit of `duration`.
        validation: Whether there is an official validation set.
    """

    module: str
    reader: str
    raw: str
    unpacked: tuple[str, ...]
    unit: str
    validation: bool = False


KINDS = {
    "NMNIST": Kind("n_mnist", "NMNIST", "events_np", ("Train", "Test"), "microseconds"),
    "DVS128Gesture": Kind("dvs128_gesture", "DVS128Gesture", "events_np", ("DvsGesture",), "microseconds"),
    "SHD": Kind("shd", "SpikingHeidelbergDigits", "events_h5", ("shd_train.h5", "shd_test.h5"), "milliseconds"),
    "SSC": Kind(
        *("shd", "SpikingSpeechCommands", "events_h5"),
        ("ssc_train.h5", "ssc_valid.h5", "ssc_test.h5"),
        *("milliseconds", True),
    ),
}
"""The sets that can be read, by the names that their authors gave them."""


def neuromorphic(
    name: str,
    kind: str,
    *,
    root: str | Path | None = None,
    frames_number: int | None = None,
    split_by: str | None = None,
    duration: int | None = None,
    sizes: tuple[int, int, int] | None = None,
) -> Splits:
    """Events counted in frames, x [N, T, 2, H, W], or [N, T, 700] for "SHD" and "SSC", with the official test set.

    Validation data is official for "SSC"; otherwise it is a tenth of the official training set. The samples of each
    split stand in an order whose start is balanced. Labels are those that SpikingJelly gives in its frame mode: it
    numbers the classes in the order of their names as text, so from 11 classes on label 2 is class 10.

    SpikingJelly counts the frames once and keeps them below `root`. Nothing is downloaded.

    Args:
        name: The name of the data in records.
        kind: One of `KINDS`.
        root: SpikingJelly's `root`: it holds the folder "extract" with the unpacked official archives, or what
            SpikingJelly has made of them.
        frames_number: Number of frames T of each sample, whatever its length. SpikingJelly refuses a recording with
            nothing in one of the frames under `split_by="time"`.
        split_by: With `frames_number`: frames of equal "number" of events (by default), or of equal "time".
        duration: Instead: the duration of each frame, in microseconds, for "SHD" and "SSC" in milliseconds. Shorter
            recordings are padded with zeros, and `lengths` holds their own numbers of frames.
        sizes: Samples for training, validation and test, to read fewer; None: all.

    Raises:
        InputError: No root, no or contradictory options, or files that are missing or that SpikingJelly can't read.
        MissingExtraError: A package that SpikingJelly needs for its data sets is not installed.
    """
    if root is None:
        raise InputError(f"expected the folder that holds '{name}', got none; pass root=")
    if (frames_number is None) == (duration is None):
        got = "neither" if duration is None else "both"
        raise InputError(
            f"expected either frames_number= or duration= for '{name}', got {got}; pass e.g. frames_number=10"
        )
    options: dict[str, Any] = {"data_type": "frame"}
    if duration is not None:
        check_count("duration", duration, 1, f"give {KINDS[kind].unit}")
        if split_by is not None:
            raise InputError(f"expected no split_by with duration, got {split_by!r}; leave it out")
        options["duration"], frames = duration, f"duration_{duration}"
        how = f"frames of {duration} {KINDS[kind].unit}"
    else:
        check_count("frames_number", frames_number, 1, "give a number of frames")
        split = check_choice("split_by", "number" if split_by is None else split_by, ("number", "time"))
        options["frames_number"], options["split_by"] = frames_number, split
        frames = f"frames_number_{frames_number}_split_by_{split}"
        how = f"{frames_number} frames of equal {'numbers of events' if split == 'number' else 'time'}"
    folder = Path(root).resolve()  # SpikingJelly links to files by the path that it was given
    readers = _readers(name, KINDS[kind], folder, frames, options)
    wanted = None if sizes is None else check_sizes(sizes)
    splits, chosen = _choose(readers, wanted)
    lengthy = duration is not None
    source = f"spikingjelly.datasets.{KINDS[kind].reader} from {root}, under the licence of its authors; {how}"
    classes = readers[0].classes
    if classes != sorted(classes, key=int):
        source = f"{source}; labels number the classes as SpikingJelly does, in the order {', '.join(classes)}"
    sets = _tensors(name, readers, splits, lengthy)
    return Splits(sets[0], sets[1], sets[2], f"{source}; {chosen}")


#: For a split: its name, which reader it comes from, and the positions there.
_Part = tuple[str, int, Tensor]


def _readers(name: str, kind: Kind, root: Path, frames: str, options: dict[str, Any]) -> list[Any]:
    """SpikingJelly's readers of the official sets, in the order training, validation if there is one, test."""
    try:
        reader = getattr(importlib.import_module(f"spikingjelly.datasets.{kind.module}"), kind.reader)
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "spikingjelly", "data", f"the data set '{name}'") from error
    extracted = root / "extract"
    if not (root / kind.raw).exists() and not all((extracted / each).exists() for each in kind.unpacked):
        raise InputError(
            f"expected {', '.join(kind.unpacked)} in '{extracted}', or '{root / kind.raw}' made by SpikingJelly, got "
            f"neither; unpack the official archives into '{extracted}'"
        )
    which: list[dict[str, Any]] = [{"train": True}, {"train": False}]
    if kind.validation:
        which = [{"split": "train"}, {"split": "valid"}, {"split": "test"}]
    try:
        with _all_or_nothing(root, (kind.raw,)):
            if not (root / kind.raw).exists():
                # Only this step of SpikingJelly's preparation: those before it download, or delete archives.
                (root / kind.raw).mkdir()
                reader.create_raw_from_extracted(extracted, root / kind.raw)
        with _all_or_nothing(root, (frames, f"{frames}.building")):
            return [reader(str(root), **each, **options) for each in which]
    except SnnRobustError:
        raise
    except Exception as error:  # whatever a damaged file or an option that does not fit it leads to
        raise InputError(
            f"expected the official files of {kind.reader} in '{root}', got {type(error).__name__}: {error}; check "
            "them and the options for frames"
        ) from error


@contextmanager
def _all_or_nothing(root: Path, names: Sequence[str]) -> Iterator[None]:
    """Removes those of the files and folders that were made inside, if it is left by an exception."""
    fresh = [root / name for name in names if not (root / name).exists()]
    try:
        yield
    except BaseException:
        for path in fresh:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        raise


def _choose(readers: list[Any], sizes: tuple[int, int, int] | None) -> tuple[list[_Part], str]:
    """What each split takes, and how that was chosen."""
    labels = [torch.tensor(reader.targets) for reader in readers]
    orders = [stratified_split(y, (len(y),), SPLIT_SEED)[0] for y in labels]
    if len(readers) == 3:
        rows, chosen = orders, "official training, validation and test sets"
        places = [0, 1, 2]
    else:
        train, validation, chosen = hold_out(labels[0], stratified=True)
        rows, places = [train, validation, orders[1]], [0, 0, 1]
    if sizes is not None:
        check_sizes(sizes, (len(rows[0]), len(rows[1]), len(rows[2])))
        rows = [each[:size] for each, size in zip(rows, sizes, strict=True)]
        chosen = f"{chosen}; of these {sizes[0]} train, {sizes[1]} validation, {sizes[2]} test, stratified by class"
    names = ("training", "validation", "test")
    return list(zip(names, places, rows, strict=True)), chosen


def _tensors(name: str, readers: list[Any], splits: list[_Part], lengthy: bool) -> list[Dataset]:
    """The data of each split, padded to the longest of all."""
    starts = [sum(len(reader) for reader in readers[:place]) for place in range(len(readers))]
    loaded = [[readers[place][int(row)] for row in rows] for _, place, rows in splits]
    steps = max(len(frames) for part in loaded for frames, _ in part)
    sets = []
    for (split, place, rows), part in zip(splits, loaded, strict=True):
        x = torch.zeros(len(part), steps, *part[0][0].shape[1:])
        for position, (frames, _) in enumerate(part):
            x[position, : len(frames)] = torch.from_numpy(frames)
        lengths = torch.tensor([len(frames) for frames, _ in part]) if lengthy else None
        y = torch.tensor([label for _, label in part])
        label = f"{name}, {split} split of seed {SPLIT_SEED}"
        sets.append(Dataset(x, y, rows + starts[place], lengths, label))
        part.clear()
    return sets
