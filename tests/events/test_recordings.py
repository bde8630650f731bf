"""Recordings: each kind of bad input is named, and lists and recordings hold the same events."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snnrobust.errors import InputError, InputTypeError, ViolationError
from snnrobust.events import Events, Sensor, dataset, to_events, verify
from snnrobust.threat_models.threat_model import ThreatModel

SENSOR = Sensor(height=3, width=4, duration=10)


def events(**changed: Any) -> Events:
    columns: dict[str, Any] = {"t": [1, 4, 4], "x": [0, 3, 1], "y": [2, 0, 1], "p": [0, 1, 1]}
    return Events(**{**columns, **changed}, sensor=SENSOR)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"t": [1, 4, 3]}, r"times in order, got t = 3 after 4 at event 2; sort all columns by np\.argsort"),
        ({"t": [-1, 4, 4]}, r"t from 0 to 9 .*got -1 at event 0 \(1 of 3 events\); subtract the first time"),
        ({"t": [1, 4, 10]}, "t from 0 to 9 .*got 10 at event 2"),
        ({"x": [0, 4, 4]}, r"x from 0 to 3 \(the sensor's width is 4\), got 4 at event 1 \(2 of 3 events\)"),
        ({"x": [0, -2, 1]}, "x from 0 to 3 .*got -2"),
        ({"y": [3, 0, 1]}, r"y from 0 to 2 \(the sensor's height is 3\), got 3"),
        ({"p": [0, 2, 1]}, "p from 0 to 1 .*got 2 .*pass polarities="),
        ({"p": [-1, 1, 1]}, "p from 0 to 1 .*got -1 .*map polarities -1 and 1 to 0 and 1"),
        ({"x": [0, 3]}, "the same length, got {'t': 3, 'x': 2, 'y': 3, 'p': 3}"),
        ({"t": [], "x": [], "y": [], "p": []}, "at least one event, got none; leave empty recordings out"),
        ({"t": [[1, 4, 4]]}, r"t of shape \[M\], got \[1, 3\]"),
        ({"t": [1, 4.5, 5]}, "whole numbers in t, got fractions"),
        ({"x": [0, np.nan, 1]}, "whole numbers in x, got fractions or NaN"),
    ],
    ids=str,
)
def test_bad_columns_are_named(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        events(**changed)


def test_columns_of_text_are_refused() -> None:
    with pytest.raises(InputTypeError, match="whole numbers in t, got <U1"):
        events(t=["a", "b", "c"])


def test_a_recording_does_not_change_with_the_arrays_it_was_made_of() -> None:
    t = np.array([1, 4, 4])
    made = events(t=t, p=np.array([False, True, True]))
    t[0] = 3
    assert made.t.tolist() == [1, 4, 4]
    assert made.p.dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        made.t[0] = 0
    assert repr(made) == "Events(3 events, Sensor(height=3, width=4, duration=10, polarities=2))"


@pytest.mark.parametrize("order", ["txyp", "xytp", "pyxt"])
def test_structured_arrays_in_any_order_of_fields(order: str) -> None:
    array = np.zeros(3, dtype=[(name, "<u2") for name in order])
    for name in "txyp":
        array[name] = getattr(events(), name)
    made = Events.from_structured(array, SENSOR)
    assert made.to_array().tolist() == events().to_array().tolist() == [(1, 0, 2, 0), (4, 3, 0, 1), (4, 1, 1, 1)]


def test_structured_arrays_without_a_field_are_refused() -> None:
    with pytest.raises(InputError, match=r"got \['x', 'y', 'ts', 'p'\] without \['t'\]"):
        Events.from_structured(np.zeros(2, dtype=[(name, int) for name in ("x", "y", "ts", "p")]), SENSOR)
    with pytest.raises(InputError, match="got ndarray without"):
        Events.from_structured(np.zeros((2, 4)), SENSOR)


def test_a_data_set_has_room_for_events() -> None:
    data = dataset([events(), events(t=[9], x=[0], y=[0], p=[0])], [1, 0], spare=2, name="toy")
    assert data.x.shape == (2, 5, 5)
    assert data.x[..., 4].tolist() == [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]
    assert data.x[0, 1].tolist() == [4, 3, 0, 1, 1]
    assert (data.y.tolist(), data.name, data.x.dtype) == ([1, 0], "toy", torch.float32)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_lists_hold_the_events_of_their_recordings(seed: int) -> None:
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(3):
        count = generator.integers(1, 20)
        columns = [generator.integers(0, size, count) for size in (10, 4, 3, 2)]
        order = np.lexsort((columns[3], columns[1], columns[2], columns[0]))
        made.append(Events(*(each[order] for each in columns), sensor=SENSOR))
    data = dataset(made, [0, 1, 0], spare=int(generator.integers(0, 3)))
    mixed = data.x[:, torch.from_numpy(generator.permutation(data.x.shape[1]))]
    for found, original in zip(to_events(mixed, SENSOR), made, strict=True):
        assert found.to_array().tolist() == original.to_array().tolist()


@pytest.mark.parametrize(
    ("recordings", "labels", "options", "words"),
    [
        ([], [], {}, "at least one recording"),
        ([events()], [0, 1], {}, r"a label for each of 1 recordings, got \[2\]"),
        ([events(), Events(t=[0], x=[0], y=[0], p=[0], sensor=Sensor(1, 1, 1))], [0, 1], {}, "one sensor, got 2"),
        ([events()], [0], {"spare": -1}, "spare to be a whole number >= 0"),
    ],
)
def test_data_that_does_not_fit_is_refused(
    recordings: list[Events], labels: list[int], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        dataset(recordings, labels, **options)


def test_what_is_no_recording_is_refused() -> None:
    with pytest.raises(InputTypeError, match="expected Events, got ndarray"):
        dataset([np.zeros((3, 4))], [0])


def test_lists_that_are_no_recordings_are_refused() -> None:
    x = dataset([events(), events()], [0, 1]).x
    empty, off, half = x.clone(), x.clone(), x.clone()
    empty[1, :, 4] = 0
    off[1, 0, 1] = 4
    half[1, 0, 4] = 0.5
    for bad, words in ((empty, "sample 1: expected at least one"), (off, "sample 1: expected x"), (half, "sample 1")):
        with pytest.raises(InputError, match=words):
            to_events(bad, SENSOR)
    with pytest.raises(InputError, match=r"\[N, E, 5\], got \[3, 5\]"):
        to_events(x[0], SENSOR)


@pytest.mark.parametrize(
    "size", [{"height": 0}, {"width": -1}, {"duration": 0}, {"duration": 2**24}, {"polarities": 0}]
)
def test_sensors_without_events_are_refused(size: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(size))):
        Sensor(**{"height": 3, "width": 4, "duration": 10, **size})


def test_the_public_check_takes_lists_grids_and_padding() -> None:
    x0 = dataset([events()], [0], spare=1).x
    x = x0.clone()
    x[0, 3] = torch.tensor([2.0, 1, 1, 0, 1])
    threat = ThreatModel("additions", 1, (0.0, 10.0), "events", sensor=SENSOR)
    verify(x, x0, threat)
    verify(x0, x, ThreatModel("deletions", 1, (0.0, 10.0), "events", sensor=SENSOR))
    with pytest.raises(ViolationError, match=r"an allowed example from 'these examples'.*sample 0"):
        verify(x0, x, threat)
    grid = torch.zeros(2, 3, 1)
    flipped = grid.clone()
    flipped[1, 2] = 1
    flips = ThreatModel("l0", 1, domain="binary")
    verify(flipped, grid, flips)
    with pytest.raises(ViolationError, match=r"padding as it was.*step 2 for sample 1"):
        verify(flipped, grid, flips, lengths=torch.tensor([3, 2]))
