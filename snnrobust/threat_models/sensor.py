"""The sensor of an event camera, or of any other source of events: which events exist."""

from __future__ import annotations

from dataclasses import dataclass

from snnrobust.common.validate import check_count
from snnrobust.errors import InputError

#: Columns of an event list [N, E, 5].
T, X, Y, P, PRESENT = range(5)
COLUMNS = 5


@dataclass(frozen=True)
class Sensor:
    """Which events exist: 0 <= t < duration, 0 <= x < width, 0 <= y < height, 0 <= p < polarities, all whole numbers.

    Attributes:
        height: Rows of pixels.
        width: Columns of pixels.
        duration: Time of a recording, in the unit of t (microseconds, milliseconds).
        polarities: Kinds of events: 2 for an event camera, 1 where there is no polarity.

    Raises:
        InputError: For a size below 1, or a duration of 2^24 or more, beyond which float32 has no whole numbers.
    """

    height: int
    width: int
    duration: int
    polarities: int = 2

    def __post_init__(self) -> None:
        for name in ("height", "width", "duration", "polarities"):
            check_count(name, getattr(self, name))
        if self.duration >= 2**24:
            raise InputError(
                f"expected a duration below {2**24}, up to which float32 holds whole numbers, got {self.duration}; "
                f"divide the times, e.g. to units of 10 microseconds"
            )
