"""Gaps between attacks, sample by sample, and when one counts.

Attacks of one evaluation start from the same keyed random points and meet the same samples, so they are compared in
pairs: a gap counts if it is above its threshold and an exact McNemar test, corrected for the number of rivals (Holm
1979), finds that chance alone does not explain it. A gap that may be chance is missing evidence, for which more samples
are the remedy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from snnrobust.common.statistics import holm
from snnrobust.results.records import NAN

#: A gap with a larger p-value may be chance.
CHANCE = 0.05


@dataclass(frozen=True)
class Gap:
    """How much more one attack leaves standing than another at one radius.

    Attributes:
        value: Difference of robust accuracies.
        chance: One-sided p-value of the exact McNemar test (McNemar 1947) that the first leaves no more standing.
        rival: Who the second is.
    """

    value: float
    chance: float
    rival: str = ""

    @classmethod
    def between(cls, first: np.ndarray, second: np.ndarray, rival: str = "") -> Gap:
        """The gap between what two attacks leave standing, [sample] each."""
        more, less = int((first & ~second).sum()), int((second & ~first).sum())
        chance = float(stats.binomtest(more, more + less, alternative="greater").pvalue) if more + less else 1.0
        return cls((more - less) / len(first), chance, rival)


@dataclass(frozen=True)
class Conclusion:
    """What gaps amount to.

    Attributes:
        passed: Whether none counts; None: there are none, or one may be chance.
        value: The gap that decides it.
        rival: Who made it.
        words: What to add to a finding's text.
    """

    passed: bool | None
    value: float
    rival: str
    words: str


def conclude(gaps: Iterable[Gap], threshold: float, missing: str) -> Conclusion:
    """Whether gaps pass a threshold; `missing` says what is not known where there are none."""
    gaps = list(gaps)
    if not gaps:
        return Conclusion(None, NAN, "", f" ({missing})")
    corrected = holm([gap.chance for gap in gaps])
    adjusted = [replace(gap, chance=float(chance)) for gap, chance in zip(gaps, corrected, strict=True)]
    ranked = sorted(adjusted, key=lambda gap: gap.value, reverse=True)
    proven = [gap for gap in ranked if gap.value > threshold and gap.chance < CHANCE]
    worst = (proven or ranked)[0]
    rival = f" ({worst.rival})" if worst.rival else ""
    if proven:
        return Conclusion(False, worst.value, worst.rival, rival)
    if worst.value > threshold:
        return Conclusion(None, worst.value, worst.rival, f"{rival} (above the threshold, but chance may explain it)")
    return Conclusion(True, worst.value, worst.rival, rival)
