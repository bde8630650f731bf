"""Event lists: distances and the independent check against brute force, projection, random starts, illegal lists."""

from __future__ import annotations

import ast
import inspect
import re
from collections import Counter
from collections.abc import Callable
from itertools import permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.errors import InputError, ViolationError
from snnrobust.threat_models import verify_event_lists
from snnrobust.threat_models.event_lists import event_distance, project_events, random_events
from snnrobust.threat_models.sensor import Sensor
from snnrobust.threat_models.threat_model import Norm, ThreatModel
from snnrobust.threat_models.verify import verify
from snnrobust.threat_models.verify_event_lists import event_list_fault

SENSOR = Sensor(height=2, width=3, duration=8)
#: Few places, so that events often coincide.
TIGHT = Sensor(height=1, width=2, duration=6, polarities=1)
COUNTED: list[dict[str, float]] = [
    {"l0": 3},
    {"l1": 2},
    {"additions": 2, "deletions": 0},
    {"deletions": 2, "additions": 0},
    {"additions": 2, "deletions": 1},
    {"events": 1},
    {"l0": 5, "additions": 2, "events": 1},
    {"l0": 0},
]
SHIFTED: list[dict[str, float]] = [
    {"shift-linf": 2},
    {"shift-l1": 4},
    {"shift-l0": 2},
    {"shift-linf": 1, "shift-l0": 1},
    {"shift-linf": 2, "shift-l1": 5, "shift-l0": 3},
    {"shift-linf": 0},
]


def lists(generator: np.random.Generator, samples: int, rows: int, sensor: Sensor = SENSOR) -> Tensor:
    """Random event lists [N, E, 5] whose absent rows hold numbers off the sensor."""
    sizes = (sensor.duration, sensor.width, sensor.height, sensor.polarities)
    events = np.stack([generator.integers(0, size, (samples, rows)) for size in sizes], axis=2)
    present = generator.random((samples, rows, 1)) < generator.uniform(0, 1, (samples, 1, 1))
    events = np.where(present, events, generator.integers(-3, 30, events.shape))
    return torch.from_numpy(np.concatenate([events, present], axis=2).astype(np.float32))


def near(generator: np.random.Generator, x0: Tensor) -> Tensor:
    """Anything: fractions, off the sensor, events that move, come and go."""
    size = generator.choice([0.2, 1.0, 4.0], (len(x0), x0.shape[1], 1))
    noise = generator.normal(0, 1, x0.shape) * size * (generator.random(x0.shape) < 0.6)
    return x0 + torch.from_numpy(noise.astype(np.float32))


def events_of(x: Tensor) -> Counter[tuple[int, ...]]:
    return Counter(tuple(int(value) for value in row[:4]) for row in x.tolist() if row[4] == 1)


def counts(x: Tensor, x0: Tensor) -> dict[str, int]:
    new, old = events_of(x), events_of(x0)
    added, removed = (new - old).total(), (old - new).total()
    return {
        "additions": added,
        "deletions": removed,
        "l0": added + removed,
        "l1": added + removed,
        "events": abs(added - removed),
    }


def matchings(x: Tensor, x0: Tensor) -> list[dict[str, int]]:
    """All shifts of all matchings of the events that keep pixel and polarity."""
    new, old = list(events_of(x).elements()), list(events_of(x0).elements())
    if len(new) != len(old):
        return []
    found = []
    for order in permutations(range(len(new))):
        pairs = [(new[i], was) for i, was in zip(order, old, strict=True)]
        if all(a[1:] == b[1:] for a, b in pairs):
            apart = [abs(a[0] - b[0]) for a, b in pairs]
            found.append(
                {
                    "shift-linf": max(apart, default=0),
                    "shift-l1": sum(apart),
                    "shift-l0": sum(each != 0 for each in apart),
                }
            )
    return found


def fault(x: Tensor, x0: Tensor, budgets: dict[str, float], sensor: Sensor = SENSOR) -> str | None:
    return event_list_fault(x.double().numpy(), x0.double().numpy(), budgets, sensor)


