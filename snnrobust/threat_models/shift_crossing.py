"""The best places of a line's packets where packets that move may pass packets that stay."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations, groupby

import torch
from torch import Tensor

from snnrobust.threat_models.shift_lines import Lines

#: Most sets of waiting packets that are told apart; above it, only sets with few of them.
STATES = 64
#: Most entries of a table (states x ways into one x lines) held at a time.
ENTRIES = 2**21

State = tuple[int, frozenset[int]]  # (+1: packets wait for a later cell, -1: cells wait for a later packet; their ages)


@dataclass(frozen=True)
class Transitions:
    """The ways into each state: the state before and the kind of step, grouped by the number of ways.

    Attributes:
        before: For each group the states before [S_g, J_g], as nested lists.
        kind: For each group the kinds of step [S_g, J_g].
        start: Place of the state in which nothing waits; the states are numbered group by group.
        states: S, the number of states.
    """

    before: list[list[list[int]]]
    kind: list[list[list[int]]]
    start: int
    states: int


def place_with_crossing(lines: Lines, reach: int, far: Tensor, moved: Tensor) -> Tensor:
    """The places [L, M] of the packets worth most, less their prices, where movers keep their order among themselves.

    A packet that moves may pass packets that stay. On binary lines this is no restriction: two movers of equal size
    that cross can be exchanged at no cost. Dynamic programme over time; its state is the set of packets that wait for a
    later cell, or of cells that wait for a later packet, by age (1 to reach), and the oldest is served first. Exact
    with all 2^(reach + 1) - 1 states, up to a reach of 5; beyond, at most `STATES` states with fewest waiting.

    Args:
        lines: The lines.
        reach: Largest shift.
        far: Price of a shift by one step [L].
        moved: Price of a packet that moves [L].
    """
    table = _transitions(reach)
    ways = sum(len(group) * len(group[0]) for group in table.before)
    rows = max(ENTRIES // max(ways, (4 + 3 * reach) * lines.steps), 1)
    if len(lines.row) > rows:
        every = torch.arange(len(lines.row), device=lines.row.device)
        places = lines.times.clone()
        for part in torch.split(every, rows):
            some = lines.select(part)
            places[part, : some.times.shape[1]] = place_with_crossing(some, reach, far[part], moved[part])
        return places
    device = lines.scores.device
    before = [torch.tensor(group, device=device) for group in table.before]  # (S_g, J_g)
    kind = [torch.tensor(group, device=device) for group in table.kind]
    count, steps = len(lines.scores), lines.steps
    rewards = _rewards(lines, reach, far, moved)  # (T, K, L)
    value = torch.full((table.states, count), -torch.inf, dtype=torch.float64, device=device)
    value[table.start] = 0
    chosen: list[Tensor] = []
    for t in range(steps):
        groups = [(value[b] + rewards[t][k]).max(dim=1) for b, k in zip(before, kind, strict=True)]  # (S_g, J_g, L)
        value = torch.cat([group.values for group in groups])
        chosen.append(torch.cat([group.indices for group in groups]))  # (S, L)
    return _trace(lines, reach, table, chosen)


def _rewards(lines: Lines, reach: int, far: Tensor, moved: Tensor) -> Tensor:
    """What each kind of step is worth at each time, minus infinity where it is not possible [T, K, L].

    The kinds: none; the cell stays free, or waits; a packet stays; a packet leaves, to wait; then for each age 1 to
    reach: a free cell takes a packet that waits; one whose own packet leaves takes it; a packet goes to a waiting cell.
    """
    grid, scores = lines.grid(lines.times).T, lines.scores[:, :-1].T  # (T, L)
    here = grid != 0
    rewards = torch.full((lines.steps, 4 + 3 * reach, len(far)), -torch.inf, dtype=torch.float64, device=far.device)
    rewards[:, 1].masked_fill_(~here, 0)
    rewards[:, 2] = torch.where(here, grid * scores, -torch.inf)
    rewards[:, 3].masked_fill_(here, 0)
    for age in range(1, min(reach, lines.steps - 1) + 1):
        price = far * age + moved
        take = grid[:-age] * scores[age:] - price
        rewards[age:, 3 + age] = torch.where(here[age:], -torch.inf, take)
        rewards[age:, 3 + reach + age] = torch.where(here[age:], take, -torch.inf)
        give = grid[age:] * scores[:-age] - price
        rewards[age:, 3 + 2 * reach + age] = torch.where(here[age:], give, -torch.inf)
    return rewards


def _trace(lines: Lines, reach: int, table: Transitions, chosen: list[Tensor]) -> Tensor:
    """Where each packet goes, from the choices of the dynamic programme, the last time first."""
    device, steps = lines.scores.device, lines.steps
    every = torch.arange(len(lines.scores), device=device)
    width = max(len(group[0]) for group in table.before)
    before, kind = (
        torch.tensor([way + [0] * (width - len(way)) for group in part for way in group], device=device)
        for part in (table.before, table.kind)
    )  # (S, J)
    state = torch.full_like(every, table.start)
    kinds = []
    for t in reversed(range(steps)):
        way = chosen[t][state, every]
        kinds.append(kind[state, way])
        state = before[state, way]
    kinds.reverse()
    what = torch.stack(kinds, dim=1)  # (L, T)
    time = torch.arange(steps, device=device).expand_as(what)
    age = (what - 4).clamp_min(0) % reach + 1
    taken = (what >= 4) & (what < 4 + 2 * reach)  # the packet at t - age comes here
    given = what >= 4 + 2 * reach  # the packet here goes to t - age
    goes = torch.arange(steps + 1, device=device).repeat(len(every), 1)  # (L, T + 1): time to time
    source = torch.where(taken, time - age, torch.where(given, time, steps))
    goes.scatter_(1, source, torch.where(given, time - age, time))
    goes[:, -1] = steps
    return goes.gather(1, lines.times)


@cache
def _transitions(reach: int) -> Transitions:
    ages = range(1, reach + 1)
    most = max(
        size
        for size in range(1, reach + 1)
        if size == 1 or 1 + 2 * sum(len(list(combinations(ages, k))) for k in range(1, size + 1)) <= STATES
    )
    sets = [frozenset(c) for k in range(1, most + 1) for c in combinations(ages, k)]
    states: list[State] = [(0, frozenset()), *((sign, ages) for sign in (1, -1) for ages in sets)]
    place = {state: i for i, state in enumerate(states)}
    ways: list[list[tuple[int, int]]] = [[] for _ in states]

    def add(state: State, sign: int, waiting: frozenset[int], kind: int) -> None:
        older = frozenset(age + 1 for age in waiting)
        target = (sign if older else 0, older)
        if target in place:  # not with one older than the reach
            ways[place[target]].append((place[state], kind))

    free, stay, leave, take, swap, give = 1, 2, 3, 4, 4 + reach, 4 + 2 * reach
    new = frozenset({0})
    for state in states:
        sign, waiting = state
        add(state, sign, waiting, stay)
        add(state, sign, waiting, free)
        if sign >= 0:
            add(state, 1, waiting | new, leave)
        if sign <= 0:
            add(state, -1, waiting | new, free)
        if waiting:
            oldest = max(waiting)
            rest = waiting - {oldest}
            if sign > 0:
                add(state, 1, rest, take + oldest - 1)
                add(state, 1, rest | new, swap + oldest - 1)
            else:
                add(state, -1, rest, give + oldest - 1)
                add(state, -1, rest | new, give + oldest - 1)
    order = sorted(range(len(states)), key=lambda i: len(ways[i]))
    number = {state: i for i, state in enumerate(order)}
    groups = [list(group) for _, group in groupby(order, key=lambda i: len(ways[i]))]
    before = [[[number[state] for state, _ in ways[i]] for i in group] for group in groups]
    kinds = [[[kind for _, kind in ways[i]] for i in group] for group in groups]
    return Transitions(before, kinds, number[0], len(states))
