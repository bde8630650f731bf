"""Noise of an event sensor as a whole, after v2e."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_choice, check_positive
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.errors import InputError
from snnrobust.plugin.task import Task
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.corruptions.shared import (
    FRAMES,
    add_events,
    check_events,
    check_high,
    check_severity,
    move_in_time,
    poisson,
)

#: v2e's nominal threshold of log intensity.
THRESHOLD = 0.2
#: Its two presets: standard deviation of the threshold among pixels, cutoff of the photoreceptor in Hz (0: none), leak
#: events and shot noise in Hz a pixel, relative jitter of the leak, and spread of rates among pixels in decades.
PRESETS: dict[str, dict[str, float]] = {
    "clean": {
        "threshold_sd": 0.02,
        "cutoff_hz": 0.0,
        "leak_hz": 0.0,
        "shot_hz": 0.0,
        "leak_jitter": 0.0,
        "rate_spread": 0.0,
    },
    "noisy": {
        "threshold_sd": 0.05,
        "cutoff_hz": 30.0,
        "leak_hz": 0.1,
        "shot_hz": 5.0,
        "leak_jitter": 0.1,
        "rate_spread": 0.1,
    },
}


@dataclass(frozen=True)
class SensorNoise:
    """Noise like that of v2e's presets "clean" and "noisy" (Hu et al. 2021, arXiv 2006.07722), on binned events.

    v2e adds noise to light, before there are events; here events are all there is. The parameters have v2e's names and
    values, but the events are not those that v2e would make. Severity scales all of them: 1 is the preset, 0 no noise.
    Each sample sees a sensor of its own. In order, with z standard normal for each pixel:

    1. Threshold mismatch: where theta = 1 + severity threshold_sd z / 0.2 is above 1, an event survives with
       probability 1 / theta. More events of pixels with a lower threshold are not modelled.
    2. Cutoff of the photoreceptor: an event is late by severity e / (2 pi cutoff_hz) seconds, e exponential of mean 1,
       rounded to steps; events after the end are lost. Loss of contrast is not modelled.
    3. Leak: events at intervals of 1 / r with r = severity leak_hz 10^(severity rate_spread z), from a random phase;
       r varies from step to step by severity leak_jitter times a standard normal, and is never negative.
    4. Shot noise: Poisson events of rate severity shot_hz 10^(severity rate_spread z), the same for all light levels.

    On frames [N, T, 2, H, W] leak events are in channel 1 (light grows), and shot noise is shared by both polarities.
    Elsewhere each line of entries is a pixel. Counts are cut at `high`.

    Attributes:
        preset: "clean" or "noisy": the values of the parameters that are None.
        step_ms: Duration of a step in milliseconds.
        high: The greatest count of an entry: the model's upper bound, 1 for binary data.
        threshold_sd: Standard deviation of the threshold among pixels, in units of log intensity (threshold 0.2).
        cutoff_hz: Cutoff of the photoreceptor; 0 for none.
        leak_hz: Leak events a second and pixel.
        shot_hz: Shot noise events a second and pixel.
        leak_jitter: Relative standard deviation of the leak rate from step to step.
        rate_spread: Standard deviation of log10 of the rates among pixels.

    Raises:
        InputError: For an unknown preset, a parameter that is negative or not finite, or such a severity.
    """

    preset: Literal["clean", "noisy"] = "noisy"
    step_ms: float = 1.0
    high: float = 1.0
    threshold_sd: float | None = None
    cutoff_hz: float | None = None
    leak_hz: float | None = None
    shot_hz: float | None = None
    leak_jitter: float | None = None
    rate_spread: float | None = None

    def __post_init__(self) -> None:
        check_choice("preset", self.preset, PRESETS)
        check_positive("step_ms", self.step_ms, "give the duration of a step in milliseconds")
        check_high(self.high)
        for name, value in PRESETS[self.preset].items():
            given = getattr(self, name)
            if given is not None and not (given >= 0 and math.isfinite(given)):
                raise InputError(f"expected a finite {name} >= 0, got {given!r}; leave it out for the preset's")
            object.__setattr__(self, name, value if given is None else float(given))  # the record shows the recipe

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are sequences of spikes or event counts up to `high`."""
        check_events(model, "sensor noise", self.high)

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Noisy sequences [N, T, *] for sequences x [N, T, *] of the samples `index` [N]."""
        check_severity(severity, "sensor noise", "a multiple of the preset")
        if severity == 0:
            return x
        rng = rng.on(x)
        x = self._late(self._thinned(x, severity, rng, index), severity, rng, index)
        polar = x.ndim == FRAMES and x.shape[2] == 2
        pixels = (1, 1, *x.shape[3:]) if polar else (1, *x.shape[2:])
        spread = severity * _number(self.rate_spread) * rng.sub("rates").normal(index, pixels)
        scale = severity * self.step_ms / 1000 * torch.exp(math.log(10) * spread)  # (N, 1, 1, H, W) or (N, 1, *)
        leak = self._leak(x, scale * _number(self.leak_hz), severity, rng.sub("leak"), index)
        if polar:
            leak = torch.cat([torch.zeros_like(leak), leak], dim=2)
        rate = scale * _number(self.shot_hz) / (2 if polar else 1)
        shot = poisson(rng.sub("shot").uniform(index, x.shape[1:]), rate, self.high)
        return add_events(x, leak + shot, self.high)

    def _thinned(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """What is left of the events where thresholds are too high."""
        z = rng.sub("threshold").normal(index, (1, *x.shape[2:]))  # ON and OFF have thresholds of their own
        threshold = 1 + severity * _number(self.threshold_sd) * z / THRESHOLD
        survival = torch.where(threshold > 1, 1 / threshold.clamp(min=1), 1.0)
        left = torch.zeros_like(x)
        for event in range(int(x.max())):
            left += (x > event) & (rng.sub("thinning").uniform(index, x.shape[1:], draw=event) < survival)
        return left

    def _late(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """The events after the photoreceptor's delay."""
        if not self.cutoff_hz:
            return x
        mean = severity * 1000 / (2 * math.pi * self.cutoff_hz) / self.step_ms  # steps

        def shift(event: int) -> Tensor:
            wait = -torch.log1p(-rng.sub("delay").uniform(index, x.shape[1:], draw=event))
            return torch.round(mean * wait)

        return move_in_time(x, shift, self.high, clamp=False)

    def _leak(self, x: Tensor, rate: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Leak events [N, T, *] for rates [N, 1, *] of events a step: whole crossings of the integrated rate."""
        phase = rng.sub("phase").uniform(index, rate.shape[1:])
        wobble = 1 + severity * _number(self.leak_jitter) * rng.normal(index, (x.shape[1], *rate.shape[2:]))
        level = phase + (rate * wobble.clamp(min=0)).cumsum(dim=1)  # (N, T, *)
        return level.floor().diff(dim=1, prepend=phase.floor())


def _number(value: float | None) -> float:
    """A parameter, which has the preset's value by now."""
    return 0.0 if value is None else value
