"""Sensor noise after v2e: each part alone has the rate that its parameter says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from snnrobust.common.random import Draws
from snnrobust.errors import InputError
from snnrobust.plugin.task import Task
from snnrobust_attacks.corruptions.sensor_noise import PRESETS, SensorNoise

RNG = Draws(3, "noise")
QUIET = dict.fromkeys(PRESETS["noisy"], 0.0)


def only(high: float = 1000.0, step_ms: float = 1.0, **parameters: float) -> SensorNoise:
    """A sensor with nothing but these parts."""
    settings: dict[str, Any] = {**QUIET, **parameters}
    return SensorNoise(high=high, step_ms=step_ms, **settings)


def test_the_record_holds_the_recipe() -> None:
    task = Task("sensor-noise", "n", "noise", "", SensorNoise(preset="noisy"), (1.0,))
    parameters = task.settings()["parameters"]
    assert {name: parameters[name] for name in PRESETS["noisy"]} == PRESETS["noisy"]
    assert "cutoff_hz=30.0" in repr(SensorNoise())
    assert SensorNoise("clean").shot_hz == 0.0
    assert SensorNoise(shot_hz=2.0) == SensorNoise(shot_hz=2.0, leak_hz=PRESETS["noisy"]["leak_hz"])


def test_a_sensor_without_any_part_changes_nothing() -> None:
    x = torch.bernoulli(torch.full((2, 6, 2, 4, 4), 0.4), generator=torch.Generator().manual_seed(0))
    assert torch.equal(only().apply(x, 1.0, RNG, torch.arange(2)), x)
    assert not torch.equal(SensorNoise().apply(x, 1.0, RNG, torch.arange(2)), x)


@pytest.mark.parametrize("severity", [0.5, 1.0])
def test_shot_noise_has_its_rate_and_both_polarities(severity: float) -> None:
    out = only(shot_hz=5.0, step_ms=10.0).apply(torch.zeros(2, 100, 2, 20, 20), severity, RNG, torch.arange(2))
    seconds, pixels = 100 * 0.01, 2 * 20 * 20
    assert out.sum() / pixels / seconds == pytest.approx(5 * severity, rel=0.05)
    assert out[:, :, 0].sum() == pytest.approx(float(out[:, :, 1].sum()), rel=0.1)


def test_leak_is_regular_and_of_one_polarity() -> None:
    out = only(leak_hz=10.0, step_ms=10.0).apply(torch.zeros(2, 100, 2, 20, 20), 1.0, RNG, torch.arange(2))
    assert not out[:, :, 0].any()
    counts = out[:, :, 1].sum(dim=1)  # in 1 s
    assert (counts - 10).abs().max() <= 1  # not Poisson, whose variance would be 10
    first = out[:, :, 1].argmax(dim=1).float()
    assert first.mean() == pytest.approx(4.5, abs=0.3)  # any phase of the 10 steps
    jittered = only(leak_hz=10.0, step_ms=10.0, leak_jitter=0.5)
    assert not torch.equal(jittered.apply(torch.zeros(2, 100, 2, 20, 20), 1.0, RNG, torch.arange(2)), out)


def test_rates_spread_among_pixels() -> None:
    sensor = only(shot_hz=2000.0, rate_spread=0.3)
    rates = sensor.apply(torch.zeros(2, 400, 2, 15, 15), 1.0, RNG, torch.arange(2)).sum(dim=(1, 2)).log10()
    assert rates.std() == pytest.approx(0.3, abs=0.03)


def test_events_are_late_by_the_time_constant() -> None:
    x = torch.zeros(2, 400, 2000)
    x[:, 0] = 1
    out = only(cutoff_hz=10.0).apply(x, 1.0, RNG, torch.arange(2))
    late = (out * torch.arange(400.0)[:, None]).sum() / out.sum()
    assert late == pytest.approx(1000 / (2 * math.pi * 10), rel=0.05)  # 15.9 steps of 1 ms
    assert out.sum() == x.sum()
    half = only(cutoff_hz=10.0, step_ms=2.0).apply(x, 1.0, RNG, torch.arange(2))
    assert (half * torch.arange(400.0)[:, None]).sum() / half.sum() == pytest.approx(float(late) / 2, rel=0.05)


def test_mismatch_thins_the_pixels_with_a_higher_threshold() -> None:
    out = only(threshold_sd=0.05).apply(torch.ones(2, 500, 400), 1.0, RNG, torch.arange(2))
    share = out.mean(dim=1)  # (N, F)
    whole = (share == 1).float().mean()
    assert whole == pytest.approx(0.5, abs=0.05)
    z = torch.linspace(-8, 8, 20001)
    weight = torch.exp(-z * z / 2)
    expected = (weight / (1 + 0.25 * z).clamp(min=1)).sum() / weight.sum()
    assert share.mean() == pytest.approx(float(expected), abs=0.01)


def test_bad_settings() -> None:
    with pytest.raises(InputError, match="did you mean 'noisy'"):
        SensorNoise("noise")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="shot_hz >= 0"):
        SensorNoise(shot_hz=-1.0)
    with pytest.raises(InputError, match="step_ms > 0"):
        SensorNoise(step_ms=0.0)
