"""Corruptions of spikes and events: closed forms, brute force event by event, legal outputs on every grid."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData, prepare
from snnrobust.errors import InputError
from snnrobust.plugin import Corruption
from snnrobust.plugin.task import Task
from snnrobust.testing.corruptions import check_corruption
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.wrap import wrap
from snnrobust_attacks.corruptions.background_activity import BackgroundActivity
from snnrobust_attacks.corruptions.bin_width import BinWidth
from snnrobust_attacks.corruptions.burst import Burst
from snnrobust_attacks.corruptions.dead_pixels import DeadPixels
from snnrobust_attacks.corruptions.drop_area import DropArea
from snnrobust_attacks.corruptions.drop_window import DropWindow
from snnrobust_attacks.corruptions.flicker import Flicker
from snnrobust_attacks.corruptions.hot_pixels import HotPixels
from snnrobust_attacks.corruptions.polarity_flip import PolarityFlip
from snnrobust_attacks.corruptions.refractory import Refractory
from snnrobust_attacks.corruptions.sensor_noise import SensorNoise
from snnrobust_attacks.corruptions.shared import poisson
from snnrobust_attacks.corruptions.spatial_jitter import SpatialJitter
from snnrobust_attacks.corruptions.spike_deletion import SpikeDeletion
from snnrobust_attacks.corruptions.spike_insertion import SpikeInsertion
from snnrobust_attacks.corruptions.time_jitter import TimeJitter
from snnrobust_attacks.corruptions.time_scaling import TimeScaling
from snnrobust_attacks.corruptions.truncation import Truncation

RNG = Draws(3, "noise")
#: Each by the greatest count of the data.
LOSSY: list[Corruption] = [
    SpikeDeletion(),
    DropWindow(),
    DropArea(),
    DeadPixels(),
    Refractory(),
    Truncation(),
]
MAKERS: list[Any] = [
    *[lambda high, plugin=plugin: plugin for plugin in [*LOSSY, HotPixels()]],
    *[
        lambda high, kind=kind: kind(high=high)
        for kind in (
            SpikeInsertion,
            BackgroundActivity,
            Flicker,
            Burst,
            TimeJitter,
            TimeScaling,
            SpatialJitter,
            BinWidth,
            SensorNoise,
        )
    ],
    lambda high: TimeScaling("compress", high),
    lambda high: BinWidth(keep_steps=False, high=high),
]
SEVERITIES = {Refractory: 2.0, BinWidth: 2.0}


def grid(*shape: int, most: int = 1, seed: int = 0) -> Tensor:
    return torch.randint(0, most + 1, shape, generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: repr(make(1.0)))
def test_the_conformance_check_passes_on_binary_and_integer_data(make: Any) -> None:
    for high in (1.0, 3.0):
        check_corruption("noise", make(high))


def test_polarity_flips_conform() -> None:
    check_corruption("noise", PolarityFlip())
    check_corruption("noise", PolarityFlip(high=3.0))


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: repr(make(1.0)))
@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**20),
    steps=st.integers(1, 7),
    frames=st.booleans(),
    most=st.sampled_from([1, 2, 5]),
    severity=st.floats(0, 1),
)
def test_every_output_is_legal_and_no_sample_sees_another(
    make: Any, seed: int, steps: int, frames: bool, most: int, severity: float
) -> None:
    x = grid(3, steps, *((2, 3, 4) if frames else (5,)), most=most, seed=seed)
    plugin = make(float(most))
    severity *= SEVERITIES.get(type(plugin), 1.0)
    index = torch.tensor([4, 9, 2])
    out = plugin.apply(x, severity, RNG, index)
    assert out.shape[2:] == x.shape[2:]
    assert out.shape[1] == steps or getattr(plugin, "changes_steps", False)
    assert torch.equal(out, out.round())
    assert out.min() >= 0
    assert out.max() <= most
    if plugin in LOSSY:
        assert out.shape[1] < steps or bool((out <= x).all())
    alone = torch.cat([plugin.apply(x[[i]], severity, RNG, index[[i]]) for i in range(3)])
    assert torch.equal(out, alone)


def test_poisson_counts_are_those_of_the_inverse_distribution_function() -> None:
    u = torch.linspace(0, 1 - 2**-24, 2001)
    for rate in (0.01, 0.7, 4.0):
        exact = torch.from_numpy(stats.poisson.ppf(u.double().numpy(), rate)).clamp(min=0).float()
        assert (poisson(u, torch.tensor(rate), 100) != exact).float().mean() < 0.002  # where u is at a step
        assert torch.equal(poisson(u, torch.tensor(rate), 2), poisson(u, torch.tensor(rate), 100).clamp(max=2))


def test_insertion_fills_empty_entries_at_its_rate() -> None:
    out = SpikeInsertion().apply(torch.zeros(4, 50, 400), 0.3, RNG, torch.arange(4))
    assert out.mean() == pytest.approx(1 - math.exp(-0.3), rel=0.02)
    counts = SpikeInsertion(high=50.0).apply(torch.full((4, 50, 400), 2.0), 0.3, RNG, torch.arange(4)) - 2
    assert counts.mean() == pytest.approx(0.3, rel=0.02)
    assert counts.var() == pytest.approx(0.3, rel=0.03)


def test_background_rates_spread_among_lines_and_not_over_time() -> None:
    out = BackgroundActivity(spread=0.3, high=1000.0).apply(torch.zeros(2, 400, 500), 2.0, RNG, torch.arange(2))
    rates = out.mean(dim=1).log10()  # (N, F)
    assert float(rates.median()) == pytest.approx(math.log10(2.0), abs=0.03)
    assert float(rates.std()) == pytest.approx(0.3, abs=0.03)
    first, second = out[:, :200].mean(dim=1), out[:, 200:].mean(dim=1)
    assert torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1] > 0.95
    even = BackgroundActivity(spread=0.0, high=1000.0).apply(torch.zeros(2, 400, 500), 2.0, RNG, torch.arange(2))
    assert even.mean(dim=1).std() == pytest.approx(math.sqrt(2 / 400), rel=0.1)  # control: Poisson alone


def test_a_window_of_the_right_length_is_lost_at_every_place_alike() -> None:
    x = torch.ones(2000, 10, 3)
    out = DropWindow().apply(x, 0.3, RNG, torch.arange(2000))
    lost = out[:, :, 0] == 0
    assert torch.equal(out, out[:, :, :1].expand_as(out))
    assert lost.sum(dim=1).eq(3).all()
    starts = lost.float().argmax(dim=1)
    assert lost[torch.arange(2000), starts + 2].all()  # without a gap
    counts = torch.bincount(starts, minlength=8).numpy()
    assert counts.shape == (8,)
    assert stats.chisquare(counts).pvalue > 1e-3
    assert not DropWindow().apply(x, 1.0, RNG, torch.arange(2000)).any()


def test_real_sequences_lose_a_window_to_the_value_of_silence() -> None:
    out = DropWindow(fill=-2.0).apply(torch.full((1, 4, 2), 0.25), 0.5, RNG, torch.arange(1))
    assert sorted(out[0, :, 0].tolist()) == [-2.0, -2.0, 0.25, 0.25]


def test_a_rectangle_of_the_right_area_is_lost() -> None:
    x = torch.ones(500, 2, 2, 8, 6)
    out = DropArea().apply(x, 0.25, RNG, torch.arange(500))
    lost = out[:, 0, 0] == 0  # (N, H, W)
    assert torch.equal(out, out[:, :1, :1].expand_as(out))
    assert lost.flatten(1).sum(dim=1).eq(4 * 3).all()
    assert lost.any(dim=2).sum(dim=1).eq(4).all()  # rows of a rectangle
    assert lost.any(dim=1).sum(dim=1).eq(3).all()
    assert lost.float().mean(dim=0).min() > 0  # each pixel at times
    lines = DropArea().apply(torch.ones(500, 3, 8), 0.5, RNG, torch.arange(500))
    assert lines.sum(dim=2).eq(4).all()


def test_hot_lines_fire_at_every_step_and_dead_pixels_at_none() -> None:
    x = grid(4, 6, 2, 30, 30)
    hot = HotPixels().apply(x, 0.2, RNG, torch.arange(4))
    always = hot.min(dim=1).values == 1  # (N, 2, H, W)
    before = x.min(dim=1).values == 1
    assert (always & ~before).float().mean() == pytest.approx(0.2 * float((~before).float().mean()), rel=0.1)
    assert torch.equal(hot[:, 0][~always], x[:, 0][~always])
    dead = DeadPixels().apply(torch.ones(4, 6, 2, 30, 30), 0.2, RNG, torch.arange(4))
    assert torch.equal(dead[:, :, 0], dead[:, :, 1])  # both polarities
    assert torch.equal(dead[:, 0], dead[:, 5])
    assert 1 - dead.mean() == pytest.approx(0.2, abs=0.03)


def test_flashes_alternate_in_polarity() -> None:
    out = Flicker(period=6).apply(torch.zeros(200, 12, 2, 3, 3), 1.0, RNG, torch.arange(200))
    rises, falls = out[:, :, 1, 0, 0], out[:, :, 0, 0, 0]  # (N, T)
    assert rises.sum(dim=1).eq(2).all()
    assert falls.sum(dim=1).eq(2).all()
    assert torch.equal(rises[:, :9], falls[:, 3:])  # half a period later
    assert set(rises.argmax(dim=1).tolist()) == set(range(6))  # any phase
    assert out.flatten(3).std(dim=3).max() == 0  # the whole frame
    half = Flicker(period=6).apply(torch.zeros(20, 12, 500), 0.5, RNG, torch.arange(20))
    assert half.mean() == pytest.approx(0.5 / 6, rel=0.05)


def test_a_burst_is_short_and_dense() -> None:
    out = Burst(width=3).apply(torch.zeros(50, 12, 200), 0.7, RNG, torch.arange(50))
    busy = out.mean(dim=2) > 0
    assert busy.sum(dim=1).eq(3).all()
    assert out.sum() / (50 * 3 * 200) == pytest.approx(0.7, rel=0.02)
    assert Burst(width=30).apply(torch.zeros(1, 4, 5), 1.0, RNG, torch.arange(1)).all()


def test_events_of_a_count_jitter_apart() -> None:
    x = torch.zeros(1, 41, 500)
    x[:, 20] = 4
    out = TimeJitter(high=4.0).apply(x, 2.0, RNG, torch.arange(1))
    assert torch.equal(out.sum(dim=1), x.sum(dim=1))  # none is lost in the middle
    clock = torch.arange(41.0)[:, None] - 20
    assert (out[0] * clock**2).sum() / 2000 == pytest.approx(4 + 1 / 12, rel=0.1)
    assert (out.amax(dim=1) < 4).float().mean() > 0.9  # not as one packet
    cut = TimeJitter(high=1.0).apply(x.clamp(max=1), 2.0, RNG, torch.arange(1))
    assert torch.equal(cut[0].argmax(dim=0).bincount(), cut[0].nonzero()[:, 0].bincount())


def brute_move(x: Tensor, steps: int, high: float, place: Any) -> Tensor:
    """Steps moved one by one in exact arithmetic; `place` gives the new step."""
    out = torch.zeros(len(x), steps, *x.shape[2:])
    for step in range(x.shape[1]):
        if 0 <= place(step) < steps:
            out[:, place(step)] += x[:, step]
    return out.clamp(max=high)


@pytest.mark.parametrize("severity", [0.25, 0.5, 1.0, 2.5])
def test_scaled_times_equal_those_step_by_step(severity: float) -> None:
    x = grid(3, 9, 4, most=2)
    for direction, factor in (("stretch", 1 + severity), ("compress", 1 / (1 + severity))):
        out = TimeScaling(direction, high=4.0).apply(x, severity, RNG, torch.arange(3))  # type: ignore[arg-type]
        assert torch.equal(out, brute_move(x, 9, 4.0, lambda t, f=factor: math.floor((t + 0.5) * f)))
    assert TimeScaling("compress", high=9.0).apply(x, severity, RNG, torch.arange(3)).sum() == x.sum()


@pytest.mark.parametrize("width", [1.0, 2.0, 2.5, 3.0, 20.0])
def test_wider_bins_equal_those_step_by_step(width: float) -> None:
    x = grid(3, 10, 4, most=2)
    few = BinWidth(keep_steps=False, high=100.0).apply(x, width, RNG, torch.arange(3))
    assert torch.equal(few, brute_move(x, math.floor(9 / width) + 1, 100.0, lambda t: math.floor(t / width)))
    assert few.sum() == x.sum()
    same = BinWidth(high=100.0).apply(x, width, RNG, torch.arange(3))
    assert torch.equal(same, brute_move(x, 10, 100.0, lambda t: math.ceil(math.floor(t / width) * width)))
    binary = BinWidth(keep_steps=False).apply(x.clamp(max=1), width, RNG, torch.arange(3))
    assert torch.equal(binary, few.clamp(max=1))


@pytest.mark.parametrize("period", [0.5, 1.0, 2.0, 2.5])
def test_the_refractory_period_keeps_events_as_one_by_one(period: float) -> None:
    x = grid(4, 12, 5, most=2)
    out = Refractory().apply(x, period, RNG, torch.arange(4))
    for sample in range(4):
        for line in range(5):
            last, kept = -math.inf, []
            for step in range(12):
                fires = bool(x[sample, step, line] > 0) and step - last > period
                last = step if fires else last
                kept.append(float(fires))
            assert out[sample, :, line].tolist() == kept


def test_places_jitter_as_event_by_event() -> None:
    x = grid(2, 3, 2, 5, 6)
    out = SpatialJitter().apply(x, 1.5, RNG, torch.arange(2))
    down = torch.round(1.5 * RNG.sub(3).normal(torch.arange(2), x.shape[1:]))
    right = torch.round(1.5 * RNG.sub(4).normal(torch.arange(2), x.shape[1:]))
    expected = torch.zeros_like(x)
    for n, t, c, h, w in x.nonzero().tolist():
        to = h + int(down[n, t, c, h, w]), w + int(right[n, t, c, h, w])
        if 0 <= to[0] < 5 and 0 <= to[1] < 6:
            expected[n, t, c, to[0], to[1]] = 1
    assert torch.equal(out, expected)
    assert not torch.equal(out, x)


def test_polarities_flip_at_their_rate_and_no_event_is_lost() -> None:
    x = torch.zeros(2, 10, 2, 30, 30)
    x[:, :, 1] = 3
    out = PolarityFlip(high=10.0).apply(x, 0.3, RNG, torch.arange(2))
    assert torch.equal(out.sum(dim=2), x.sum(dim=2))
    assert out[:, :, 0].mean() == pytest.approx(0.9, rel=0.03)
    assert out[:, :, 0].var() == pytest.approx(3 * 0.3 * 0.7, rel=0.05)
    assert torch.equal(PolarityFlip(high=10.0).apply(x, 1.0, RNG, torch.arange(2)), x.flip(2))


def test_a_truncated_sequence_is_its_beginning() -> None:
    x = grid(2, 10, 3)
    assert torch.equal(Truncation().apply(x, 0.3, RNG, torch.arange(2)), x[:, :7])
    assert Truncation().apply(x, 1.0, RNG, torch.arange(2)).shape == (2, 1, 3)


@pytest.mark.parametrize("plugin", [SpikeDeletion(), TimeJitter(), SpikeInsertion(), SensorNoise()], ids=repr)
def test_control_other_ids_and_streams_draw_other_numbers(plugin: Corruption) -> None:
    x = grid(3, 12, 40)
    one = plugin.apply(x, 0.5, RNG, torch.arange(3))
    assert not torch.equal(one, plugin.apply(x, 0.5, RNG, torch.arange(3) + 7))
    assert not torch.equal(one, plugin.apply(x, 0.5, RNG.sub("draw", 1), torch.arange(3)))


def model(shape: tuple[int, ...] = (6, 12), net: nn.Module | None = None, **settings: Any) -> SpikingModel:
    features = math.prod(shape[1:])
    net = net or nn.Sequential(nn.Flatten(2), nn.Linear(features, 2), neuron.IFNode(step_mode="m"))
    return wrap(net, **{"encoder": None, "domain": "binary", **settings})


def events(*shape: int) -> EvaluationData:
    return prepare((torch.zeros(2, *shape), torch.zeros(2, dtype=torch.long)), 2)


def task(plugin: Corruption, *severities: float) -> Task:
    return Task("noise", "noise", "noise", "", plugin, severities or (0.0, 1.0))


@pytest.mark.parametrize(
    ("plugin", "wrapped"),
    [
        *[(make(1.0), {"encoder": "repeat", "steps": 2, "domain": "real"}) for make in MAKERS],
        (SpikeInsertion(), {"domain": "integer", "bounds": (0, 4)}),
        (BinWidth(), {"domain": "integer", "bounds": (0, 4)}),
        (DropWindow(fill=0.5), {}),
        (DropArea(fill=-1.0), {}),
        (SpikeInsertion(), {"domain": "integer", "bounds": (-1, 1)}),
        (PolarityFlip(), {}),
    ],
    ids=repr,
)
def test_check_refuses_data_that_does_not_fit(plugin: Any, wrapped: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"(?s)expected .*, got .*; (wrap|pass|reshape|use|give)"):
        plugin.check(model(**wrapped), events(6, 12), task(plugin))


@pytest.mark.parametrize(
    ("plugin", "shape"),
    [(DropArea(), (6, 3, 4)), (SpatialJitter(), (6, 3, 4)), (PolarityFlip(), (6, 3, 2, 2))],
    ids=repr,
)
def test_check_refuses_shapes_that_do_not_fit(plugin: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"N, T, .* got \(2, 6, 3"):
        plugin.check(model(shape), events(*shape), task(plugin))


@pytest.mark.parametrize("plugin", [DropWindow(), DropArea(), DeadPixels(), HotPixels(), Burst(), Truncation()])
def test_shares_above_one_are_refused_before_anything_runs(plugin: Any) -> None:
    with pytest.raises(InputError, match=r"severity in \[0, 1\] .* got 1.5"):
        plugin.check(model(), events(6, 12), task(plugin, 0.5, 1.5))
    with pytest.raises(InputError, match=r"severity in \[0, 1\] .* got 1.5"):
        plugin.apply(grid(2, 6, 12), 1.5, RNG, torch.arange(2))


class Fixed(nn.Module):
    """A net that takes 6 steps of 12 entries alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(72, 2)

    def forward(self, x: Tensor) -> Tensor:  # (T, N, 12)
        out: Tensor = self.layer(x.transpose(0, 1).flatten(1))
        return out