@pytest.mark.parametrize("norm", ["additions", "deletions", "l0", "l1", "events"])
def test_counts_are_those_of_multisets(norm: str) -> None:
    generator = np.random.default_rng(0)
    x, x0 = lists(generator, 400, 6, TIGHT), lists(generator, 400, 6, TIGHT)
    expected = [counts(a, b)[norm] for a, b in zip(x, x0, strict=True)]
    assert event_distance(x, x0, norm).tolist() == expected
    assert len(set(expected)) > 3


@pytest.mark.parametrize("norm", ["shift-linf", "shift-l1", "shift-l0"])
def test_shifts_are_the_least_over_all_matchings(norm: str) -> None:
    generator = np.random.default_rng(1)
    x0 = lists(generator, 300, 5, TIGHT)
    x = x0.clone()
    x[..., 0] = torch.where(x0[..., 4] > 0, torch.from_numpy(generator.integers(0, 6, (300, 5))).float(), x0[..., 0])
    x = x[:, torch.from_numpy(generator.permutation(5))]  # rows need not be in the same order
    x[::7, 0, 1] = 1 - x[::7, 0, 1]  # another pixel: no retiming
    distance = event_distance(x, x0, norm).tolist()
    for found, a, b in zip(distance, x, x0, strict=True):
        assert found == min((each[norm] for each in matchings(a, b)), default=float("inf"))
    assert len(set(distance)) > 3


def test_what_counts_two_on_a_grid_counts_two_here() -> None:
    x0 = torch.tensor([[[3.0, 1, 1, 0, 1], [0, 0, 0, 0, 0]]])
    flipped, moved = x0.clone(), x0.clone()
    flipped[0, 0, 3] = 1
    moved[0, 0, 0] = 4
    for x in (flipped, moved):
        assert [event_distance(x, x0, norm).item() for norm in ("l0", "additions", "deletions", "events")] == [
            2,
            1,
            1,
            0,
        ]
    assert event_distance(flipped, x0, "shift-l1").item() == float("inf")
    assert event_distance(moved, x0, "shift-l1").item() == 1


def test_a_list_without_events_is_at_no_distance_from_itself() -> None:
    x = torch.zeros(2, 3, 5)
    for norm in ("l0", "events", "shift-linf", "shift-l1", "shift-l0"):
        assert event_distance(x, x, norm).tolist() == [0, 0]
        assert event_distance(x[:, :0], x[:, :0], norm).tolist() == [0, 0]


@pytest.mark.parametrize("budgets", [*COUNTED, *SHIFTED], ids=str)
def test_the_check_agrees_with_brute_force_on_2000_lists(budgets: dict[str, float]) -> None:
    generator = np.random.default_rng(2)
    x0 = lists(generator, 2000, 4, TIGHT)
    x = x0.clone()
    shifted = "shift" in str(budgets)
    changed = generator.random(x.shape) < (0.8 if shifted else 0.4)
    anything = lists(generator, 2000, 4, TIGHT)
    columns = [0] if shifted else [0, 1, 4]
    for column in columns:
        x[..., column] = torch.where(torch.from_numpy(changed[..., column]), anything[..., column], x[..., column])
    x[..., :4] = x[..., :4].clamp(torch.zeros(4), torch.tensor([5.0, 1, 0, 0]))
    allowed = 0
    for a, b in zip(x, x0, strict=True):
        if shifted:
            legal = any(all(each[norm] <= most for norm, most in budgets.items()) for each in matchings(a, b))
        else:
            legal = all(counts(a, b)[norm] <= most for norm, most in budgets.items())
        assert (fault(a, b, budgets, TIGHT) is None) == legal, (a, b)
        allowed += legal
    assert 50 < allowed < 1950


def test_parts_that_hold_in_different_matchings_do_not_hold_jointly() -> None:
    """{1, 2} -> {2, 3} moves one event by two, or two events by one."""
    x0 = torch.tensor([[1.0, 0, 0, 0, 1], [2, 0, 0, 0, 1]])
    x = x0 + torch.tensor([1.0, 0, 0, 0, 0])
    for norm in ("shift-linf", "shift-l0"):
        assert event_distance(x[None], x0[None], norm).item() == 1
        assert fault(x, x0, {norm: 1}) is None
    joint = {"shift-linf": 1.0, "shift-l0": 1.0}
    assert "at least 2 events moved" in str(fault(x, x0, joint))
    assert fault(project_events(x[None], x0[None], joint, SENSOR)[0], x0, joint) is None


