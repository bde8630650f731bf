"""Intervals against their formulas, their coverage, and the cases without spread."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from snnrobust.statistics import bootstrap_mean, clopper_pearson


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
    """A bootstrap of equal values has no width, which would claim certainty from a dozen samples."""
    assert bootstrap_mean(np.full(count, value), seed=0) == clopper_pearson(int(value) * count, count)
    assert np.ptp(bootstrap_mean(np.full(count, value), seed=0)) > 0.2


def test_equal_values_in_between_have_no_spread() -> None:
    assert bootstrap_mean(np.full(9, 0.25), seed=0) == (0.25, 0.25)
    assert bootstrap_mean(np.array([0.5]), seed=0) == (0.5, 0.5)
