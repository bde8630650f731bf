"""The paired difference in robust accuracy of two models under the same attack, and its significance."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from snnrobust.analysis.outcomes import Outcomes
from snnrobust.common.statistics import holm, mcnemar
from snnrobust.errors import InputError


@dataclass(frozen=True)
class Comparison:
    """Robust accuracy of two models on the same samples.

    Attributes:
        first: Name of the first model.
        second: Name of the second model.
        label: The attack.
        strength: The radius.
        count: Number of samples.
        values: Robust accuracy of the first and of the second.
        difference: First minus second.
        low: Lower end of the difference's 95 % interval (Newcombe 1998), for the population of samples.
        high: Upper end.
        first_only: Number of samples on which only the first model is robust.
        second_only: Number of samples on which only the second model is robust.
        p_value: Two-sided p-value of the exact McNemar test of equal robust accuracy.
        adjusted: `p_value` after Holm correction for all comparisons made together; `p_value` for a single comparison.
        assumed: How many samples are assumed robust for the first and for the second model, because they are robust at
            a larger radius (mode="bisect").
    """

    first: str
    second: str
    label: str
    strength: float
    count: int
    values: tuple[float, float]
    difference: float
    low: float
    high: float
    first_only: int
    second_only: int
    p_value: float
    adjusted: float
    assumed: tuple[int, int] = (0, 0)


def compare(outcomes: Outcomes, first: str, second: str, label: str, strength: float) -> Comparison:
    """Compares two models with equal settings under an attack at one radius; see `Report.compare`."""
    if first == second:
        raise InputError(f"expected two models, got '{first}' twice; name another one")
    one, other = (_settings(outcomes, model) for model in (first, second))
    if differing := [name for name in one if one[name] != other[name]]:
        raise InputError(
            f"expected two models with equal recorded settings (only weights may differ), got '{first}' and '{second}' "
            f"that differ in {', '.join(differing)}; train several seeds of each and compare the means over seeds"
        )
    return _compare(outcomes, first, second, label, strength)


def compare_all(outcomes: Outcomes, label: str, strength: float) -> list[Comparison]:
    """Compares all pairs of models with equal settings, with Holm correction; see `Report.compare_all`."""
    pairs = [(a, b) for a, b in combinations(outcomes.models, 2) if _settings(outcomes, a) == _settings(outcomes, b)]
    made = [_compare(outcomes, a, b, label, strength) for a, b in pairs]
    adjusted = holm([each.p_value for each in made])
    return [replace(each, adjusted=float(p)) for each, p in zip(made, adjusted, strict=True)]


def paired_interval(first: np.ndarray, second: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Score interval for the difference of two paired shares (Newcombe 1998, Stat. Med. 17:2635, method 10).

    With p1, p2 the shares, (l1, u1), (l2, u2) their Wilson intervals and phi the correlation of the two outcomes,

        low  = p1 - p2 - sqrt((p1 - l1)^2 - 2 phi (p1 - l1)(u2 - p2) + (u2 - p2)^2)
        high = p1 - p2 + sqrt((u1 - p1)^2 - 2 phi (u1 - p1)(p2 - l2) + (p2 - l2)^2),

    phi corrected for continuity where it is positive. Unlike a Wald interval or a bootstrap, its width is positive even
    where no sample differs.

    Args:
        first: The first outcome of each sample, [N].
        second: The second outcome of each sample, [N].
        level: Confidence level.

    Example:
        >>> outcomes = [(1, 1)] * 20 + [(1, 0)] * 12 + [(0, 1)] * 2 + [(0, 0)] * 16
        >>> low, high = paired_interval(*np.array(outcomes, dtype=bool).T)
        >>> round(low, 6), round(high, 6)
        (0.056156, 0.329207)
    """
    count = len(first)
    p1, p2 = float(first.mean()), float(second.mean())
    (l1, u1), (l2, u2) = (
        stats.binomtest(int(each.sum()), count).proportion_ci(level, method="wilson") for each in (first, second)
    )
    spread = math.sqrt(p1 * (1 - p1) * p2 * (1 - p2))
    joint = float((first & second).mean()) - p1 * p2  # covariance: (ad - bc) / N^2
    phi = 0.0 if spread == 0 else (max(joint - 0.5 / count, 0.0) if joint > 0 else joint) / spread
    down = (p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2
    up = (u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2
    return p1 - p2 - math.sqrt(max(down, 0.0)), p1 - p2 + math.sqrt(max(up, 0.0))


def _compare(outcomes: Outcomes, first: str, second: str, label: str, strength: float) -> Comparison:
    strengths = outcomes.attack(label)["strengths"]
    if strength not in strengths:
        raise InputError(f"expected a strength of '{label}' in {strengths}, got {strength!r}; name one of these")
    k = strengths.index(strength)
    one, other = (outcomes.robust(label, model)[k] for model in (first, second))
    test, (low, high) = mcnemar(one, other), paired_interval(one, other)
    values = float(one.mean()), float(other.mean())
    first_assumed, second_assumed = (int(outcomes.assumed(label, model)[k].sum()) for model in (first, second))
    return Comparison(
        first=first,
        second=second,
        label=label,
        strength=strength,
        count=len(one),
        values=values,
        difference=values[0] - values[1],
        low=low,
        high=high,
        first_only=test.first_only,
        second_only=test.second_only,
        p_value=test.two_sided,
        adjusted=test.two_sided,
        assumed=(first_assumed, second_assumed),
    )


def _settings(outcomes: Outcomes, model: str) -> dict[str, Any]:
    """A model's recorded settings without its name and weights. A test on samples compares models only if these are
    equal: it can't separate the effect of other settings from that of the training seed.

    Raises:
        InputError: If there is no such model.
    """
    if model not in outcomes.models:
        raise InputError(f"expected a model in {outcomes.models}, got {model!r}; name one of these")
    return {name: each for name, each in outcomes.run["models"][model].items() if name not in ("name", "fingerprint")}