ONE = torch.tensor([[3.0, 1, 1, 0, 1], [5, 2, 0, 1, 1], [0, 0, 0, 0, 0]])


def put(row: int, column: int, value: float) -> Tensor:
    x = ONE.clone()
    x[row, column] = value
    return x


@pytest.mark.parametrize(
    ("x", "budgets", "words"),
    [
        (put(0, 0, 3.5), {"l0": 9}, "a fraction, .*(3.5, 1, 1, 0)"),
        (put(0, 0, -1), {"l0": 9}, r"off the sensor, .*\(-1, 1, 1, 0\)"),
        (put(0, 0, 8), {"l0": 9}, "off the sensor"),
        (put(0, 1, 3), {"l0": 9}, "off the sensor"),
        (put(0, 2, 2), {"l0": 9}, "off the sensor"),
        (put(0, 3, 2), {"l0": 9}, "off the sensor"),
        (put(0, 4, 0.5), {"l0": 9}, "present = 0.5"),
        (put(0, 4, 2), {"l0": 9}, "present = 2"),
        (put(2, 4, -1), {"l0": 9}, "present = -1"),
        (put(0, 0, 4), {"l0": 1}, "distance of 2 in 'l0', 1 allowed"),
        (put(0, 0, 4), {"additions": 1, "deletions": 0}, "distance of 1 in 'deletions', 0 allowed"),
        (put(2, 4, 1), {"deletions": 1, "additions": 0}, "distance of 1 in 'additions', 0 allowed"),
        (put(2, 4, 1), {"events": 0}, "distance of 1 in 'events'"),
        (put(2, 4, 1), {"shift-linf": 9}, "1 events instead of 0"),
        (put(0, 4, 0), {"shift-l1": 9}, "0 events instead of 1"),
        (put(0, 3, 1), {"shift-l0": 9}, "events instead of"),
        (put(0, 1, 2), {"shift-l0": 9}, "events instead of"),
        (put(0, 0, 5), {"shift-linf": 1}, "moved by 2, 1 allowed"),
        (put(0, 0, 5), {"shift-l1": 1}, "total shift of 2, 1 allowed"),
        (put(0, 0, 5), {"shift-l0": 0}, "at least 1 events moved, 0 allowed"),
        (ONE, {"linf": 1}, "a budget in 'linf'"),
        (ONE, {"l0": 1, "shift-l0": 1}, "a budget in 'l0' beside shifts"),
        (ONE[:, :4], {"l0": 1}, "shape"),
    ],
    ids=str,
)
def test_each_illegal_list_is_named(x: Tensor, budgets: dict[str, float], words: str) -> None:
    found = fault(x, ONE, budgets)
    assert found is not None
    assert re.search(words, found), found


def test_an_illegal_list_is_a_violation_and_an_absent_row_may_hold_anything() -> None:
    threat = ThreatModel("l0", 1, (0.0, 8.0), "events", sensor=SENSOR)
    verify(put(2, 0, -40.5)[None], ONE[None], threat, [4], "good")
    with pytest.raises(ViolationError, match="'evil', got a distance of 2 in 'l0', 1 allowed for sample 4"):
        verify(put(0, 0, 4)[None], ONE[None], threat, [4], "evil")
    with pytest.raises(ViolationError, match="finite"):
        verify(put(2, 0, float("nan"))[None], ONE[None], threat, [4], "evil")


def test_the_check_shares_no_code_with_the_projection() -> None:
    tree = ast.parse(inspect.getsource(verify_event_lists))
    imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert [each for each in imported if "snnrobust" in str(each)] == ["snnrobust.threat_models.sensor"]
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import) and node.names[0].name == "torch"]


