"""The independent check of retimings, against all matchings of the packets."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
from collections.abc import Iterator

import numpy as np
import pytest

from snnrobust.errors import InputError
from snnrobust.threat_models import verify_shifts
from snnrobust.threat_models.verify_shifts import shift_fault

NORMS = ("shift-linf", "shift-l1", "shift-l0")
COMBINATIONS = [c for size in (1, 2, 3) for c in itertools.combinations(NORMS, size)]
MOST = {"binary": 1, "integer": 2}

Costs = set[tuple[int, int, int]]


def line_costs(x: np.ndarray, x0: np.ndarray) -> Costs:
    """Largest shift, total shift and number moved under each matching of the packets of a line; none if they differ."""
    found: Costs = {(0, 0, 0)}
    for size in set(x0[x0 != 0]) | set(x[x != 0]):
        start, to = np.flatnonzero(x0 == size), np.flatnonzero(x == size)
        if len(start) != len(to):
            return set()
        shifts = [np.abs(start - order) for order in map(np.array, itertools.permutations(to))]
        found = together(found, {(int(s.max()), int(s.sum()), int((s > 0).sum())) for s in shifts})
    return found


def together(one: Costs, other: Costs) -> Costs:
    return {(max(a, d), b + e, c + f) for a, b, c in one for d, e, f in other}


def grid_costs(x: np.ndarray, x0: np.ndarray) -> Costs:
    found: Costs = {(0, 0, 0)}
    for entry in range(x.shape[1]):
        found = together(found, line_costs(x[:, entry], x0[:, entry]))
    return found


def allowed(costs: Costs, budgets: dict[str, float]) -> bool:
    return any(all(cost[NORMS.index(name)] <= most for name, most in budgets.items()) for cost in costs)


def pairs(domain: str, shape: tuple[int, int], count: int, most: int, seed: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Inputs made of originals with at most `most` packets a line by some moves, and at times another change."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        packets = rng.integers(0, most + 1, shape[1])
        x0 = np.zeros(shape)
        for entry, number in enumerate(packets):
            x0[rng.choice(shape[0], number, replace=False), entry] = rng.integers(1, MOST[domain] + 1, number)
        x = x0.copy()
        for _ in range(rng.integers(0, 5)):
            entry = int(rng.integers(shape[1]))
            first = rng.integers(shape[0])
            second = np.clip(first + rng.integers(-3, 4), 0, shape[0] - 1)
            x[[first, second], entry] = x[[second, first], entry]
        if rng.random() < 0.05:
            x[rng.integers(shape[0]), rng.integers(shape[1])] = rng.integers(0, MOST[domain] + 1)
        yield x, x0


@pytest.mark.parametrize("domain", ["binary", "integer"])
@pytest.mark.parametrize(("shape", "most", "count"), [((8, 1), 5, 2000), ((6, 3), 4, 400)])
def test_the_verdict_is_that_of_all_matchings(domain: str, shape: tuple[int, int], most: int, count: int) -> None:
    rng = np.random.default_rng(1)
    verdicts = {combination: [0, 0] for combination in COMBINATIONS}
    apart = 0  # cases where each budget holds alone, but no matching meets them together
    for x, x0 in pairs(domain, shape, count, most, seed=0):
        costs = grid_costs(x, x0)
        for combination in COMBINATIONS:
            budgets = {name: float(rng.integers(0, {"shift-linf": 4, "shift-l1": 8, "shift-l0": 5}[name]))
                       for name in combination}  # fmt: skip
            holds = allowed(costs, budgets)
            fault = shift_fault(x, x0, budgets)
            assert (fault is None) == holds, (x.T, x0.T, budgets, fault)
            verdicts[combination][holds] += 1
            apart += not holds and all(allowed(costs, {name: most}) for name, most in budgets.items())
    assert all(min(both) > count // 20 for both in verdicts.values())
    assert apart > 0


def test_two_budgets_need_one_matching() -> None:
    x0, x = np.array([[1.0], [1.0], [0.0]]), np.array([[0.0], [1.0], [1.0]])  # {0, 1} -> {1, 2}
    assert shift_fault(x, x0, {"shift-linf": 1}) is None
    assert shift_fault(x, x0, {"shift-l0": 1}) is None
    assert shift_fault(x, x0, {"shift-l1": 2, "shift-l0": 1}) is None
    fault = shift_fault(x, x0, {"shift-linf": 1, "shift-l0": 1})
    assert fault == "no single matching meets largest shift 1 and packets moved 1: without a larger shift 2 move"
    assert shift_fault(x, x0, {"shift-linf": 1, "shift-l0": 2}) is None
    assert shift_fault(x, x0, {"shift-linf": 2, "shift-l0": 1}) is None


def test_fewest_moves_within_a_shift_need_not_join_steps_of_a_chain() -> None:
    # {0, 1, 2, 3} -> {2, 3, 4, 5} by shifts of at most 3: 0 -> 3, 1 -> 4, 3 -> 5 while 2 stays.
    x0, x = np.zeros((6, 1)), np.zeros((6, 1))
    x0[:4], x[2:] = 1, 1
    assert shift_fault(x, x0, {"shift-linf": 3, "shift-l0": 3}) is None
    assert shift_fault(x, x0, {"shift-linf": 3, "shift-l0": 2}) is not None
    assert shift_fault(x, x0, {"shift-linf": 4, "shift-l0": 2}) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.5, 0.5, 2, 0], r"a fraction \(0.5\) at time 0 of entry \(0, 3\)"),
        ([-1, 2, 2, 0], r"a negative value \(-1\) at time 0"),
        ([np.nan, 1, 2, 0], "NaN or infinity"),
        ([np.inf, 1, 2, 0], "NaN or infinity"),
        ([1, 1, 2, 0], r"1 spike more than the original at entry \(0, 3\)"),
        ([0, 0, 1, 0], r"2 spikes fewer than the original at entry \(0, 3\)"),
        ([0, 3, 0, 0], r"packets of \[3\] spikes instead of \[1, 2\] at entry \(0, 3\)"),
        ([1, 1, 1, 0], r"packets of \[1, 1, 1\] spikes instead of \[1, 2\]"),
        ([0, 0, 2, 1], "largest shift 2, allowed 1"),
    ],
)
def test_each_fault_is_named(values: list[float], message: str) -> None:
    x0 = np.zeros((4, 1, 5))
    x0[1, 0, 3], x0[2, 0, 3], x0[0, 0, 0] = 1, 2, 1
    x = x0.copy()
    x[:, 0, 3] = values
    budgets = {"shift-linf": 1.0, "shift-l1": 100.0}
    assert shift_fault(x0, x0, budgets) is None
    fault = shift_fault(x, x0, budgets)
    assert fault is not None
    assert re.match(message, fault), fault


def test_a_packet_may_not_change_its_line() -> None:
    x0, x = np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 0.0]])
    assert shift_fault(x, x0, {"shift-linf": 9}) == "1 spike fewer than the original at entry 0"


def test_budgets_over_all_lines_are_added() -> None:
    x0, x = np.array([[1.0, 1.0], [0.0, 0.0]]), np.array([[0.0, 0.0], [1.0, 1.0]])
    assert shift_fault(x, x0, {"shift-l1": 1}) == "total shift 2, allowed 1"
    assert shift_fault(x, x0, {"shift-l0": 1}) == "packets moved 2, allowed 1"
    assert shift_fault(x, x0, {"shift-linf": 1, "shift-l1": 2, "shift-l0": 2}) is None


def test_other_shapes_and_budgets() -> None:
    assert shift_fault(np.zeros((2, 3)), np.zeros((3, 2)), {"shift-l0": 1}) == "shape (2, 3) instead of (3, 2)"
    with pytest.raises(InputError, match=r"expected budgets in .*got .*'l0'"):
        shift_fault(np.zeros((2, 3)), np.zeros((2, 3)), {"l0": 1})
    assert shift_fault(np.zeros((0, 3)), np.zeros((0, 3)), {"shift-l0": 0}) is None
    assert shift_fault(np.ones(4), np.ones(4), {"shift-l0": 0}) is None


def test_it_shares_no_code_with_the_projection() -> None:
    imports = [n for n in ast.walk(ast.parse(inspect.getsource(verify_shifts))) if isinstance(n, ast.ImportFrom)]
    assert not [n.module for n in imports if n.module and n.module.startswith("snnrobust.threat_models")]
