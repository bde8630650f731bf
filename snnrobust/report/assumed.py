"""What a run in mode="bisect" counts as right without an attack, since the sample withstood a larger radius."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from snnrobust.report.members import attack

if TYPE_CHECKING:
    from snnrobust.report import Report


def bisected(report: Report, label: str, model: str) -> bool:
    """Whether an attack's radii were bisected on a model."""
    return bool(attack(report, label)["strengths"]) and "assumed" in report.cell(model, label, 0)


def assumed(report: Report, label: str, model: str) -> np.ndarray:
    """Which samples count as right at a radius without having been attacked there, [strength, sample]."""
    cells = [report.cell(model, label, k) for k in range(len(attack(report, label)["strengths"]))]
    nothing = np.zeros(len(report.clean(model)["correct"]), dtype=bool)
    return np.stack([cell.get("assumed", nothing) for cell in cells])


def with_next(values: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """Values [strength, sample] where those at `gaps` are taken from the next larger strength that is none.

    Example:
        >>> with_next(np.array([[1.0], [2.0], [3.0]]), np.array([[True], [True], [False]])).ravel().tolist()
        [3.0, 3.0, 3.0]
    """
    filled = values.copy()
    for k in reversed(range(len(values) - 1)):
        filled[k] = np.where(gaps[k], filled[k + 1], filled[k])
    return filled


def counted(report: Report, labels: Iterable[str], models: Iterable[str]) -> tuple[int, int]:
    """How many outcomes of these attacks on these models were assumed right, and of how many; (0, 0) where nothing was
    bisected."""
    models = list(models)
    marks = [assumed(report, each, model) for each in labels for model in models if bisected(report, each, model)]
    return sum(int(each.sum()) for each in marks), sum(each.size for each in marks)


def remark(report: Report, labels: Iterable[str], models: Iterable[str]) -> str:
    """The same in a sentence that follows another; empty where nothing was bisected."""
    labels, models = list(labels), list(models)
    count, every = counted(report, labels, models)
    if not every:
        return ""
    names = ", ".join(label for label in labels if any(bisected(report, label, model) for model in models))
    return (
        f" By bisection ({names}): {count:,} of {every:,} outcomes of a sample at an epsilon were not attacked but "
        "assumed right, since the sample withstood a larger epsilon."
    )