@pytest.mark.parametrize("budgets", [*COUNTED, *SHIFTED], ids=str)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 12), tight=st.booleans())
def test_projections_and_starts_are_allowed_and_stay_where_they_are(
    budgets: dict[str, float], seed: int, rows: int, tight: bool
) -> None:
    generator, sensor = np.random.default_rng(seed), TIGHT if tight else SENSOR
    x0 = lists(generator, 8, rows, sensor)
    x = near(generator, x0)
    projected = project_events(x, x0, budgets, sensor)
    index = torch.arange(8)
    started = random_events(x0, Draws(seed, "start"), index, 0, budgets, sensor)
    by_row = project_events(x, x0, budgets, sensor, by_row=True)
    for found in (projected, started, by_row):
        for a, b in zip(found, x0, strict=True):
            assert fault(a, b, budgets, sensor) is None
    assert torch.equal(project_events(projected, x0, budgets, sensor), projected)
    assert torch.equal(project_events(x[2:5], x0[2:5], budgets, sensor), projected[2:5])
    assert torch.equal(project_events(x0, x0, budgets, sensor), x0)


@pytest.mark.parametrize("budgets", COUNTED[:6], ids=str)
def test_the_changes_kept_save_most(budgets: dict[str, float]) -> None:
    """Against all sets of changed rows, an event that moves being one addition and one deletion."""
    generator = np.random.default_rng(3)
    x0 = lists(generator, 200, 5)
    x = near(generator, x0)
    found = project_events(x, x0, budgets, SENSOR, by_row=True)
    sizes = torch.tensor([7.0, 2, 1, 1, 1])
    nearest = torch.minimum(x.round().clamp_min(0), sizes)
    exact = budgets.keys() != {"additions", "deletions"} or 0 in budgets.values()
    worse = 0
    for one, was, there, result in zip(x.double(), x0.double(), nearest.double(), found.double(), strict=True):
        options = [saving(*rows) for rows in zip(one, was, there, strict=True)]
        best = max(
            sum(option[0] for option, kept in zip(options, chosen, strict=True) if kept)
            for chosen in product([False, True], repeat=5)
            if holds([option[1] for option, kept in zip(options, chosen, strict=True) if kept], budgets)
        )
        mine = sum(saving(a, b, c)[0] for a, b, c in zip(one, was, result, strict=True))
        assert mine <= best + 1e-6
        worse += mine < best - 1e-6
    assert worse == 0 if exact else worse < 40


def saving(x: Tensor, x0: Tensor, target: Tensor) -> tuple[float, tuple[int, int]]:
    """What it saves to have `target` in place of x0, all [5], and the events added and removed."""
    if x0[4] == 1 and target[4] == 1:
        moved = int(bool((target != x0).any()))
        return float(((x - x0) ** 2 - (x - target) ** 2)[:4].sum()) + presence(x, x0, target), (moved, moved)
    return presence(x, x0, target), (int(target[4] > x0[4]), int(target[4] < x0[4]))


def presence(x: Tensor, x0: Tensor, target: Tensor) -> float:
    return float((x[4] - x0[4]) ** 2 - (x[4] - target[4]) ** 2)


def holds(changes: list[tuple[int, int]], budgets: dict[str, float]) -> bool:
    added, removed = (sum(each[side] for each in changes) for side in (0, 1))
    spent = {
        "additions": added,
        "deletions": removed,
        "l0": added + removed,
        "l1": added + removed,
        "events": abs(added - removed),
    }
    return all(spent[norm] <= most for norm, most in budgets.items())


