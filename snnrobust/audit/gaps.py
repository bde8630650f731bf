"""Differences in robust accuracy between two attacks, compared sample by sample, and their significance.

All attacks of one evaluation run on the same samples and start at the same keyed random points, so outcomes are paired.
A gap makes a finding fail if it is above the threshold and significant: one-sided exact McNemar test (t-test for
noise), Holm correction (Holm 1979) over all attacks compared. A gap above the threshold that is not significant counts
as missing evidence: evaluate more samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from snnrobust.common.statistics import holm
from snnrobust.results.records import NAN

#: A gap is significant if its p-value is below this.
SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Gap:
    """Robust accuracy under a first attack minus that under a second one, at one radius.

    Attributes:
        value: The difference.
        p_value: One-sided p-value of the hypothesis that the first attack leaves no more samples robust than the
            second: exact McNemar test (McNemar 1947), or t-test where the second is noise.
        other: Name of the second attack.
    """

    value: float
    p_value: float
    other: str = ""

    @classmethod
    def between(cls, first: np.ndarray, second: np.ndarray, other: str = "") -> Gap:
        """The gap between two attacks, given which samples are robust to each, [sample]."""
        more, less = int((first & ~second).sum()), int((second & ~first).sum())
        p_value = float(stats.binomtest(more, more + less, alternative="greater").pvalue) if more + less else 1.0
        return cls((more - less) / len(first), p_value, other)


@dataclass(frozen=True)
class GapResult:
    """The result of comparing gaps with a threshold.

    Attributes:
        passed: False if a gap is above the threshold and significant; None if there is no gap, or if the largest is
            above the threshold but not significant; else True.
        value: The gap that decides the result.
        other: Name of the attack with that gap.
        note: Sentences to append to the finding's text.
    """

    passed: bool | None
    value: float
    other: str
    note: str


def compare_gaps(gaps: Iterable[Gap], threshold: float, missing: str) -> GapResult:
    """Compares gaps with a threshold; the note is `missing` where there are no gaps."""
    gaps = list(gaps)
    if not gaps:
        return GapResult(None, NAN, "", f" Not measured: {missing}.")
    corrected = holm([gap.p_value for gap in gaps])
    adjusted = [replace(gap, p_value=float(p)) for gap, p in zip(gaps, corrected, strict=True)]
    ranked = sorted(adjusted, key=lambda gap: gap.value, reverse=True)
    significant = [gap for gap in ranked if gap.value > threshold and gap.p_value < SIGNIFICANCE]
    worst = (significant or ranked)[0]
    note = f" Measured against: {worst.other}." if worst.other else ""
    if significant:
        return GapResult(False, worst.value, worst.other, note)
    if worst.value > threshold:
        note += " The gap is above the threshold, but not significant (p >= .05 after Holm correction)."
        return GapResult(None, worst.value, worst.other, note)
    return GapResult(True, worst.value, worst.other, note)
