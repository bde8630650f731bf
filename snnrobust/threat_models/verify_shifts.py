"""An independent check that an input is a retiming of its original within budgets on the shifts.

Nothing here is shared with the projection. Single budgets are judged by the closed forms; several by whether one
matching of the packets meets them all.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.optimize import linear_sum_assignment

from snnrobust.errors import InputError

_LARGEST, _TOTAL, _MOVED = "shift-linf", "shift-l1", "shift-l0"
_NAMES = {_LARGEST: "largest shift", _TOTAL: "total shift", _MOVED: "packets moved"}


def shift_fault(x: np.ndarray, x0: np.ndarray, budgets: Mapping[str, float]) -> str | None:
    """What is wrong with `x` [T, *] as a retiming of `x0` [T, *] within `budgets`, in words, or None.

    A packet is a nonzero cell with its whole count; packets of equal counts on a line (one entry over time) can't be
    told apart. Checked in this order: shape, finite values, whole numbers >= 0, the packets of each line, each budget
    alone (the minimum over all matchings), and several budgets together.

    Packets in order have the least largest and the least total shift. Where common packets stay and the others keep
    their order, the total shift is least as well, and fewest move. So only a largest shift beside a number of moves can
    be at odds. The fewest moves with no shift beyond the largest are an assignment problem for each line and count,
    solved exactly by `scipy.optimize.linear_sum_assignment`. Its total shift is least as well: two movers that cross
    can be exchanged without a larger shift or one more move, and movers in order have the least total.

    Args:
        x: Values of one sample [T, *].
        x0: Its original [T, *].
        budgets: The most that is allowed for one or several of "shift-linf" (largest shift), "shift-l1" (sum of all
            shifts) and "shift-l0" (packets moved).

    Raises:
        InputError: For an unknown budget.

    Example:
        >>> x0, x = np.array([[1.0], [1.0], [0.0]]), np.array([[0.0], [1.0], [1.0]])
        >>> shift_fault(x, x0, {"shift-linf": 1})
        >>> shift_fault(x, x0, {"shift-l0": 1})
        >>> shift_fault(x, x0, {"shift-linf": 1, "shift-l0": 1})
        'no single matching meets largest shift 1 and packets moved 1: without a larger shift 2 move'
    """
    unknown = sorted(set(budgets) - set(_NAMES))
    if unknown:
        raise InputError(f"expected budgets in {list(_NAMES)}, got {unknown}; name some of these")
    if x.shape != x0.shape:
        return f"shape {x.shape} instead of {x0.shape}"
    entries = x.shape[1:]
    flat = (len(x), int(np.prod(entries)))
    now, was = x.reshape(flat).astype(np.float64), x0.reshape(flat).astype(np.float64)  # (T, E)
    fault = _value_fault(now, entries) or _packet_fault(now, was, entries)
    if fault is not None:
        return fault

    changed = (now != was).any(axis=0)
    now, was = now[:, changed], was[:, changed]
    sizes = np.unique(was[was != 0])
    found = {_LARGEST: 0, _TOTAL: 0, _MOVED: 0}
    kept = 0  # largest shift where common packets stay and the others keep their order
    for size in sizes:
        late, early = now == size, was == size
        found[_LARGEST] = max(found[_LARGEST], _largest(late, early))
        found[_TOTAL] += int(np.abs(np.cumsum(late.astype(int) - early.astype(int), axis=0)).sum())
        found[_MOVED] += int((late & ~early).sum())
        kept = max(kept, _largest(late & ~early, early & ~late))
    for name, budget in budgets.items():
        if found[name] > budget:
            return f"{_NAMES[name]} {found[name]}, allowed {budget:g}"
    if _LARGEST not in budgets or _MOVED not in budgets or kept <= budgets[_LARGEST]:
        return None
    moves, total = _fewest_moves(now, was, sizes, budgets[_LARGEST])
    if moves > budgets[_MOVED]:
        meets = " and ".join(f"{_NAMES[name]} {budgets[name]:g}" for name in (_LARGEST, _MOVED))
        return f"no single matching meets {meets}: without a larger shift {moves} move"
    if total > budgets.get(_TOTAL, np.inf):
        return f"no single matching meets all budgets: one that meets the others has a total shift of {total}"
    return None


def _value_fault(now: np.ndarray, entries: tuple[int, ...]) -> str | None:
    for wrong, what in (
        (~np.isfinite(now), "NaN or infinity"),
        (now != np.rint(now), "a fraction"),
        (now < 0, "a negative value"),
    ):
        if wrong.any():
            time, entry = np.argwhere(wrong)[0]
            return f"{what} ({now[time, entry]:g}) at time {time} of entry {_entry(entry, entries)}"
    return None


def _packet_fault(now: np.ndarray, was: np.ndarray, entries: tuple[int, ...]) -> str | None:
    """What differs in the packets of the first line that does not hold the same ones."""
    wrong = (np.sort(now, axis=0) != np.sort(was, axis=0)).any(axis=0)
    if not wrong.any():
        return None
    entry = int(np.argmax(wrong))
    where = f"at entry {_entry(entry, entries)}"
    more = now[:, entry].sum() - was[:, entry].sum()
    if more:
        number = f"{abs(more):g} spike{'' if abs(more) == 1 else 's'}"
        return f"{number} {'more' if more > 0 else 'fewer'} than the original {where}"
    packets, original = (np.sort(line[line != 0]).astype(int).tolist() for line in (now[:, entry], was[:, entry]))
    return f"packets of {packets} spikes instead of {original} {where}"


def _largest(late: np.ndarray, early: np.ndarray) -> int:
    """The largest shift where the packets at `early` [T, E] go to those at `late` in order."""
    _, to = np.nonzero(late.T)
    _, start = np.nonzero(early.T)
    return int(np.abs(to - start).max(initial=0))


def _fewest_moves(now: np.ndarray, was: np.ndarray, sizes: np.ndarray, largest: float) -> tuple[int, int]:
    """The fewest packets that move where none moves by more than `largest`, and the least total shift of so many."""
    moves = total = 0
    for size in sizes:
        late, early = now == size, was == size
        for entry in np.flatnonzero((late != early).any(axis=0)):
            start, to = np.flatnonzero(early[:, entry]), np.flatnonzero(late[:, entry])
            shift = np.abs(start[:, None] - to[None, :])
            bound = int(shift.max()) * len(start) + 1  # more than any total: one move fewer always pays
            cost = np.where(shift > largest, bound * (len(start) + 1), (shift > 0) * bound + shift)
            rows, columns = linear_sum_assignment(cost)
            moves += int((shift[rows, columns] > 0).sum())
            total += int(shift[rows, columns].sum())
    return moves, total


def _entry(entry: int, entries: tuple[int, ...]) -> str:
    place = tuple(int(i) for i in np.unravel_index(int(entry), entries)) if entries else ()
    return str(place[0]) if len(place) == 1 else str(place)
