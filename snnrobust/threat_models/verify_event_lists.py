"""The independent check of event lists, in numpy: multisets of events, and one matching for all shift budgets."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

import numpy as np
from scipy.optimize import linear_sum_assignment

from snnrobust.threat_models.sensor import Sensor

#: Slack of a budget that was computed in floats.
SLACK = 1e-6
Event = tuple[int, int, int, int]


def event_list_fault(x: np.ndarray, x0: np.ndarray, budgets: Mapping[str, float], sensor: Sensor) -> str | None:
    """What is wrong with an event list `x` [E, 5] around the original `x0` [E, 5]; None if it is allowed.

    Joint budgets of shifts hold if one matching of the events keeps to all of them. Removing the same events from both
    lists leaves the difference of their cumulative counts, hence the total shift of what is matched in order, as it
    is: total and number moved never conflict. So the least number of events that move no further than the largest
    shift, by an assignment on each pixel and polarity, decides.

    Example:
        >>> sensor = Sensor(height=1, width=1, duration=9)
        >>> was = np.array([[1.0, 0, 0, 0, 1], [2.0, 0, 0, 0, 1]])
        >>> event_list_fault(was + [1, 0, 0, 0, 0], was, {"shift-linf": 1}, sensor) is None
        True
        >>> event_list_fault(was + [1, 0, 0, 0, 0], was, {"shift-linf": 1, "shift-l0": 1}, sensor)
        'at least 2 events moved where none moves by more than 1, 1 allowed'
    """
    if x.ndim != 2 or x.shape[1:] != (5,):
        return f"an event list of shape {x.shape} instead of [E, 5]"
    here = x[:, 4]
    if not np.isin(here, (0.0, 1.0)).all():
        return f"a row with present = {here[~np.isin(here, (0.0, 1.0))][0]:g}"
    events = x[here == 1, :4]
    if (events != np.rint(events)).any():
        row = events[(events != np.rint(events)).any(axis=1)][0]
        return f"an event with a fraction, (t, x, y, p) = {_text(row)}"
    size = np.array([sensor.duration, sensor.width, sensor.height, sensor.polarities])
    outside = ((events < 0) | (events >= size)).any(axis=1)
    if outside.any():
        return f"an event off the sensor, (t, x, y, p) = {_text(events[outside][0])}"
    before = x0[x0[:, 4] == 1, :4]
    new, old = (Counter((int(t), int(a), int(b), int(p)) for t, a, b, p in each) for each in (events, before))
    if any(norm.startswith("shift") for norm in budgets):
        return _shift_fault(new, old, budgets)
    added, removed = (new - old).total(), (old - new).total()
    counts = {
        "additions": added,
        "deletions": removed,
        "l0": added + removed,
        "l1": added + removed,
        "events": abs(added - removed),
    }
    for norm, most in budgets.items():
        if norm not in counts:
            return f"a budget in '{norm}', which event lists don't have"
        if counts[norm] > most + SLACK:
            return f"a distance of {counts[norm]} in '{norm}', {most:g} allowed"
    return None


def _shift_fault(new: Counter[Event], old: Counter[Event], budgets: Mapping[str, float]) -> str | None:
    """What is wrong with the events `new` as a retiming of `old`."""
    known = ("shift-linf", "shift-l1", "shift-l0")
    if unknown := [norm for norm in budgets if norm not in known]:
        return f"a budget in '{unknown[0]}' beside shifts"
    farthest, total, number = (budgets.get(norm, np.inf) + SLACK for norm in known)
    lines, lines0 = _times(new), _times(old)
    moved, way = 0, 0
    for line in lines.keys() | lines0.keys():
        a, b = np.array(sorted(lines[line])), np.array(sorted(lines0[line]))
        if len(a) != len(b):
            return f"{len(a)} events instead of {len(b)} of pixel and polarity (x, y, p) = {_text(line)}"
        if (largest := int(np.abs(a - b).max())) > farthest:
            return f"an event of (x, y, p) = {_text(line)} moved by {largest}, {budgets['shift-linf']:g} allowed"
        way += int(np.abs(a - b).sum())
        if np.isfinite(number):
            moved += _least_moved(a, b, farthest)
    if way > total:
        return f"a total shift of {way}, {budgets['shift-l1']:g} allowed"
    if moved > number:
        within = f" where none moves by more than {budgets['shift-linf']:g}" if "shift-linf" in budgets else ""
        return f"at least {moved} events moved{within}, {budgets['shift-l0']:g} allowed"
    return None


def _least_moved(a: np.ndarray, b: np.ndarray, farthest: float) -> int:
    """The fewest unequal pairs in a matching of the times a [M] with b [M] whose pairs differ by `farthest` at most.

    One is known to exist: that in order.
    """
    apart = np.abs(a[:, None] - b[None])
    cost = np.where(apart == 0, 0.0, np.where(apart <= farthest, 1.0, 2.0 * len(a) + 1))
    rows, columns = linear_sum_assignment(cost)
    return int(cost[rows, columns].sum())


def _times(events: Counter[Event]) -> defaultdict[tuple[int, int, int], list[int]]:
    """The times of the events of each pixel and polarity."""
    found: defaultdict[tuple[int, int, int], list[int]] = defaultdict(list)
    for t, *place in events.elements():
        found[place[0], place[1], place[2]].append(t)
    return found


def _text(values: object) -> str:
    return f"({', '.join(f'{value:g}' for value in np.asarray(values, dtype=float))})"
