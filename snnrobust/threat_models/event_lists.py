"""Event lists: distances as multisets of events, projection, random starting points.

A list is a tensor [N, E, 5] of whole numbers with rows (t, x, y, p, present). Rows with present = 0 are room for
events to add; their other columns count for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.errors import InputError
from snnrobust.threat_models.balls import project_whole_l1
from snnrobust.threat_models.selection import largest_mask
from snnrobust.threat_models.sensor import COLUMNS, PRESENT, Sensor, T

#: What is counted of event lists, and how far their events move.
EVENT_COUNTS = ("l0", "l1", "additions", "deletions", "events")
EVENT_SHIFTS = ("shift-linf", "shift-l1", "shift-l0")


def project_events(
    x: Tensor, x0: Tensor, budgets: Mapping[str, float], sensor: Sensor, *, by_row: bool = False
) -> Tensor:
    """An allowed event list near `x` [N, E, 5] around the originals `x0` [N, E, 5], on the sensor.

    Values are rounded and clipped to the sensor. A list that is then allowed is left as it is; otherwise row i of x is
    matched with row i of x0, and changes are undone until all budgets hold. A change saves its squared distance over
    the columns, (x - x0)^2 - (x - nearest)^2, where the place of an absent event counts for nothing.

    Counts: with one budget, or where additions or deletions alone are allowed, the changes kept are those that save
    most in all; an event that moves is one addition and one deletion. Other budgets are applied one after the other
    (additions and deletions, both together, total number): always allowed, but others may save more. Shifts: rows keep
    their pixel, polarity and presence, whatever x says; the time is the nearest for "shift-linf", for "shift-l1" and
    for "shift-l0" alone, and always allowed for several. Row i with row i is one matching of the events, so that all
    parts hold in one.

    Args:
        x: Any list of numbers.
        x0: Originals.
        budgets: By norm, what is allowed: "l0" or "l1", "additions", "deletions", "events"; or "shift-linf",
            "shift-l1", "shift-l0".
        sensor: Which events exist.
        by_row: Whether to leave out the search for another matching in which all of x is allowed, which is faster.

    Raises:
        InputError: For a norm that event lists don't have, or lists that are not [N, E, 5].

    Example:
        >>> sensor = Sensor(height=2, width=2, duration=10)
        >>> x0 = torch.tensor([[[1.0, 0, 0, 1, 1], [0.0, 0, 0, 0, 0]]])
        >>> x = torch.tensor([[[1.0, 0, 0, 1, 0.4], [7.2, 1, 1, 0, 0.8]]])
        >>> project_events(x, x0, {"l0": 1}, sensor)
        tensor([[[1., 0., 0., 1., 1.],
                 [7., 1., 1., 0., 1.]]])
    """
    check_event_norms(budgets)
    check_event_lists(x, x0)
    most = {name: math.floor(min(value, 2.0**53) + 1e-6) for name, value in budgets.items()}
    greatest = torch.tensor(
        [sensor.duration - 1, sensor.width - 1, sensor.height - 1, sensor.polarities - 1, 1], device=x.device
    )
    nearest = torch.minimum(x.round().clamp_min(0), greatest.to(x))  # (N, E, 5)
    # An event that is absent has no place of its own.
    nearest = torch.where(
        nearest[..., PRESENT:] > 0, nearest, torch.cat([x0[..., :PRESENT], nearest[..., PRESENT:]], 2)
    )
    if any(norm in EVENT_SHIFTS for norm in most):
        found = _shifts_within(x, x0, most, sensor)
    else:
        found = _counts_within(x, x0, nearest, most)
    # Largest shift and number moved may each hold in a matching of its own.
    if by_row or {"shift-linf", "shift-l0"} <= most.keys():
        return found
    fits = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for norm, value in most.items():
        fits &= event_distance(nearest, x0, norm) <= value
    return torch.where(fits[:, None, None], nearest, found)


def _counts_within(x: Tensor, x0: Tensor, nearest: Tensor, most: Mapping[str, int]) -> Tensor:
    """`nearest` with the changes undone that save least, until additions, deletions and the like are within `most`."""
    was, now = x0[..., PRESENT] > 0.5, nearest[..., PRESENT] > 0.5  # (N, E)
    added, removed = now & ~was, was & ~now
    moved = was & now & (nearest != x0).any(dim=2)
    # Factored so that far points don't cancel; of an event that comes or goes, presence alone.
    saved = (nearest - x0).double() * (2 * x.double() - nearest - x0)  # (N, E, 5)
    saved = torch.where(moved, saved[..., :PRESENT].sum(dim=2), 0.0) + saved[..., PRESENT]
    kept = added | removed | moved
    sides = {"additions": added | moved, "deletions": removed | moved}
    for norm in sorted(sides.keys() & most.keys(), key=most.__getitem__):  # where nothing is allowed, nothing moves
        score = torch.where(kept & sides[norm], saved, -torch.inf)
        kept = kept & (largest_mask(score, most[norm]) | ~sides[norm])
    if "l0" in most or "l1" in most:
        kept = _worth_most(saved, kept & moved, kept & ~moved, min(most.get("l0", 2**53), most.get("l1", 2**53)))
    if "events" in most:
        surplus = (kept & added).sum(dim=1) - (kept & removed).sum(dim=1)  # (N,)
        prevails = torch.where((surplus > 0)[:, None], added, removed) & kept
        enough = prevails.sum(dim=1) - (surplus.abs() - most["events"]).clamp_min(0)
        kept = kept & (largest_mask(torch.where(prevails, saved, -torch.inf), enough) | ~prevails)
    return torch.where(kept[..., None], nearest, x0)


def _worth_most(saved: Tensor, double: Tensor, single: Tensor, budget: int) -> Tensor:
    """Which changes [N, E] save most in all, where those of `double` cost two and those of `single` cost one.

    With k of the first, the best k of them and the most of the others that fit are best.
    """
    gains = []
    for mine in (double, single):
        ordered = torch.where(mine, saved, -torch.inf).sort(dim=1, descending=True).values
        ordered = torch.where(ordered.isfinite(), ordered, 0.0).cumsum(dim=1)
        gains.append(torch.cat([torch.zeros_like(ordered[:, :1]), ordered], dim=1))  # (N, E + 1): of the best k
    k = torch.arange(saved.shape[1] + 1, device=saved.device).expand_as(gains[0])
    others = torch.minimum(budget - 2 * k, single.sum(dim=1, keepdim=True))
    allowed = (k <= double.sum(dim=1, keepdim=True)) & (others >= 0)
    value = gains[0] + gains[1].gather(1, others.clamp_min(0))
    best = torch.where(allowed, value, -torch.inf).argmax(dim=1)  # (N,)
    rest = others.gather(1, best[:, None])[:, 0]
    first = largest_mask(torch.where(double, saved, -torch.inf), best) & double
    return first | (largest_mask(torch.where(single, saved, -torch.inf), rest) & single)


def _shifts_within(x: Tensor, x0: Tensor, most: Mapping[str, int], sensor: Sensor) -> Tensor:
    """The events of x0 at the times of x, moved back until all shifts are within `most`."""
    present = x0[..., PRESENT] > 0.5  # (N, E)
    start = x0[..., T].double()
    change = torch.where(present, x[..., T].double() - start, 0.0)
    reach = min(most.get("shift-linf", sensor.duration), sensor.duration)
    low = torch.where(present, (-start).clamp_min(-reach), 0.0)
    high = torch.where(present, (sensor.duration - 1 - start).clamp_max(reach), 0.0)
    whole = torch.minimum(torch.maximum(change.round(), low), high)
    if "shift-l0" in most:
        saved = whole * (2 * change - whole)
        kept = largest_mask(saved, most["shift-l0"])
        change, whole = torch.where(kept, change, 0.0), torch.where(kept, whole, 0.0)
    if "shift-l1" in most:
        room = torch.where(whole > 0, whole, 0.0), torch.where(whole < 0, whole, 0.0)
        whole = project_whole_l1(change, room[1], room[0], most["shift-l1"])
    return torch.cat([(start + whole).to(x0)[..., None], x0[..., 1:]], dim=2)


def event_distance(x: Tensor, x0: Tensor, norm: str) -> Tensor:
    """The distance of event lists x [N, E, 5] from x0 [N, E', 5], [N], in float64.

    The present events are multisets A and B of (t, x, y, p). "additions": events of A that B lacks; "deletions": those
    of B that A lacks; "l0" and "l1": both together, so that a changed polarity or a moved event counts two; "events":
    the difference in number. Shifts: the events of each pixel and polarity in order of time; infinite where A is not B
    with events moved in time. "shift-linf": the largest difference of times; "shift-l1": their sum; "shift-l0": times
    of A that B lacks.

    Raises:
        InputError: For another norm.
    """
    check_event_norms([norm])
    samples, rows = (x[..., PRESENT] > 0.5).nonzero(as_tuple=True)
    before, rows0 = (x0[..., PRESENT] > 0.5).nonzero(as_tuple=True)
    found = torch.cat([x[samples, rows, :PRESENT].double(), x0[before, rows0, :PRESENT].double()])  # (M + M0, 4)
    of = torch.cat([samples, before])
    sign = torch.cat([torch.ones_like(samples), -torch.ones_like(before)])
    if norm == "events":
        return _sums(sign.double(), of, len(x)).abs()
    line = _codes([of, *found[:, 1:].unbind(dim=1)])  # a sample, pixel and polarity
    at = _codes([line, found[:, 0]])  # and a time
    surplus = _sums(sign, at, int(at.max()) + 1 if len(at) else 0)
    owner = torch.zeros_like(surplus).scatter_(0, at, of)
    added = _sums(surplus.clamp_min(0).double(), owner, len(x))
    removed = _sums((-surplus).clamp_min(0).double(), owner, len(x))
    if norm in EVENT_COUNTS:
        return {"additions": added, "deletions": removed}.get(norm, added + removed)
    balance = _sums(sign, line, int(line.max()) + 1 if len(line) else 0)
    holder = torch.zeros_like(balance).scatter_(0, line, of)
    unlike = _sums(balance.abs().double(), holder, len(x)) > 0  # no retiming
    if norm == "shift-l0":
        return torch.where(unlike, torch.inf, added)
    kept = ~unlike[of]
    order = at.argsort(stable=True)  # codes are in order: by line, then by time
    mine, theirs = order[kept[order] & (sign[order] > 0)], order[kept[order] & (sign[order] < 0)]
    shift = (found[mine, 0] - found[theirs, 0]).abs()
    if norm == "shift-l1":
        total = _sums(shift, of[mine], len(x))
    else:
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        total = total.scatter_reduce(0, of[mine], shift, "amax")
    return torch.where(unlike, torch.inf, total)


def _codes(columns: list[Tensor]) -> Tensor:
    """A number for each different row of the columns [M], in the order of the rows."""
    code = torch.zeros_like(columns[0], dtype=torch.int64)
    for column in columns:
        place = _ranks(column)
        code = _ranks(code * (len(place) + 1) + place)
    return code


def _ranks(values: Tensor) -> Tensor:
    """The place of each value [M] among the different values, from 0."""
    ordered, order = values.sort()
    step = torch.zeros_like(order)
    step[1:] = (ordered[1:] != ordered[:-1]).long()
    return torch.empty_like(order).scatter_(0, order, step.cumsum(dim=0))


def _sums(values: Tensor, of: Tensor, count: int) -> Tensor:
    """The sum of the values [M] of each of `count` groups, where value m is in group of[m]."""
    return torch.zeros(count, dtype=values.dtype, device=values.device).index_add_(0, of, values)


def random_events(
    x0: Tensor, rng: Draws, index: Tensor, draw: int | Tensor, budgets: Mapping[str, float], sensor: Sensor
) -> Tensor:
    """Random allowed event lists around `x0` [N, E, 5], keyed by the sample ids `index` [N].

    Counts: rows in a random order, absent ones as an event anywhere on the sensor, present ones as a deletion, as long
    as they fit. Shifts: events in a random order, each by a random number of steps up to the largest shift allowed
    (where there is none, up to a random largest one, uniform in its logarithm), as long as they fit.
    """
    check_event_norms(budgets)
    rng, count = rng.on(x0), x0.shape[1]
    order = rng.sub("order").uniform(index, (count,), draw)  # (N, E)
    present = x0[..., PRESENT] > 0.5
    if any(norm in EVENT_SHIFTS for norm in budgets):
        longest = min(budgets.get("shift-l1", math.inf), sensor.duration - 1.0)
        unit = rng.sub("reach").uniform(index, (1,), draw)
        reach = unit.double().mul(math.log(max(longest, 1.0))).exp().ceil()  # (N, 1)
        if "shift-linf" in budgets:
            reach = torch.full_like(reach, math.floor(budgets["shift-linf"] + 1e-6))
        shift = rng.sub("shift").uniform(index, (count,), draw, -1.0, 1.0).double()
        shift = torch.where(present, (shift * (2 * reach + 1) / 2).round(), 0.0)
        place = (x0[..., T].double() + shift).clamp(0, sensor.duration - 1)
        shift = place - x0[..., T].double()
        first = order.argsort(dim=1)
        fits = torch.ones_like(present)
        for norm, cost in (("shift-l1", shift.abs()), ("shift-l0", (shift != 0).double())):
            if norm in budgets:
                spent = cost.gather(1, first).cumsum(dim=1)  # in the random order
                fits &= torch.zeros_like(spent).scatter_(1, first, spent) <= math.floor(budgets[norm] + 1e-6)
        moved = torch.where(present & fits, place, x0[..., T].double()).to(x0)
        return project_events(torch.cat([moved[..., None], x0[..., 1:]], dim=2), x0, budgets, sensor)
    sizes = torch.tensor([sensor.duration, sensor.width, sensor.height, sensor.polarities], device=x0.device).to(x0)
    places = (rng.sub("place").uniform(index, (count, COLUMNS - 1), draw) * sizes).floor()
    places = torch.minimum(places, sizes - 1)
    # Beyond the change, by a random amount: the projection keeps the changes that go furthest.
    wanted = torch.where(present, -0.4 * order, 1 + 0.4 * order)
    lists = torch.cat([torch.where(present[..., None], x0[..., :PRESENT], places), wanted[..., None]], dim=2)
    return project_events(lists, x0, budgets, sensor)


def check_event_norms(norms: Iterable[str]) -> None:
    """Raises an `InputError` for a norm that event lists don't have."""
    for norm in norms:
        if norm not in (*EVENT_COUNTS, *EVENT_SHIFTS):
            raise InputError(
                f"expected norm in {[*EVENT_COUNTS, *EVENT_SHIFTS]} for event lists, got {norm!r}; use one of these"
            )


def check_event_lists(x: Tensor, x0: Tensor) -> None:
    """Raises an `InputError` unless both are event lists [N, E, 5] of the same shape."""
    if x.shape != x0.shape or x0.ndim != 3 or x0.shape[2] != COLUMNS:
        raise InputError(
            f"expected event lists [N, E, 5] with rows (t, x, y, p, present), got {list(x.shape)} around "
            f"{list(x0.shape)}; make them with sr.events.dataset"
        )