@pytest.mark.parametrize(("norm", "most"), [("shift-linf", 2), ("shift-l1", 4), ("shift-l0", 2)])
def test_retimed_rows_are_nearest_by_brute_force(norm: str, most: int) -> None:
    generator = np.random.default_rng(4)
    x0 = lists(generator, 60, 4)
    x = near(generator, x0)
    found = project_events(x, x0, {norm: most}, SENSOR, by_row=True)
    cost: dict[str, Callable[[list[int]], float]] = {
        "shift-linf": lambda shifts: max(map(abs, shifts), default=0),
        "shift-l1": lambda shifts: sum(map(abs, shifts)),
        "shift-l0": lambda shifts: sum(each != 0 for each in shifts),
    }
    for one, was, result in zip(x.double(), x0.double(), found.double(), strict=True):
        here = was[:, 4] == 1
        wanted, start = one[here, 0].tolist(), was[here, 0].tolist()
        best = min(
            sum((a - b) ** 2 for a, b in zip(wanted, times, strict=True))
            for times in product(range(8), repeat=len(start))
            if cost[norm]([int(a - b) for a, b in zip(times, start, strict=True)]) <= most
        )
        assert float(((result[here, 0] - one[here, 0]) ** 2).sum()) == pytest.approx(best, abs=1e-5)
        assert torch.equal(result[:, 1:], was[:, 1:])


@pytest.mark.parametrize(
    ("norm", "epsilon", "limits"),
    [("l0", 4, ()), ("additions", 3, ()), ("deletions", 3, ()), ("additions", 3, (("deletions", 2.0),))],
)
def test_a_start_spends_the_budget_and_depends_on_its_sample_alone(
    norm: Norm, epsilon: float, limits: tuple[tuple[Norm, float], ...]
) -> None:
    sensor = Sensor(height=30, width=30, duration=100)
    x0 = lists(np.random.default_rng(5), 20, 40, sensor)
    x0[:, :6, 4], x0[:, 6:, :] = 0, x0[:, 6:, :].clamp(0, 1)
    x0[:, 6:, 4] = 1
    threat = ThreatModel(norm, epsilon, (0.0, 100.0), "events", limits, sensor)
    rng, index = Draws(0, "start"), torch.arange(20)
    x = threat.start(x0, rng, index)
    assert threat.distance(x, x0).tolist() == [epsilon] * 20
    for other, most in limits:
        assert event_distance(x, x0, other).tolist() == [most] * 20
    assert torch.equal(threat.start(x0[7:9], rng, index[7:9]), x[7:9])
    assert not torch.equal(threat.start(x0, rng, index, 1), x)
    zero = ThreatModel(norm, 0, (0.0, 100.0), "events", (), sensor)
    assert torch.equal(zero.start(x0, rng, index), x0)


@pytest.mark.parametrize("budgets", SHIFTED[:5], ids=str)
def test_random_retimings_move_events(budgets: dict[str, float]) -> None:
    x0 = lists(np.random.default_rng(6), 60, 8)
    x = random_events(x0, Draws(0, "start"), torch.arange(60), 0, budgets, SENSOR)
    total = event_distance(x, x0, "shift-l1")
    assert int((total > 0).sum()) > 30
    if "shift-linf" in budgets:
        assert int(event_distance(x, x0, "shift-linf").max()) == budgets["shift-linf"]


def test_times_of_a_long_recording_are_whole() -> None:
    """2^24 - 2 and 2^24 - 3 differ by one in float32."""
    sensor = Sensor(height=1, width=1, duration=2**24 - 1)
    x0 = torch.tensor([[[2.0**24 - 3, 0, 0, 0, 1]]])
    x = torch.tensor([[[2.0**24, 0, 0, 0, 1]]])
    assert project_events(x, x0, {"shift-linf": 9}, sensor)[0, 0, 0].item() == 2**24 - 2
    assert event_distance(project_events(x, x0, {"l0": 2}, sensor), x0, "l0").item() == 2


@pytest.mark.parametrize("norm", ["linf", "l2", "l0-step"])
def test_norms_that_lists_do_not_have_are_refused(norm: str) -> None:
    x = torch.zeros(1, 2, 5)
    for ask in (
        lambda: event_distance(x, x, norm),
        lambda: project_events(x, x, {norm: 1}, SENSOR),
        lambda: random_events(x, Draws(0, "s"), torch.arange(1), 0, {norm: 1}, SENSOR),
    ):
        with pytest.raises(InputError, match=f"for event lists, got '{norm}'"):
            ask()


def test_other_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"got \[1, 2, 4\] around \[1, 2, 4\].*sr.events.dataset"):
        project_events(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4), {"l0": 1}, SENSOR)
