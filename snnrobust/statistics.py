"""Intervals: Clopper-Pearson for shares of samples, bootstrap over samples for means."""

from __future__ import annotations

import numpy as np
from scipy import stats

#: Resamples of a bootstrap.
RESAMPLES = 2000


def clopper_pearson(successes: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a binomial proportion (Clopper & Pearson 1934); never narrower than its level.

    Example:
        >>> low, high = clopper_pearson(0, 10)
        >>> low, round(high, 6)
        (0.0, 0.308497)
    """
    interval = stats.binomtest(successes, count).proportion_ci(confidence_level=level, method="exact")
    return float(interval.low), float(interval.high)


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
