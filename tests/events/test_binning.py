"""Binning against a naive loop and SpikingJelly, its gradient by finite differences, and binning again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.datasets import utils
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.errors import InputError
from snnrobust.events import Binning, Events, Sensor, by_number, by_time, dataset, to_events

SENSOR = Sensor(height=3, width=4, duration=20)
BINNINGS = [
    by_time(SENSOR),
    by_time(SENSOR, 3, polarity=False),
    by_time(SENSOR, width=7, binary=True),
    by_number(SENSOR),
    by_number(SENSOR, 3, polarity=False, binary=True),
]


def recordings(generator: np.random.Generator, samples: int, least: int = 1) -> list[Events]:
    found = []
    for _ in range(samples):
        count = generator.integers(least, 30)
        t = np.sort(generator.integers(0, 20, count))
        columns = [generator.integers(0, size, count) for size in (4, 3, 2)]
        found.append(Events(t, *columns, sensor=SENSOR))
    return found


def naive(binning: Binning, x: Tensor, steps: int) -> Tensor:
    frames = torch.zeros(len(x), steps, 2 if binning.polarity else 1, 3, 4)
    for n, rows in enumerate(x.tolist()):
        events = sorted(
            [tuple(map(int, row[:4])) for row in rows if row[4] == 1], key=lambda e: (e[0], e[2], e[1], e[3])
        )
        for k, (t, column, row, p) in enumerate(events):
            if binning.by == "number":
                size = len(events) // steps
                frame = min(k // size, steps - 1) if size else steps - 1
            else:
                frame = t * steps // 20 if binning.width is None else t // binning.width
            frames[n, frame, p if binning.polarity else 0, row, column] += 1
    return frames.clamp(max=1) if binning.binary else frames


@pytest.mark.parametrize("binning", BINNINGS, ids=str)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_frames_are_those_of_a_naive_loop(binning: Binning, seed: int) -> None:
    generator = np.random.default_rng(seed)
    x = dataset(recordings(generator, 4), [0] * 4, spare=3).x
    x[..., 4] *= torch.from_numpy(generator.random(x.shape[:2]) < 0.8)  # absent rows in between
    frames = binning(x, 3)
    assert torch.equal(frames, naive(binning, x, 3))
    mixed = x[:, torch.from_numpy(generator.permutation(x.shape[1]))]
    assert torch.equal(binning(mixed, 3), frames)
    assert torch.equal(binning(x[1:2], 3), frames[1:2])


@pytest.mark.parametrize("binning", BINNINGS, ids=str)
def test_emitted_events_give_the_same_frames_again(binning: Binning) -> None:
    """Absent rows count for nothing, also where frames are cut by number: a published attack counts them."""
    generator = np.random.default_rng(0)
    x = dataset(recordings(generator, 50, least=12), [0] * 50, spare=40).x
    x[:, ::2, 4] = 0
    x[..., :4] = torch.from_numpy(np.stack([generator.integers(0, n, x.shape[:2]) for n in (20, 4, 3, 2)], 2)).float()
    x = x[(x[..., 4].sum(dim=1) > 0)]
    again = dataset(to_events(x, SENSOR), [0] * len(x)).x
    assert torch.equal(binning(again, 3), binning(x, 3))


def test_counting_absent_rows_would_give_other_frames() -> None:
    """The flaw that the test above excludes is there to be found: the same lists with all rows counted."""
    generator = np.random.default_rng(1)
    x = dataset(recordings(generator, 20, least=12), [0] * 20).x
    x[:, ::2, 4] = 0
    everything = x.clone()
    everything[..., 4] = 1
    binning = by_number(SENSOR)
    order = everything[..., 0].argsort(dim=1, stable=True)
    k = torch.zeros_like(order).scatter_(1, order, torch.arange(x.shape[1]).expand_as(order).contiguous())
    frame = (k // (x.shape[1] // 3)).clamp_max(2)
    flawed = torch.zeros(len(x), 3)
    flawed.scatter_add_(1, frame, x[..., 4])
    assert not torch.equal(binning(x, 3).flatten(2).sum(dim=2), flawed)


@pytest.mark.parametrize("count", [3, 10, 31])
def test_frames_by_number_are_those_of_spikingjelly(count: int) -> None:
    generator = np.random.default_rng(count)
    big = Sensor(height=3, width=4, duration=100)
    columns = [np.sort(generator.permutation(100)[:count]), *(generator.integers(0, n, count) for n in (4, 3, 2))]
    x = dataset([Events(*columns, sensor=big)], [0]).x
    theirs = utils.integrate_events_by_fixed_frames_number(
        dict(zip("txyp", columns, strict=True)), split_by="number", frames_num=4, H=3, W=4
    )
    assert torch.equal(by_number(big)(x, 4)[0], torch.from_numpy(theirs).float())


@pytest.mark.parametrize("binning", BINNINGS, ids=str)
def test_the_gradient_of_presence_is_that_of_finite_differences(binning: Binning) -> None:
    generator = np.random.default_rng(2)
    x = dataset(recordings(generator, 3), [0] * 3, spare=4).x.double()
    x[:, -4:, :4] = torch.from_numpy(
        np.stack([generator.integers(0, n, (3, 4)) for n in (20, 4, 3, 2)], axis=2)
    ).double()
    weight = torch.randn(binning(x, 3).shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    (gradient,) = torch.autograd.grad((binning(x, 3) * weight).sum(), x)
    assert not gradient[..., :4].any()
    linear = Binning(SENSOR, binning.by, binning.steps, binning.width, binning.polarity)  # counts: straight through
    for row in range(x.shape[1]):
        up = x.detach().clone()
        up[:, row, 4] += 0.25 * (1 - 2 * up[:, row, 4])  # a quarter towards the other value: no other frame
        change = ((linear(up, 3) - linear(x.detach(), 3)) * weight).flatten(1).sum(dim=1)
        assert torch.allclose(gradient[:, row, 4] * (up[:, row, 4] - x[:, row, 4]).detach(), change)


def test_adding_an_event_changes_counts_by_its_gradient() -> None:
    x = dataset([Events(t=[0, 9], x=[0, 1], y=[0, 0], p=[0, 1], sensor=SENSOR)], [0], spare=1).x
    x[0, 2, :4] = torch.tensor([15.0, 2, 1, 1])
    with_event = x.clone()
    with_event[0, 2, 4] = 1
    weight = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    (gradient,) = torch.autograd.grad((by_time(SENSOR)(x, 2)[0] * weight).sum(), x)
    change = ((by_time(SENSOR)(with_event, 2) - by_time(SENSOR)(x, 2))[0] * weight).sum()
    assert gradient[0, 2, 4].item() == pytest.approx(change.item()) == pytest.approx(weight[1, 1, 1, 2].item())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: by_time(SENSOR, 0), "steps to be a whole number >= 1, got 0"),
        (lambda: by_number(SENSOR, 0), "steps to be a whole number >= 1, got 0"),
        (lambda: by_time(SENSOR)(torch.zeros(1, 2, 5), 0), "steps to be a whole number >= 1, got 0; give the number"),
        (lambda: by_time(SENSOR, width=0), "width to be a whole number >= 1"),
        (lambda: by_time(SENSOR, 4, width=7), "steps=3, a duration of 20 in frames of 7, got 4"),
        (lambda: by_time(SENSOR, width=7)(torch.zeros(1, 2, 5), 2), "steps=3, a duration of 20 in frames of 7, got 2"),
        (lambda: by_time(SENSOR, 4)(torch.zeros(1, 2, 5), 3), "steps=4, as this binning has, got 3"),
        (lambda: by_time(SENSOR)(torch.zeros(1, 2, 4), 3), r"event lists \[N, E, 5\], got \[1, 2, 4\]"),
        (lambda: Binning(SENSOR, "number", width=3), "no width where frames are cut by number"),
        (lambda: Binning((3, 4), "time"), "a Sensor, got"),
        (lambda: Binning(SENSOR, "events"), "'time', 'number'"),
    ],
)
def test_binnings_that_lose_events_are_refused(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


class Flat(nn.Module):
    """Two logits for each step."""

    def __init__(self, entries: int = 24) -> None:
        super().__init__()
        self.linear = nn.Linear(entries, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(2))


def wrapped(**settings: Any) -> sr.SpikingModel:
    torch.manual_seed(0)
    given: dict[str, Any] = {"layout": "NT", "steps": 3, "encoder": by_number(SENSOR), "domain": "events"}
    return sr.wrap(Flat(), **{**given, **settings})


def test_the_binning_is_part_of_the_wrapped_model() -> None:
    model = wrapped()
    x = dataset(recordings(np.random.default_rng(0), 4), [0] * 4, spare=2).x
    expected = model.net(by_number(SENSOR)(x, 3)).mean(dim=1)
    assert torch.allclose(model.logits(x), expected)
    assert (model.bounds, model.sensor) == ((0.0, 20.0), SENSOR)
    threat = model.threat_model("additions", 2, (("deletions", 1.0),))
    assert (threat.domain, threat.sensor, threat.bounds) == ("events", SENSOR, (0.0, 20.0))
    assert threat.budgets == {"additions": 2, "deletions": 1.0}
    assert "by='number'" in str(model.settings()["encoder"])
    assert wrapped(encoder=by_time(SENSOR)).fingerprint() != model.fingerprint()
    grid = sr.wrap(Flat(), layout="NT", encoder=None, domain="binary")
    assert (grid.sensor, grid.threat_model("l0", 2).domain) == (None, "binary")


def test_times_survive_a_net_of_half_precision() -> None:
    """bfloat16 has no 2047 (nor 1999): rounded to 2048, it would be in another frame."""
    long = Sensor(height=1, width=1, duration=2048)
    torch.manual_seed(0)
    model = sr.wrap(Flat(2).bfloat16(), layout="NT", steps=1024, encoder=by_time(long), domain="events")
    x = dataset([Events(t=[1021], x=[0], y=[0], p=[1], sensor=long)], [0]).x
    frames = model.encode(model.own_input(x), torch.arange(1), 0)
    assert frames.dtype == torch.bfloat16
    assert frames[0, 510, 1].item() == 1


def test_a_callable_of_ones_own_with_a_sensor_is_taken() -> None:
    class Own:
        sensor = SENSOR

        def __call__(self, x: Tensor, steps: int) -> Tensor:
            return by_time(SENSOR)(x, steps) * 2

    x = dataset(recordings(np.random.default_rng(0), 2), [0, 1]).x
    expected = wrapped(encoder=Own()).net(2 * by_time(SENSOR)(x, 3)).mean(dim=1)
    assert torch.allclose(wrapped(encoder=Own()).logits(x), expected)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"encoder": "repeat"}, "an encoder with a sensor for domain 'events', got repeat"),
        ({"encoder": None}, "an encoder with a sensor for domain 'events', got None"),
        ({"bounds": (0, 7)}, "no bounds for domain 'events'"),
        ({"layout": "N", "encoder": by_time(SENSOR)}, "no encoder with layout 'N'"),
        ({"steps": 0}, "steps to be a whole number >= 1"),
        ({"steps": None}, "expected steps= with an encoder"),
    ],
)
def test_models_of_events_that_can_not_be_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        wrapped(**given)
