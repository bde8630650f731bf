"""`Binning`: event lists to frames, as part of the wrapped model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from snnrobust.common.validate import check_choice, check_count, check_flag
from snnrobust.errors import InputError
from snnrobust.threat_models.sensor import COLUMNS, PRESENT, Sensor


@dataclass(frozen=True)
class Binning:
    """Event lists [N, E, 5] to frames [N, T, C, H, W] of event counts: an encoder for `snnrobust.wrap`.

    Made by `by_time` and `by_number`, which say how the T frames are cut.

    A frame is linear in the column `present` while no event changes its frame, and so has that gradient: also an absent
    row gets the gradient of adding its event. Where frames are cut by number, `present` also decides how many
    events there are; that has no gradient. Binary frames are min(count, 1), with the gradient of the count.
    Values off the sensor are clipped to it. The order of the rows does not matter.

    Attributes:
        sensor: Which events exist.
        by: "time" or "number".
        steps: Frames T; None: as many as the model is wrapped with.
        width: Time of a frame, in the unit of t, with `by="time"`; None: duration / T.
        polarity: Whether each polarity is a channel; otherwise they are added.
        binary: Whether frames are min(count, 1).
    """

    sensor: Sensor
    by: Literal["time", "number"] = "time"
    steps: int | None = None
    width: int | None = None
    polarity: bool = True
    binary: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.sensor, Sensor):
            raise InputError(
                f"expected a Sensor, got {self.sensor!r}; pass e.g. sr.events.Sensor(34, 34, duration=300)"
            )
        check_choice("by", self.by, ("time", "number"))
        for name in ("steps", "width"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        for name in ("polarity", "binary"):
            check_flag(name, getattr(self, name))
        if self.width is not None and self.by == "number":
            raise InputError(f"expected no width where frames are cut by number, got {self.width}; leave it out")
        if self.width is not None and self.steps is not None:
            self._frames(self.steps)

    def __call__(self, x: Tensor, steps: int) -> Tensor:
        """Frames [N, T, C, H, W] of event lists x [N, E, 5], T = `steps`.

        Raises:
            InputError: If x is no event list, or T is not this binning's.
        """
        if x.ndim != 3 or x.shape[2] != COLUMNS:
            raise InputError(f"expected event lists [N, E, 5], got {list(x.shape)}; make them with sr.events.dataset")
        frames = self._frames(steps)
        sensor, weight = self.sensor, x[..., PRESENT]
        channels = sensor.polarities if self.polarity else 1
        greatest = (sensor.duration - 1, sensor.width - 1, sensor.height - 1, sensor.polarities - 1)
        columns = x[..., :PRESENT].detach().round().unbind(dim=2)
        t, column, row, p = (each.clamp(0, most).to(torch.int64) for each, most in zip(columns, greatest, strict=True))
        if self.by == "time":
            frame = t * frames // sensor.duration if self.width is None else t // self.width  # (N, E)
        else:
            order = (((t * sensor.height + row) * sensor.width + column) * sensor.polarities + p).argsort(dim=1)
            frame = _frames_by_number(order, weight > 0.5, frames)
        channel = p if self.polarity else torch.zeros_like(p)
        place = ((frame * channels + channel) * sensor.height + row) * sensor.width + column
        shape = (frames, channels, sensor.height, sensor.width)
        counts = weight.new_zeros(len(x), frames * channels * sensor.height * sensor.width)
        counts = counts.scatter_add(1, place, weight).reshape(len(x), *shape)
        return counts.detach().clamp_max(1) + (counts - counts.detach()) if self.binary else counts

    def _frames(self, steps: int) -> int:
        """T, checked."""
        check_count("steps", steps, 1, "give the number of frames T")
        if self.steps not in (None, steps):
            raise InputError(f"expected steps={self.steps}, as this binning has, got {steps}; wrap with the same steps")
        if self.width is not None and (needed := -(-self.sensor.duration // self.width)) != steps:
            raise InputError(
                f"expected steps={needed}, a duration of {self.sensor.duration} in frames of {self.width}, got "
                f"{steps}; wrap with steps={needed}, or change width="
            )
        return steps


def by_time(
    sensor: Sensor,
    steps: int | None = None,
    *,
    width: int | None = None,
    polarity: bool = True,
    binary: bool = False,
) -> Binning:
    """Frames of the same time: an event at t is in frame floor(t T / duration), or floor(t / width).

    Args:
        sensor: Which events exist.
        steps: Frames T; None: as many as the model is wrapped with.
        width: Time of a frame in the unit of t, in place of duration / T; T = ceil(duration / width).
        polarity: Whether each polarity is a channel; otherwise they are added.
        binary: Whether frames are min(count, 1).

    Raises:
        InputError: For T = 0, or a width that gives another T.

    Example:
        >>> x = torch.tensor([[[0.0, 0, 0, 1, 1], [7, 0, 0, 1, 1], [9, 0, 0, 0, 1], [9, 0, 0, 0, 0]]])
        >>> by_time(Sensor(1, 1, duration=10))(x, 2).flatten().tolist()
        [0.0, 1.0, 1.0, 1.0]
    """
    return Binning(sensor, "time", steps, width, polarity, binary)


def by_number(sensor: Sensor, steps: int | None = None, *, polarity: bool = True, binary: bool = False) -> Binning:
    """Frames of the same number of events, in order of time (then y, x and p).

    With K events, event k from 0 is in frame min(floor(k / floor(K / T)), T - 1), as in SpikingJelly's frames split by
    number: the last frame has what is left, and all of them where K < T. Only present events are counted, so that the
    events that an attack returns give the same frames again (Gumbel-softmax attacks that count absent ones, too,
    score other frames than those of the events they return).

    Args:
        sensor: Which events exist.
        steps: Frames T; None: as many as the model is wrapped with.
        polarity: Whether each polarity is a channel; otherwise they are added.
        binary: Whether frames are min(count, 1).

    Raises:
        InputError: For T = 0.
    """
    return Binning(sensor, "number", steps, None, polarity, binary)


def _frames_by_number(order: Tensor, present: Tensor, frames: int) -> Tensor:
    """The frame of each row [N, E], given the rows' order in time; of an absent one, that of the next present event."""
    sorted_present = present.gather(1, order).long()
    before = sorted_present.cumsum(dim=1) - sorted_present  # present events before each
    size = present.sum(dim=1, keepdim=True) // frames
    last = frames - 1
    frame = torch.where(size > 0, before // size.clamp_min(1), last).clamp_max(last)
    return torch.zeros_like(frame).scatter_(1, order, frame)
