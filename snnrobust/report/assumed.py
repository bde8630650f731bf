"""The outcomes that a run in mode="bisect" assumed robust without an attack: how many, and a note about them."""

from __future__ import annotations

from collections.abc import Iterable

from snnrobust.analysis.outcomes import Outcomes


def assumed_counts(outcomes: Outcomes, labels: Iterable[str], models: Iterable[str]) -> tuple[int, int]:
    """The number of assumed outcomes of these attacks on these models, and of all their outcomes; (0, 0) without
    bisection."""
    models = list(models)
    marks = [outcomes.assumed(each, model) for each in labels for model in models if outcomes.bisected(each, model)]
    return sum(int(each.sum()) for each in marks), sum(each.size for each in marks)


def assumed_note(outcomes: Outcomes, labels: Iterable[str], models: Iterable[str]) -> str:
    """The counts as a sentence, with a leading space; empty without bisection."""
    labels, models = list(labels), list(models)
    count, every = assumed_counts(outcomes, labels, models)
    if not every:
        return ""
    names = ", ".join(label for label in labels if any(outcomes.bisected(label, model) for model in models))
    return (
        f" By bisection ({names}): {count:,} of {every:,} outcomes (a sample at one epsilon) were assumed robust "
        "without an attack, because the sample is robust at a larger epsilon."
    )
