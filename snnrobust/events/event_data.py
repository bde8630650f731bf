"""Between recordings and event lists: tensors [N, E, 5] of rows (t, x, y, p, present)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from snnrobust.common.validate import check_count
from snnrobust.data.dataset import Dataset
from snnrobust.errors import InputError, InputTypeError
from snnrobust.events.recording import NAMES, Events
from snnrobust.threat_models.sensor import COLUMNS, PRESENT, Sensor


def dataset(
    recordings: Sequence[Events], labels: Sequence[int] | np.ndarray | Tensor, *, spare: int = 0, name: str = "events"
) -> Dataset:
    """Recordings as a data set of event lists.

    Args:
        recordings: N recordings of one sensor.
        labels: Their classes, [N].
        spare: Absent rows of the longest recording, for events that an attack adds; shorter ones have more.
        name: The name of the set in records.

    Returns:
        x [N, E, 5] with rows (t, x, y, p, present), E = the number of events of the longest recording + `spare`.

    Raises:
        InputError: There is no recording, the numbers of recordings and labels differ, or the sensors do.
        InputTypeError: Something is no `Events`.

    Example:
        >>> one = Events(t=[0, 5], x=[1, 0], y=[0, 0], p=[1, 0], sensor=Sensor(2, 2, duration=10))
        >>> dataset([one], [0], spare=1).x
        tensor([[[0., 1., 0., 1., 1.],
                 [5., 0., 0., 0., 1.],
                 [0., 0., 0., 0., 0.]]])
    """
    check_count("spare", spare, 0, "give the number of events that may be added")
    if not len(recordings):
        raise InputError("expected at least one recording, got none; pass a list of Events")
    for each in recordings:
        if not isinstance(each, Events):
            raise InputTypeError(f"expected Events, got {type(each).__name__}; make them with sr.events.Events")
    y = torch.as_tensor(labels)
    if y.shape != (len(recordings),):
        raise InputError(
            f"expected a label for each of {len(recordings)} recordings, got {list(y.shape)}; give one of each"
        )
    sensors = {each.sensor for each in recordings}
    if len(sensors) > 1:
        raise InputError(f"expected recordings of one sensor, got {len(sensors)}; give all the same Sensor")
    longest = max(map(len, recordings))
    lists = np.zeros((len(recordings), longest + spare, COLUMNS), dtype=np.float32)
    for own, each in zip(lists, recordings, strict=True):
        for column, field in enumerate(NAMES):
            own[: len(each), column] = getattr(each, field)
        own[: len(each), PRESENT] = 1
    return Dataset.of(torch.from_numpy(lists), y.long(), name=name)


def to_events(x: Tensor, sensor: Sensor) -> list[Events]:
    """The recordings in event lists x [N, E, 5]: present rows, in order of t, then y, x and p.

    Raises:
        InputError: If x is no event list, a list is empty, or an event is not one of the sensor's.
    """
    if x.ndim != 3 or x.shape[2] != COLUMNS:
        raise InputError(f"expected event lists [N, E, 5], got {list(x.shape)}; make them with sr.events.dataset")
    recordings = []
    for sample, rows in enumerate(x.detach().double().cpu().numpy()):
        if not np.isin(rows[:, PRESENT], (0.0, 1.0)).all():
            raise InputError(f"expected present to be 0 or 1, got other values in sample {sample}; project the lists")
        t, column, row, p = rows[rows[:, PRESENT] == 1, :PRESENT].T
        order = np.lexsort((p, column, row, t))
        try:
            recordings.append(Events(t[order], column[order], row[order], p[order], sensor=sensor))
        except InputError as error:
            raise InputError(f"sample {sample}: {error}") from error
    return recordings
