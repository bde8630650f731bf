"""What a run in mode="bisect" counts as right without an attack, in numbers and in words."""

from __future__ import annotations

from collections.abc import Iterable

from snnrobust.analysis.outcomes import Outcomes


def counted(outcomes: Outcomes, labels: Iterable[str], models: Iterable[str]) -> tuple[int, int]:
    """How many outcomes of these attacks on these models were assumed right, and of how many; (0, 0) where nothing was
    bisected."""
    models = list(models)
    marks = [outcomes.assumed(each, model) for each in labels for model in models if outcomes.bisected(each, model)]
    return sum(int(each.sum()) for each in marks), sum(each.size for each in marks)


def remark(outcomes: Outcomes, labels: Iterable[str], models: Iterable[str]) -> str:
    """The same in a sentence that follows another; empty where nothing was bisected."""
    labels, models = list(labels), list(models)
    count, every = counted(outcomes, labels, models)
    if not every:
        return ""
    names = ", ".join(label for label in labels if any(outcomes.bisected(label, model) for model in models))
    return (
        f" By bisection ({names}): {count:,} of {every:,} outcomes of a sample at an epsilon were not attacked but "
        "assumed right, since the sample withstood a larger epsilon."
    )