@pytest.mark.parametrize("plugin", [Truncation(), BinWidth(keep_steps=False)], ids=repr)
def test_a_net_for_one_number_of_steps_is_refused_with_a_way_out(plugin: Any) -> None:
    strongest = 1.0 if isinstance(plugin, Truncation) else 2.0
    plugin.check(model(), events(6, 12), task(plugin, strongest))  # control: this one takes any number
    with pytest.raises(
        InputError, match=r"of 6 steps.* got RuntimeError: .*; (use 'drop-window'|pass keep_steps=True)"
    ):
        plugin.check(model(net=Fixed()), events(6, 12), task(plugin, strongest))


@pytest.mark.parametrize("kind", [SpikeInsertion, TimeJitter, BinWidth, Burst, Flicker, PolarityFlip, SensorNoise])
@pytest.mark.parametrize("high", [0.5, 0.0, math.inf, 1.5])
def test_the_greatest_count_is_a_count(kind: Any, high: float) -> None:
    with pytest.raises(InputError, match="whole high >= 1"):
        kind(high=high)


@pytest.mark.parametrize(
    "plugin",
    [SpikeInsertion(), BackgroundActivity(), TimeJitter(), TimeScaling(), Refractory(), SpatialJitter(), SensorNoise()],
    ids=repr,
)
@pytest.mark.parametrize("severity", [-1.0, math.inf, math.nan])
def test_amounts_out_of_range(plugin: Corruption, severity: float) -> None:
    with pytest.raises(InputError, match="finite severity >= 0"):
        plugin.apply(grid(2, 6, 12), severity, RNG, torch.arange(2))


def test_settings_out_of_range() -> None:
    with pytest.raises(InputError, match="did you mean 'stretch'"):
        TimeScaling("stretched")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="period"):
        Flicker(period=0)
    with pytest.raises(InputError, match="width"):
        Burst(width=0)
    with pytest.raises(InputError, match="spread"):
        BackgroundActivity(spread=-0.1)
