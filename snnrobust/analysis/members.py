"""For each member of an ensemble: samples attempted, samples it was the first to break, and compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from snnrobust.analysis.outcomes import Outcomes


@dataclass(frozen=True)
class Member:
    """One attack of an ensemble at one strength.

    Attributes:
        label: The member's label.
        strength: The radius.
        attempted: Number of samples that it attacked. In a cascade, broken samples are skipped, so these are the
            samples that the members before it did not break.
        broken: Number of samples that it was the first to break, at this radius and in this order.
        forwards: Forward passes, counted per sample.
        backwards: Backward passes, counted per sample.
        budget: Steps times restarts, the most that a sample gets; None if the plugin has no `steps`.
    """

    label: str
    strength: float
    attempted: int
    broken: int
    forwards: int
    backwards: int
    budget: int | None


def member_results(outcomes: Outcomes, label: str, model: str) -> list[Member]:
    """The members of an ensemble at each strength, in order; an attack that is no ensemble counts as one member."""
    task = outcomes.attack(label)
    parts, first = task["members"] or [task], first_broken_by(outcomes, label, model)
    found = []
    for k, strength in enumerate(task["strengths"]):
        cell = outcomes.cell(model, label, k)
        newly = (first[k] >= 0) & (first[k - 1] < 0) if k else first[k] >= 0
        for m, part in enumerate(parts):
            found.append(
                Member(
                    label=part["label"],
                    strength=strength,
                    attempted=int((cell["member_correct"][m] >= 0).sum()),
                    broken=int((newly & (first[k] == m)).sum()),
                    forwards=int(cell["member_forwards"][m].sum()),
                    backwards=int(cell["member_backwards"][m].sum()),
                    budget=_steps_times_restarts(part),
                )
            )
    return found


def attribution(outcomes: Outcomes, label: str, model: str) -> dict[str, int]:
    """Member label -> number of samples it was the first to break, over all strengths; empty without members."""
    task = outcomes.attack(label)
    if not task["members"]:
        return {}
    last = first_broken_by(outcomes, label, model)[-1]
    return {part["label"]: int((last == m).sum()) for m, part in enumerate(task["members"])}


def first_broken_by(outcomes: Outcomes, label: str, model: str) -> np.ndarray:
    """Position of the member that broke each sample first, [strength, sample].

    From the smallest radius at which the sample is broken, the position stays the same. It is -1 for a sample that is
    robust or wrong when clean. For a stochastic model, the member whose example was kept is taken, not the first with a
    success: examples are chosen before they are scored on fresh draws.
    """
    strengths, clean = outcomes.attack(label)["strengths"], outcomes.clean(model)["correct"]
    stochastic = outcomes.run["models"][model]["stochastic"]
    rows: list[np.ndarray] = []
    for k in range(len(strengths)):
        cell = outcomes.cell(model, label, k)
        member = cell["member"] if stochastic else (cell["member_correct"] == 0).argmax(axis=0)
        here = np.where(clean & (cell["correct"] == 0), member, -1)
        rows.append(here if not rows else np.where(rows[-1] >= 0, rows[-1], here))
    return np.stack(rows)


def _steps_times_restarts(task: dict[str, Any]) -> int | None:
    steps = task["parameters"].get("steps")
    return steps * int(task["attack"]["restarts"]) if isinstance(steps, int) else None
