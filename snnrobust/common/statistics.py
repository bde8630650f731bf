"""Intervals for shares, means and areas, paired tests between attacks, and p-values adjusted for their number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from snnrobust.errors import InputError

#: Resamples of a bootstrap.
RESAMPLES = 2000


def clopper_pearson(successes: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a binomial proportion (Clopper & Pearson 1934); never narrower than its level.

    Example:
        >>> low, high = clopper_pearson(0, 10)
        >>> low, round(high, 6)
        (0.0, 0.308497)
    """
    tail = (1 - level) / 2
    # Beta quantiles; scipy's binomtest, which also finds a p-value, takes a hundred times as long.
    low = stats.beta.ppf(tail, successes, count - successes + 1) if successes else 0.0
    high = stats.beta.isf(tail, successes + 1, count - successes) if successes < count else 1.0
    return float(low), float(high)


def bootstrap_mean(values: np.ndarray, seed: int, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the mean of `values` [N] when samples are drawn again with replacement.

    The unit that is resampled is the sample: repeated noise draws of one sample belong together in one value. Where
    all values are equal, at 0 or 1, a bootstrap has no spread and the exact binomial interval is given.
    """
    if np.ptp(values) == 0:
        share = float(values[0])
        if share in (0.0, 1.0):
            return clopper_pearson(int(share * len(values)), len(values), level)
        return share, share
    interval = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=100,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        name: What the number is.
        value: The number; NaN without samples.
        low: Lower end of the interval.
        high: Upper end.
        count: Samples behind it.
    """

    name: str
    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class McNemar:
    """The exact McNemar test of two attacks (or models) on the same samples.

    Attributes:
        first_only: Samples that are right in the first alone.
        second_only: Samples that are right in the second alone.
        two_sided: p-value for "both are right equally often".
        greater: p-value for "the first is right no more often than the second": small if the first is better.
    """

    first_only: int
    second_only: int
    two_sided: float
    greater: float


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """Compares two paired outcomes [N] (true: right), by the samples on which they differ (McNemar 1947).

    If both are right equally often, the number right in the first alone is binomial with probability 1/2 among those
    that differ; the test is exact in it. Without any that differ both p-values are 1.

    Raises:
        InputError: If the two are not of the same samples.

    Example:
        >>> kept = np.arange(10) < 8
        >>> mcnemar(kept, kept & (np.arange(10) < 3))
        McNemar(first_only=5, second_only=0, two_sided=0.0625, greater=0.03125)
    """
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.ndim != 1 or a.shape != b.shape:
        raise InputError(f"expected outcomes of the same samples, [N] twice, got {a.shape} and {b.shape}; align them")
    more, less = int((a & ~b).sum()), int((b & ~a).sum())
    if more + less == 0:
        return McNemar(0, 0, 1.0, 1.0)
    two_sided, greater = (
        float(stats.binomtest(more, more + less, alternative=side).pvalue) for side in ("two-sided", "greater")
    )
    return McNemar(more, less, two_sided, greater)


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """P-values adjusted for their number, so that all of them can be compared with one level (Holm 1979).

    With p sorted upwards, the i-th (from 0) of m becomes max over j <= i of min(1, (m - j) p_j). The chance of any
    false rejection stays below the level under any dependence; never larger than Bonferroni's m p.

    Raises:
        InputError: For a p-value outside [0, 1], or NaN.

    Example:
        >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=float)
    if p.ndim != 1 or not bool(((p >= 0) & (p <= 1)).all()):
        raise InputError(f"expected p-values in [0, 1], got {p_values}; leave out tests that were not made")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return adjusted


def bootstrap_area(
    kept: np.ndarray, strengths: Sequence[float] | np.ndarray, seed: int, level: float = 0.95
) -> Estimate:
    """Area under a robust-accuracy curve by the trapezoid rule, over its range of strengths: between 0 and 1.

    The area is linear in the curve, so it is the mean over samples of each sample's own area, and its interval is that
    of a mean: samples are drawn again with all their strengths together (Efron 1979).

    Args:
        kept: Whether each sample is right at each strength, [strength, sample].
        strengths: Ascending, [strength].
        seed: Of the resampling.
        level: Of the interval.

    Raises:
        InputError: For fewer than two strengths, strengths that don't ascend, or shapes that don't match.

    Example:
        >>> bootstrap_area(np.array([[1, 1], [1, 0]]), [0.0, 0.1], seed=0).value
        0.75
    """
    at, held = np.asarray(strengths, dtype=float), np.asarray(kept, dtype=float)
    if at.ndim != 1 or len(at) < 2 or not bool((np.diff(at) > 0).all()):
        raise InputError(f"expected two or more ascending strengths, got {strengths}; an area needs a range")
    if held.ndim != 2 or len(held) != len(at) or held.shape[1] == 0:
        raise InputError(
            f"expected outcomes [{len(at)}, sample], got {held.shape}; pass one row per strength and at least one "
            f"sample"
        )
    areas = np.trapezoid(held, at, axis=0) / (at[-1] - at[0])  # [sample]
    low, high = bootstrap_mean(areas, seed, level)
    return Estimate("robust_accuracy_area", float(areas.mean()), low, high, len(areas))


@dataclass(frozen=True)
class SuccessRates:
    """How often an attack succeeds, by both common definitions.

    Attributes:
        over_all: Samples that are wrong after the attack over all samples, those that were wrong before it included:
            1 - robust accuracy.
        over_clean_correct: Samples that the attack broke over those that were right before it.
    """

    over_all: Estimate
    over_clean_correct: Estimate


def success_rate(kept: np.ndarray, clean: np.ndarray, level: float = 0.95) -> SuccessRates:
    """Both success rates of an attack with Clopper-Pearson intervals.

    A sample that is wrong without an attack counts as wrong with it: the original is one of the allowed inputs.

    Args:
        kept: Whether each sample is right under the attack, [N].
        clean: Whether each sample is right without it, [N].
        level: Of the intervals.

    Raises:
        InputError: If the two are not of the same samples, or there is none.

    Example:
        >>> rates = success_rate(np.array([True, False, False]), np.array([True, True, False]))
        >>> round(rates.over_all.value, 3), rates.over_clean_correct.value
        (0.667, 0.5)
    """
    after, before = np.asarray(kept, dtype=bool), np.asarray(clean, dtype=bool)
    if after.ndim != 1 or after.shape != before.shape or not len(after):
        raise InputError(
            f"expected outcomes of the same samples, [N], got {after.shape} and {before.shape}; align them"
        )
    broken = before & ~after
    return SuccessRates(
        _share("attack_success_over_all", int((~before | broken).sum()), len(after), level),
        _share("attack_success_over_clean_correct", int(broken.sum()), int(before.sum()), level),
    )


def _share(name: str, successes: int, count: int, level: float) -> Estimate:
    if count == 0:
        return Estimate(name, math.nan, math.nan, math.nan, 0)
    return Estimate(name, successes / count, *clopper_pearson(successes, count, level), count)
