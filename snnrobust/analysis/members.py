"""Which member of an ensemble was tried on how many samples, broke how many first, and what it spent on them."""

from __future__ import annotations

import ast
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
        attempted: Samples that it was tried on. Where samples are spared that are broken already, these are the ones
            that the members before it left alive.
        broken: Samples that it was the first to break, at this radius and in this order.
        forwards: Forward passes that it spent, counted per sample.
        backwards: Backward passes that it spent, counted per sample.
        budget: Steps times restarts that a sample gets at most; None where the plugin does not tell its steps.
    """

    label: str
    strength: float
    attempted: int
    broken: int
    forwards: int
    backwards: int
    budget: int | None


def members(outcomes: Outcomes, label: str, model: str) -> list[Member]:
    """The members of an ensemble at each strength, in their order; a plain attack is its own only member."""
    task = outcomes.attack(label)
    parts, first = task["members"] or [task], first_breakers(outcomes, label, model)
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
                    budget=_budget(part),
                )
            )
    return found


def attribution(outcomes: Outcomes, label: str, model: str) -> dict[str, int]:
    """Member label -> how many samples it was the first to break, over all strengths; empty for a plain attack."""
    task = outcomes.attack(label)
    if not task["members"]:
        return {}
    last = first_breakers(outcomes, label, model)[-1]
    return {part["label"]: int((last == m).sum()) for m, part in enumerate(task["members"])}


def first_breakers(outcomes: Outcomes, label: str, model: str) -> np.ndarray:
    """Position of the member that broke each sample first, [strength, sample].

    It stays the same from the smallest radius at which the sample broke on; -1 for a sample that stands, or that is
    wrong when clean. The examples of a stochastic model are chosen before they are scored, so there the one that was
    kept decides, not the first success.
    """
    strengths, clean = outcomes.attack(label)["strengths"], outcomes.clean(model)["correct"]
    stochastic = outcomes.run["models"][model]["stochastic"]
    rows: list[np.ndarray] = []
    for k in range(len(strengths)):
        cell = outcomes.cell(model, label, k)
        who = cell["member"] if stochastic else (cell["member_correct"] == 0).argmax(axis=0)
        here = np.where(clean & (cell["correct"] == 0), who, -1)
        rows.append(here if not rows else np.where(rows[-1] >= 0, rows[-1], here))
    return np.stack(rows)


def _budget(task: dict[str, Any]) -> int | None:
    """Steps times restarts, from the recorded repr of the plugin."""
    try:
        call = ast.parse(task["plugin"], mode="eval").body
    except SyntaxError:  # a repr need not be an expression
        return None
    keywords = call.keywords if isinstance(call, ast.Call) else []
    for keyword in keywords:
        if keyword.arg == "steps" and isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, int):
            return keyword.value.value * int(task["attack"]["restarts"])
    return None
