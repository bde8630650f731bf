"""Projections onto retimings: always allowed, exact where that is claimed, and nearly so elsewhere."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
import torch
from scipy import optimize, sparse
from torch import Tensor

from snnrobust.errors import InputError
from snnrobust.threat_models.shifts import SHIFTS, project_shifts, random_shifts, shift_distance
from snnrobust.threat_models.verify_shifts import shift_fault

COMBINATIONS = [c for size in (1, 2, 3) for c in itertools.combinations(SHIFTS, size)]
DOMAINS = ["binary", "integer"]

Cost = tuple[int, int, int]  # largest shift, total shift, number moved


@cache
def retimings(line: tuple[int, ...]) -> dict[tuple[int, ...], frozenset[Cost]]:
    """All retimings of a line, each with what its matchings cost."""
    start = [t for t, size in enumerate(line) if size]
    found: dict[tuple[int, ...], set[Cost]] = {}
    for to in itertools.permutations(range(len(line)), len(start)):  # the i-th packet goes to to[i]
        new = [0] * len(line)
        for t, place in zip(start, to, strict=True):
            new[place] = line[t]
        shifts = [abs(a - b) for a, b in zip(start, to, strict=True)]
        cost = (max(shifts, default=0), sum(shifts), sum(s > 0 for s in shifts))
        found.setdefault(tuple(new), set()).add(cost)
    return {new: frozenset(costs) for new, costs in found.items()}


def as_line(values: np.ndarray) -> tuple[int, ...]:
    return tuple(int(v) for v in values)


def is_allowed(x: np.ndarray, x0: np.ndarray, budgets: dict[str, float]) -> bool:
    """Whether a matching of the packets of `x` [T, E] to those of `x0` meets all budgets, by trying all."""
    found = {(0, 0, 0)}
    for entry in range(x.shape[1]):
        costs = retimings(as_line(x0[:, entry])).get(as_line(x[:, entry]), frozenset())
        found = {(max(a, d), b + e, c + f) for a, b, c in found for d, e, f in costs}
    return any(all(cost[SHIFTS.index(name)] <= most for name, most in budgets.items()) for cost in found)


def best_worth(scores: np.ndarray, x0: np.ndarray, budgets: dict[str, float]) -> float:
    """The largest sum(a * scores) over all allowed retimings a, line by line for each amount spent."""
    most = [budgets.get(name, np.inf) for name in SHIFTS]
    spent: dict[tuple[int, int], float] = {(0, 0): 0.0}
    for entry in range(x0.shape[1]):
        options: dict[tuple[int, int], float] = {}
        for new, costs in retimings(as_line(x0[:, entry])).items():
            worth = float(np.dot(new, scores[:, entry]))
            for largest, total, moved in costs:
                if largest <= most[0]:
                    key = (total if "shift-l1" in budgets else 0, moved if "shift-l0" in budgets else 0)
                    options[key] = max(options.get(key, -np.inf), worth)
        following: dict[tuple[int, int], float] = {}
        for (a, b), worth in spent.items():
            for (c, d), more in options.items():
                if a + c <= most[1] and b + d <= most[2]:
                    following[a + c, b + d] = max(following.get((a + c, b + d), -np.inf), worth + more)
        spent = following
    return max(spent.values())


def grids(domain: str, count: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """Random originals [count, *shape] of various densities; integer ones with packets of one or two spikes."""
    generator = torch.Generator().manual_seed(seed)
    density = torch.rand(count, *[1] * len(shape), generator=generator, dtype=torch.float64)
    held = torch.rand(count, *shape, generator=generator, dtype=torch.float64) < 0.8 * density
    return held * (torch.randint(1, 3, held.shape, generator=generator).double() if domain == "integer" else 1.0)


def some_scores(x0: Tensor, seed: int) -> Tensor:
    return torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_budgets(combination: tuple[str, ...], seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    return {name: float(rng.integers(1, {"shift-linf": 4, "shift-l1": 9, "shift-l0": 6}[name])) for name in combination}


@pytest.mark.parametrize("batches", [2, pytest.param(25, marks=pytest.mark.slow)])
@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_a_projection_is_allowed(combination: tuple[str, ...], domain: str, batches: int) -> None:
    moved = 0
    for k in range(batches):
        x0 = grids(domain, 50, (5, 3), seed=k)
        budgets = some_budgets(combination, seed=k)
        found = project_shifts(some_scores(x0, seed=k), x0, budgets)
        for x, before in zip(found.numpy(), x0.numpy(), strict=True):
            assert shift_fault(x, before, budgets) is None
            assert is_allowed(x, before, budgets)
        moved += int((found != x0).any(dim=(1, 2)).sum())
    assert moved > 25 * batches


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_a_projection_with_a_larger_budget_is_caught(combination: tuple[str, ...]) -> None:
    """Negative control: the verifier sees budgets that are exceeded by one."""
    x0 = grids("binary", 50, (8, 4), seed=1)
    budgets = some_budgets(combination, seed=1)
    found = project_shifts(some_scores(x0, seed=1), x0, {name: most + 1 for name, most in budgets.items()})
    caught = [shift_fault(x, before, budgets) for x, before in zip(found.numpy(), x0.numpy(), strict=True)]
    assert sum(fault is not None for fault in caught) > 10


@pytest.mark.parametrize(("budgets", "exact"), [
    ({"shift-linf": 1}, True), ({"shift-linf": 2}, True), ({"shift-linf": 9}, True), ({"shift-l0": 1}, True),
    ({"shift-l0": 3}, True), ({"shift-l1": 2}, False),
])  # fmt: skip
def test_largest_shift_and_number_moved_are_exact_on_binary_lines(budgets: dict[str, float], exact: bool) -> None:
    x0 = grids("binary", 80, (5, 3), seed=2)
    scores = some_scores(x0, seed=2)
    found = project_shifts(scores, x0, budgets)
    short = [
        best_worth(score, before, budgets) - float((x * score).sum())
        for x, score, before in zip(found.numpy(), scores.numpy(), x0.numpy(), strict=True)
    ]
    assert min(short) > -1e-9  # nothing is better than the best of all
    assert (max(short) < 1e-9) == exact


def test_the_largest_shift_is_exact_on_long_lines() -> None:
    """Against an assignment problem, which needs no order."""
    x0 = grids("binary", 10, (80, 1), seed=3)
    scores = some_scores(x0, seed=3)
    for reach in (1, 3, 10):
        found = project_shifts(scores, x0, {"shift-linf": reach})
        for x, score, before in zip(found.numpy(), scores.numpy(), x0.numpy(), strict=True):
            start = np.flatnonzero(before[:, 0])
            worth = np.where(np.abs(start[:, None] - np.arange(80)) <= reach, score[:, 0], -1e6)
            rows, columns = optimize.linear_sum_assignment(worth, maximize=True)
            assert float((x * score).sum()) == pytest.approx(worth[rows, columns].sum(), abs=1e-9)


def gaps(domain: str, combination: tuple[str, ...], count: int) -> np.ndarray:
    """How far the projection stays below the best, in shares of the range from the worst to the best."""
    found = []
    for k in range(count):
        x0 = grids(domain, 1, (5, 4), seed=100 + k)
        scores = some_scores(x0, seed=k)
        budgets = some_budgets(combination, seed=k)
        x = project_shifts(scores, x0, budgets)
        best = best_worth(scores[0].numpy(), x0[0].numpy(), budgets)
        worst = -best_worth(-scores[0].numpy(), x0[0].numpy(), budgets)
        short = best - float((x * scores).sum())
        assert short > -1e-9
        found.append(short / (best - worst) if best - worst > 1e-9 else 0.0)
    return np.array(found)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_the_gap_to_all_retimings_is_small(combination: tuple[str, ...], domain: str) -> None:
    gap = gaps(domain, combination, 12)
    assert np.median(gap) <= 0.01
    assert gap.mean() <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_the_gap_to_all_retimings_is_small_in_many_cases(combination: tuple[str, ...], domain: str) -> None:
    gap = gaps(domain, combination, 500)
    assert np.median(gap) <= 0.01
    assert gap.mean() <= 0.02


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_the_gap_to_a_linear_programme_is_small_on_larger_grids(combination: tuple[str, ...], domain: str) -> None:
    """The assignment of packets to times with fractions allowed bounds what any retiming is worth."""
    x0 = grids(domain, 1, (30, 12), seed=5)
    scores = some_scores(x0, seed=4)
    limits = {"shift-linf": 3.0, "shift-l1": 60.0, "shift-l0": 25.0}
    budgets = {name: limits[name] for name in combination}
    found = project_shifts(scores, x0, budgets)
    bound = linear_bound(scores[0].numpy(), x0[0].numpy(), budgets)
    stay = float((x0 * scores).sum())
    assert (float((found * scores).sum()) - stay) / (bound - stay) > (0.97 if domain == "binary" else 0.92)


def linear_bound(scores: np.ndarray, x0: np.ndarray, budgets: dict[str, float]) -> float:
    time, line = np.nonzero(x0)
    packet, to = (a.ravel() for a in np.meshgrid(np.arange(len(time)), np.arange(len(x0)), indexing="ij"))
    shift = np.abs(time[packet] - to)
    near = shift <= budgets.get("shift-linf", np.inf)
    packet, to, shift = packet[near], to[near], shift[near]
    one = np.ones(len(packet))
    each = sparse.csr_array((one, (packet, np.arange(len(packet)))))
    cell = sparse.csr_array((one, (line[packet] * len(x0) + to, np.arange(len(packet)))))
    spent = {"shift-l1": shift, "shift-l0": shift > 0}
    coupled = [name for name in budgets if name in spent]
    above = sparse.vstack([cell, *(sparse.csr_array(spent[name][None].astype(float)) for name in coupled)])
    most = np.concatenate([np.ones(cell.shape[0]), [budgets[name] for name in coupled]])
    worth = x0[time[packet], line[packet]] * scores[to, line[packet]]
    result = optimize.linprog(-worth, A_ub=above, b_ub=most, A_eq=each, b_eq=np.ones(len(time)), bounds=(0, 1))
    assert result.success
    return -float(result.fun)


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_an_allowed_binary_retiming_is_its_own_projection(combination: tuple[str, ...]) -> None:
    for k in range(4):
        x0 = grids("binary", 40, (7, 3), seed=k)
        budgets = some_budgets(combination, seed=k)
        x = project_shifts(some_scores(x0, seed=k), x0, budgets)
        assert not torch.equal(x, x0)
        assert torch.equal(project_shifts(x, x0, budgets), x)
        assert torch.equal(project_shifts(x0, x0, budgets), x0)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_a_sample_does_not_depend_on_the_others(combination: tuple[str, ...], domain: str) -> None:
    x0 = torch.cat([grids(domain, 6, (7, 5), seed=6), torch.zeros(1, 7, 5, dtype=torch.float64)])
    scores = some_scores(x0, seed=6) * torch.logspace(-3, 3, len(x0), dtype=torch.float64)[:, None, None]
    budgets = some_budgets(combination, seed=6)
    found = project_shifts(scores, x0, budgets)
    for i in range(len(x0)):
        assert torch.equal(project_shifts(scores[i : i + 1], x0[i : i + 1], budgets)[0], found[i])
    assert torch.equal(project_shifts(scores.flip(0), x0.flip(0), budgets).flip(0), found)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_ties_and_budgets_of_zero_move_nothing(combination: tuple[str, ...], domain: str) -> None:
    x0 = grids(domain, 20, (6, 2, 2), seed=7)
    for value in (0.3, 0.0):
        assert torch.equal(project_shifts(torch.full_like(x0, value), x0, some_budgets(combination, seed=7)), x0)
    assert torch.equal(project_shifts(some_scores(x0, seed=7), x0, dict.fromkeys(combination, 0)), x0)


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_large_budgets_are_no_limit(combination: tuple[str, ...]) -> None:
    x0 = grids("binary", 20, (6, 3), seed=8)
    scores = some_scores(x0, seed=8)
    best = torch.zeros_like(x0)
    for n, e in itertools.product(range(20), range(3)):
        best[n, scores[n, :, e].argsort(descending=True)[: int(x0[n, :, e].sum())], e] = 1
    assert torch.equal(project_shifts(scores, x0, dict.fromkeys(combination, 10_000)), best)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_shape_and_dtype_are_those_of_the_original(dtype: torch.dtype) -> None:
    x0 = grids("integer", 3, (5, 2, 3, 4), seed=9).to(dtype)
    found = project_shifts(torch.full(x0.shape, torch.nan), x0, {"shift-l1": 3})
    assert (found.shape, found.dtype) == (x0.shape, dtype)
    assert torch.equal(found, x0)
    for empty in (torch.zeros(0, 5, 2), torch.zeros(3, 0, 2), torch.zeros(3, 5, 2)):
        assert torch.equal(project_shifts(empty, empty, {"shift-linf": 2, "shift-l0": 1}), empty)
    one_step = torch.ones(2, 1, 3)
    for norm in SHIFTS:
        assert torch.equal(project_shifts(torch.randn(2, 1, 3), one_step, {norm: 4}), one_step)


def test_scores_of_any_size_give_allowed_retimings() -> None:
    x0 = grids("integer", 10, (6, 3), seed=10)
    scores = some_scores(x0, seed=10)
    scores[0, 0, 0], scores[1, 2, 1], scores[2], scores[3] = torch.inf, -torch.inf, scores[2] * 1e30, scores[3] * 1e-30
    for combination in COMBINATIONS:
        budgets = some_budgets(combination, seed=10)
        for x, before in zip(project_shifts(scores, x0, budgets).numpy(), x0.numpy(), strict=True):
            assert shift_fault(x, before, budgets) is None


@pytest.mark.parametrize("domain", DOMAINS)
def test_distances_are_the_least_of_all_matchings(domain: str) -> None:
    x0 = grids(domain, 100, (5, 2), seed=11)
    x = project_shifts(some_scores(x0, seed=11), x0, {"shift-linf": 4})
    found = torch.stack([shift_distance(x, x0, norm) for norm in SHIFTS], dim=1)
    for after, before, distances in zip(x.numpy(), x0.numpy(), found, strict=True):
        costs = [
            np.array(list(retimings(as_line(before[:, e]))[as_line(after[:, e])])).min(axis=0) for e in range(2)
        ]  # (3,) for each line: each least on its own
        assert distances.tolist() == [max(c[0] for c in costs), sum(c[1] for c in costs), sum(c[2] for c in costs)]


@pytest.mark.parametrize("norm", SHIFTS)
def test_other_packets_are_infinitely_far(norm: str) -> None:
    x0 = torch.tensor([2.0, 1.0, 0.0, 0.0])[:, None]
    others = [
        [3, 0, 0, 0],
        [1, 1, 1, 0],
        [2, 0, 0, 0],
        [2, 1, 1, 0],
        [1.5, 1.5, 0, 0],
        [float("nan"), 1, 0, 0],
        [-2, 1, 4, 0],
    ]
    x = torch.tensor(others, dtype=torch.float64)[:, :, None]
    assert shift_distance(x, x0.expand(len(x), 4, 1), norm).tolist() == [torch.inf] * len(x)
    assert shift_distance(x0.roll(1, 0)[None], x0[None], norm).isfinite().all()
    assert shift_distance(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]]), norm).tolist() == [torch.inf]


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_random_retimings_are_allowed_and_spend_the_budget(combination: tuple[str, ...], domain: str) -> None:
    x0 = grids(domain, 60, (10, 20), seed=12)
    x0 = x0[x0.count_nonzero(dim=(1, 2)) > 20]
    budgets = some_budgets(combination, seed=12)
    unit = torch.rand(x0.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = random_shifts(x0, unit, budgets)
    for x, before in zip(found.numpy(), x0.numpy(), strict=True):
        assert shift_fault(x, before, budgets) is None
    spent = torch.stack([shift_distance(found, x0, name) / most for name, most in budgets.items()]).amax(dim=0)
    assert float(spent.mean()) > 0.95
    other = random_shifts(x0, torch.rand(x0.shape, generator=torch.Generator().manual_seed(1)), budgets)
    assert not torch.equal(other, found)


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        ({}, "expected a budget for at least one of"),
        ({"shift-linf": 1.5}, "expected a whole number >= 0 for 'shift-linf', got 1.5"),
        ({"shift-l1": -1}, "expected a whole number >= 0 for 'shift-l1', got -1"),
        ({"shift-l1": float("nan")}, "expected a whole number >= 0"),
        ({"shift-l2": 1}, "expected budget to be one of .*got 'shift-l2'"),
    ],
)
def test_bad_budgets(budgets: dict[str, float], message: str) -> None:
    x0 = torch.ones(1, 3, 1)
    with pytest.raises(InputError, match=message):
        project_shifts(x0, x0, budgets)


def test_bad_shapes_and_norms() -> None:
    x0 = torch.ones(1, 3, 1)
    with pytest.raises(InputError, match="expected x of the shape of x0"):
        project_shifts(x0[:, :2], x0, {"shift-l0": 1})
    with pytest.raises(InputError, match="expected norm to be one of"):
        shift_distance(x0, x0, "l0")
