"""Comparing models: the interval against references and exact coverage, the test by hand, refusals."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multinomial

from snnrobust.analysis.comparison import paired_interval
from snnrobust.errors import InputError
from snnrobust.report import Report

TABLES = st.tuples(*[st.integers(0, 40)] * 4).filter(lambda counts: sum(counts) > 0)
COUNT = 14


def outcomes(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Two paired outcomes with these numbers of samples that are right in both, in one alone, in neither."""
    pairs = [(1, 1)] * both + [(1, 0)] * first + [(0, 1)] * second + [(0, 0)] * neither
    one, other = np.array(pairs, dtype=bool).T
    return one, other


def wald(counts: tuple[int, ...]) -> tuple[float, float]:
    """The textbook interval, for comparison."""
    _, b, c, _ = counts
    n = sum(counts)
    width = 1.96 * math.sqrt(b + c - (b - c) ** 2 / n) / n
    return (b - c) / n - width, (b - c) / n + width


def test_the_interval_against_published_ones() -> None:
    # StatsDirect's manual, paired proportions (data of Armitage and Berry), Newcombe's interval.
    assert np.allclose(paired_interval(*outcomes(20, 12, 2, 16)), (0.056156, 0.329207), atol=5e-7)
    # Agresti, Categorical Data Analysis, 10.1: approval ratings of 1600 people; Wald, which agrees in large samples.
    assert np.allclose(paired_interval(*outcomes(794, 150, 86, 570)), (0.021, 0.059), atol=5e-4)


@given(TABLES)
def test_the_interval_holds_the_difference_and_turns_with_it(counts: tuple[int, int, int, int]) -> None:
    one, other = outcomes(*counts)
    low, high = paired_interval(one, other)
    assert -1 - 1e-9 <= low <= one.mean() - other.mean() <= high <= 1 + 1e-9
    assert low < high  # also where no sample differs
    assert np.allclose(paired_interval(other, one), (-high, -low))


def test_the_interval_covers_what_it_says_and_walds_does_not() -> None:
    """Coverage over all tables of 14 samples, weighted by their exact probability."""
    tables = [each for each in product(range(COUNT + 1), repeat=4) if sum(each) == COUNT]
    newcombe = {each: paired_interval(*outcomes(*each)) for each in tables}
    truths = [(0.5, 0.1, 0.1, 0.3), (0.5, 0.25, 0.05, 0.2), (0.85, 0.08, 0.02, 0.05), (0.3, 0.4, 0.1, 0.2)]
    assert min(coverage(newcombe, truth) for truth in truths) > 0.94
    assert min(coverage({each: wald(each) for each in tables}, truth) for truth in truths) < 0.85


def coverage(intervals: dict[tuple[int, ...], tuple[float, float]], truth: tuple[float, ...]) -> float:
    difference = truth[1] - truth[2]
    chances = multinomial.pmf(list(intervals), COUNT, truth)
    held = [low - 1e-12 <= difference <= high + 1e-12 for low, high in intervals.values()]
    return float(chances[held].sum())


@pytest.fixture
def models(made: Any) -> Report:
    """Three of one family and one of another; b is less robust than a, and c is as robust as a."""
    settings = [made.model(name) for name in "abc"] + [made.model("other", parameters=7, steps=3)]
    robust = {"a": [1] * 8 + [0] * 2, "b": [1] * 3 + [0] * 7, "c": [1] * 8 + [0] * 2, "other": [1] * 10}
    cells = {(name, "pgd"): [made.cell(each)] for name, each in robust.items()}
    built: Report = made.report([made.attack("pgd")], cells, [1] * 10, settings)
    return built


def test_two_models_of_one_family(models: Report) -> None:
    found = models.compare("a", "b", "pgd", 0.1)
    assert (found.values, found.first_only, found.second_only, found.count) == ((0.8, 0.3), 5, 0, 10)
    assert found.difference == pytest.approx(0.5)
    assert found.low < 0.5 < found.high
    assert found.p_value == found.adjusted == 2 / 2**5
    back = models.compare("b", "a", "pgd", 0.1)
    assert (back.p_value, back.difference, back.first_only) == (found.p_value, -found.difference, 0)
    assert models.compare("a", "c", "pgd", 0.1).p_value == 1


def test_samples_carry_what_broke_at_smaller_radii(made: Any) -> None:
    settings = [made.model("a"), made.model("b")]
    cells = {("a", "pgd"): [made.cell([0, 1]), made.cell([-1, 1])], ("b", "pgd"): [made.cell([1, 1])] * 2}
    found = made.report([made.attack("pgd", [0.1, 0.2])], cells, [1, 1], settings)
    assert found.compare("a", "b", "pgd", 0.2).second_only == 1


def test_models_of_different_settings_are_refused(models: Report) -> None:
    with pytest.raises(InputError, match=r"equal recorded settings.*differ in .*parameters.*several seeds of each"):
        models.compare("a", "other", "pgd", 0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "a", "pgd", 0.1), "two models"),
        (("a", "z", "pgd", 0.1), "a model in"),
        (("a", "b", "pgd", 0.3), "a strength of 'pgd' in"),
        (("a", "b", "clean", 0.1), "label of an attack"),
        (("a", "b", "none", 0.1), "task label"),
    ],
)
def test_what_can_not_be_compared(models: Report, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        models.compare(*arguments)


def test_all_pairs_of_a_family_with_adjusted_p_values(models: Report) -> None:
    found = models.compare_all("pgd", 0.1)
    assert [(each.first, each.second) for each in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [each.p_value for each in found] == [0.0625, 1, 0.0625]
    assert [each.adjusted for each in found] == [3 * 0.0625, 1, 3 * 0.0625]


def test_without_two_of_a_family_there_is_no_pair(made: Any) -> None:
    assert made.report([made.attack("pgd")], {"pgd": [made.cell([1, 0])]}, [1, 1]).compare_all("pgd", 0.1) == []


def test_success_rates_and_area_are_records(made: Any) -> None:
    cells = {"pgd": [made.cell([1, 1, 0, -1]), made.cell([1, 0, -1, -1])]}
    found = made.report([made.attack("pgd", [0.1, 0.2])], cells, [1, 1, 1, 0])
    values = {(record.metric, record.strength): record for record in found.records}
    assert values["attack_success_over_all", 0.2].value == 0.75
    assert values["attack_success_over_clean_correct", 0.2].value == pytest.approx(2 / 3)
    assert values["attack_success_over_clean_correct", 0.2].count == 3
    area = values["robust_accuracy_area", 0.2]  # from clean accuracy at 0: 0.75, 0.5, 0.25
    assert area.value == pytest.approx((0.75 / 2 + 0.5 + 0.25 / 2) / 2)
    assert area.low < area.value < area.high
    assert area.count == 4


def test_the_area_needs_a_range(made: Any) -> None:
    found = made.report([made.attack("pgd", [0.0])], {"pgd": [made.cell([1, 1])]}, [1, 1])
    assert not [record for record in found.records if record.metric == "robust_accuracy_area"]
