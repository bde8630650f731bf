"""Intervals and tests against their formulas, their coverage, and the cases without spread."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from snnrobust.common.statistics import bootstrap_area, bootstrap_mean, clopper_pearson, holm, mcnemar, success_rate
from snnrobust.errors import InputError


@given(st.integers(1, 400), st.data(), st.sampled_from([0.8, 0.95, 0.99]))
@settings(max_examples=60, deadline=None)
def test_clopper_pearson_is_the_beta_quantile_formula(count: int, data: st.DataObject, level: float) -> None:
    successes, tail = data.draw(st.integers(0, count)), (1 - level) / 2
    low, high = clopper_pearson(successes, count, level)
    below = 0.0 if successes == 0 else stats.beta.ppf(tail, successes, count - successes + 1)
    above = 1.0 if successes == count else stats.beta.ppf(1 - tail, successes + 1, count - successes)
    assert low == pytest.approx(below, abs=1e-9)
    assert high == pytest.approx(above, abs=1e-9)
    assert 0 <= low <= successes / count <= high <= 1


@pytest.mark.parametrize("count", [5, 30])
@pytest.mark.parametrize("truth", [0.02, 0.3, 0.5, 0.9])
def test_clopper_pearson_covers_at_least_its_level(count: int, truth: float) -> None:
    """Exactly, by summing the binomial over all outcomes: no simulation, no luck."""
    coverage = 0.0
    for successes in range(count + 1):
        low, high = clopper_pearson(successes, count)
        coverage += float(stats.binom.pmf(successes, count, truth)) * (low <= truth <= high)
    assert coverage >= 0.95 - 1e-12


def test_bootstrap_brackets_the_mean_and_depends_on_the_seed_alone() -> None:
    values = np.random.default_rng(0).random(80)
    low, high = bootstrap_mean(values, seed=3)
    assert low < values.mean() < high
    normal = 1.96 * values.std() / np.sqrt(80)
    assert (high - low) / 2 == pytest.approx(normal, rel=0.15)
    assert bootstrap_mean(values, seed=3) == (low, high)
    assert bootstrap_mean(values, seed=4) != (low, high)
    narrow = bootstrap_mean(values, seed=3, level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_bootstrap_covers_about_its_level() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(60):
        low, high = bootstrap_mean(rng.random(40), seed=trial)
        hits += low <= 0.5 <= high
    assert 50 <= hits <= 60


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("count", [1, 12])
def test_all_right_or_all_wrong_gets_the_exact_interval(value: float, count: int) -> None:
    """A bootstrap of equal values has no width, which would claim certainty for a dozen samples."""
    assert bootstrap_mean(np.full(count, value), seed=0) == clopper_pearson(int(value) * count, count)
    assert np.ptp(bootstrap_mean(np.full(count, value), seed=0)) > 0.2


def test_equal_values_in_between_have_no_spread() -> None:
    assert bootstrap_mean(np.full(9, 0.25), seed=0) == (0.25, 0.25)
    assert bootstrap_mean(np.array([0.5]), seed=0) == (0.5, 0.5)


@given(st.integers(0, 25), st.integers(0, 25), st.integers(0, 10), st.integers(0, 10))
@settings(max_examples=80, deadline=None)
def test_mcnemar_is_the_binomial_sum(more: int, less: int, both: int, neither: int) -> None:
    if more + less + both + neither == 0:
        return
    first = np.repeat([True, False, True, False], [more, less, both, neither])
    second = np.repeat([False, True, True, False], [more, less, both, neither])
    found, n = mcnemar(first, second), more + less
    assert (found.first_only, found.second_only) == (more, less)
    tail = sum(comb(n, k) for k in range(more, n + 1)) / 2**n
    extreme = sum(comb(n, k) for k in range(max(more, less), n + 1)) / 2**n
    assert found.greater == pytest.approx(tail)
    assert found.two_sided == pytest.approx(min(1.0, 2 * extreme))


def test_mcnemar_looks_at_pairs() -> None:
    """The same two accuracies: paired one way they differ for sure, the other way by chance."""
    first = np.arange(100) < 60
    nested, crossed = np.arange(100) < 45, np.arange(100) >= 55
    assert mcnemar(first, nested).greater == pytest.approx(2.0**-15)
    assert mcnemar(first, crossed).greater > 0.05
    assert mcnemar(nested, first).greater == 1.0
    with pytest.raises(InputError, match="same samples"):
        mcnemar(first, nested[:99])


def test_holm_by_hand() -> None:
    """Sorted .005, .01, .03, .04 times 4, 3, 2, 1 are .02, .03, .06, .04; the last may not be below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []
    for bad in ([0.1, np.nan], [1.1], [-0.1]):
        with pytest.raises(InputError, match="p-values"):
            holm(bad)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.5), st.randoms())
