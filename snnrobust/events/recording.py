"""`Events`: one recording of an event camera, or of any other source of events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from snnrobust.errors import InputError, InputTypeError
from snnrobust.threat_models.sensor import Sensor

#: The columns of an event, in the order of an event list.
NAMES = ("t", "x", "y", "p")


@dataclass(frozen=True, eq=False)
class Events:
    """One recording: events in order of time.

    Attributes:
        t: Times [M], int64, from 0 to the sensor's duration - 1, in order.
        x: Columns of the pixels [M], int64.
        y: Rows of the pixels [M], int64.
        p: Polarities [M], int64, from 0; bool and whole floats are taken, too.
        sensor: Which events exist.

    Raises:
        InputTypeError: A column is not made of numbers.
        InputError: There is no event, lengths differ, times are out of order, or an event is not one of the sensor's.

    Example:
        >>> events = Events(t=[0, 5, 5], x=[1, 0, 1], y=[0, 0, 1], p=[1, 0, 1], sensor=Sensor(2, 2, duration=10))
        >>> len(events), events.t
        (3, array([0, 5, 5]))
    """

    t: np.ndarray
    x: np.ndarray
    y: np.ndarray
    p: np.ndarray
    sensor: Sensor = field(kw_only=True)

    def __post_init__(self) -> None:
        for name in NAMES:
            object.__setattr__(self, name, _whole(name, getattr(self, name)))
        lengths = {name: len(getattr(self, name)) for name in NAMES}
        if len(set(lengths.values())) > 1:
            raise InputError(f"expected t, x, y and p of the same length, got {lengths}; give one of each per event")
        if not len(self):
            raise InputError("expected at least one event, got none; leave empty recordings out")
        sensor = self.sensor
        sizes = (
            ("t", sensor.duration, "duration"),
            ("x", sensor.width, "width"),
            ("y", sensor.height, "height"),
            ("p", sensor.polarities, "polarities"),
        )
        for name, size, what in sizes:
            column = getattr(self, name)
            outside = (column < 0) | (column >= size)
            if outside.any():
                at = int(outside.argmax())
                raise InputError(
                    f"expected {name} from 0 to {size - 1} (the sensor's {what} is {size}), got {column[at]} at event "
                    f"{at} ({int(outside.sum())} of {len(column)} events); {_remedy(name, int(column[at]))}"
                )
        back = np.diff(self.t) < 0
        if back.any():
            at = int(back.argmax())
            raise InputError(
                f"expected times in order, got t = {self.t[at + 1]} after {self.t[at]} at event {at + 1}; sort all "
                f"columns by np.argsort(t, kind='stable')"
            )

    @classmethod
    def from_structured(cls, array: np.ndarray, sensor: Sensor) -> Events:
        """The recording in a structured array [M] with fields t, x, y and p, in any order of the fields.

        Raises:
            InputError: If a field is missing, or as for `Events`.
        """
        names = getattr(getattr(array, "dtype", None), "names", None) or ()
        if missing := [name for name in NAMES if name not in names]:
            raise InputError(
                f"expected a structured array with fields t, x, y, p, got {list(names) or type(array).__name__} "
                f"without {missing}; rename its fields, or call Events(t=..., x=..., y=..., p=..., sensor=...)"
            )
        return cls(**{name: array[name] for name in NAMES}, sensor=sensor)

    def to_array(self) -> np.ndarray:
        """A structured array [M] with int64 fields t, x, y and p."""
        array = np.empty(len(self), dtype=[(name, np.int64) for name in NAMES])
        for name in NAMES:
            array[name] = getattr(self, name)
        return array

    def __len__(self) -> int:
        return len(self.t)

    def __repr__(self) -> str:
        return f"Events({len(self)} events, {self.sensor})"


def _whole(name: str, values: Any) -> np.ndarray:
    """A column as a read-only int64 array of its own."""
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" and array.size:
        raise InputTypeError(f"expected whole numbers in {name}, got {array.dtype}; pass an array of integers")
    if array.ndim != 1:
        raise InputError(f"expected {name} of shape [M], got {list(array.shape)}; pass one number per event")
    if array.dtype.kind == "f" and not (np.isfinite(array) & (array == np.rint(array))).all():
        raise InputError(f"expected whole numbers in {name}, got fractions or NaN; round, or choose a finer unit")
    whole = array.astype(np.int64)
    whole.setflags(write=False)
    return whole


def _remedy(name: str, value: int) -> str:
    if name == "t":
        return "subtract the first time, or pass a longer duration"
    if name == "p":
        return "map polarities -1 and 1 to 0 and 1" if value < 0 else "pass polarities= to Sensor"
    return "drop these events, or pass the sensor's size"