@settings(max_examples=100, deadline=None)
def test_holm_rejects_what_the_step_down_procedure_rejects(p: list[float], level: float, random: object) -> None:
    adjusted = holm(p)
    rejected = np.zeros(len(p), dtype=bool)
    for step, i in enumerate(np.argsort(p, kind="stable")):  # as defined by Holm: stop at the first that fails
        if p[i] * (len(p) - step) > level:
            break
        rejected[i] = True
    assert ((adjusted <= level) == rejected).all()
    assert (adjusted >= np.array(p)).all()
    assert (adjusted <= np.minimum(1, len(p) * np.array(p)) + 1e-15).all()


def test_holm_against_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = np.random.default_rng(0).random(30) ** 3
    assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1])


def test_area_is_the_trapezoid_and_its_interval_that_of_resampled_curves() -> None:
    rng = np.random.default_rng(0)
    strengths = np.array([0.0, 0.1, 0.15, 0.4])
    kept = strengths[:, None] < rng.exponential(0.2, 60)  # [strength, sample]
    found = bootstrap_area(kept, strengths, seed=5)
    curve = kept.mean(axis=1)
    by_hand = sum((curve[k] + curve[k + 1]) / 2 * (strengths[k + 1] - strengths[k]) for k in range(3)) / 0.4
    assert found.value == pytest.approx(by_hand)
    assert found.count == 60
    assert found.low < found.value < found.high
    curves = [kept[:, rng.integers(60, size=60)].mean(axis=1) for _ in range(3000)]
    slow = np.quantile([np.trapezoid(c, strengths) / 0.4 for c in curves], [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx(tuple(slow), abs=0.012)
    assert bootstrap_area(kept, strengths, seed=5) == found


def test_area_at_its_ends_and_bad_input() -> None:
    assert bootstrap_area(np.ones((3, 9)), [0, 1, 4], seed=0).value == 1.0
    assert bootstrap_area(np.ones((3, 9)), [0, 1, 4], seed=0).low < 0.8  # nine samples prove little
    assert bootstrap_area(np.zeros((2, 9)), [0.1, 0.2], seed=0).value == 0.0
    for kept, strengths, message in (
        (np.ones((1, 9)), [0.1], "ascending"),
        (np.ones((2, 9)), [0.2, 0.1], "ascending"),
        (np.ones((3, 9)), [0.1, 0.2], "one row per strength"),
        (np.ones((2, 0)), [0.1, 0.2], "one row per strength"),
    ):
        with pytest.raises(InputError, match=message):
            bootstrap_area(kept, strengths, seed=0)


def test_success_rates_differ_by_their_denominator() -> None:
    clean = np.array([True] * 8 + [False] * 2)
    kept = np.array([True] * 6 + [False] * 2 + [True, False])  # the ninth was wrong, and is "mended" by the attack
    rates = success_rate(kept, clean)
    assert rates.over_all.value == pytest.approx(0.4)
    assert (rates.over_all.low, rates.over_all.high) == clopper_pearson(4, 10)
    assert rates.over_clean_correct.value == pytest.approx(0.25)
    assert (rates.over_clean_correct.low, rates.over_clean_correct.high) == clopper_pearson(2, 8)
    assert (rates.over_all.count, rates.over_clean_correct.count) == (10, 8)
    assert rates.over_all.name != rates.over_clean_correct.name
    hopeless = success_rate(np.zeros(3), np.zeros(3))
    assert hopeless.over_all.value == 1.0
    assert np.isnan(hopeless.over_clean_correct.value)
    with pytest.raises(InputError, match="same samples"):
        success_rate(kept, clean[:5])
