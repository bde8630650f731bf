"""Access to what an audit judges: an attack's own outcomes, and the exhibits that were gathered about it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from snnrobust.analysis.outcomes import Outcomes
from snnrobust.common.files import Arrays
from snnrobust.results.store import ANOTHER_CLASS, EVIDENCE


@dataclass(frozen=True)
class Rival:
    """An attack that another one is compared with, on some samples at one radius.

    Attributes:
        name: Who it is.
        rows: Positions of the samples in the test data, [n].
        standing: Which of them it leaves standing, [n].
        gradients: Whether it used gradients of the audited model.
        estimators: How these passed a spike; empty where it used none.
        transfer: Whether its examples were made on another model.
    """

    name: str
    rows: np.ndarray
    standing: np.ndarray
    gradients: bool
    estimators: frozenset[str]
    transfer: bool


@dataclass(frozen=True)
class EvidenceResult:
    """A gathered piece of evidence about one model.

    Attributes:
        settings: As recorded.
        cells: Outcomes at each of its strengths.
        rows: Positions of its samples in the test data, [n].
        clean: Which of them the model gets right, [n].
    """

    settings: dict[str, Any]
    cells: list[Arrays]
    rows: np.ndarray
    clean: np.ndarray

    @property
    def strengths(self) -> list[float]:
        """Its radii or severities."""
        return list(self.settings["task"]["strengths"])

    def at(self, strength: float) -> Arrays | None:
        """Outcomes at one of its strengths."""
        return self.cells[self.strengths.index(strength)] if strength in self.strengths else None

    def standing(self, strength: float) -> np.ndarray | None:
        """Which samples are right when clean and withstand all its attacks at this radius alone, [n]."""
        cell = self.at(strength)
        return None if cell is None else (cell["correct"] != 0) & self.clean

    def rivals(self, strength: float) -> list[Rival]:
        """Each of its attacks by itself."""
        cell, task = self.at(strength), self.settings["task"]
        if cell is None:
            return []
        found = []
        for m, member in enumerate(task["members"] or [task]):
            standing = (cell["member_correct"][m] != 0) & self.clean
            name = f"{self.settings['kind']}: {member['label']}" if task["members"] else member["label"]
            gradients = bool(cell["member_backwards"][m].any())
            found.append(_rival(name, self.rows, standing, gradients, [member]))
        return found

    def under_gradients(self, strength: float, like: EvidenceResult | None = None) -> np.ndarray | None:
        """Which samples withstand all its attacks that use gradients, [n]; None where it has none.

        Args:
            strength: The radius.
            like: An exhibit whose attacks are the only ones that count here, by their labels.
        """
        members = None if like is None else like.settings["task"]["members"]
        labels = None if not members else {member["label"] for member in members}
        alone = [
            each.standing
            for each in self.rivals(strength)
            if each.gradients and (labels is None or each.name.partition(": ")[2] in labels)
        ]
        return np.logical_and.reduce(alone) if alone else None


class Audited:
    """One attack on one model, and all the evidence about it."""

    def __init__(self, outcomes: Outcomes, model: str, label: str) -> None:
        self.outcomes = outcomes
        self.model = model
        self.label = label
        self.task = outcomes.task(label)
        self.norm = self.task["attack"]["norm"]

    @property
    def skipped(self) -> dict[str, str]:
        """Labels of its members that the model does not allow, with the reason."""
        skipped = self.outcomes.run["skipped"][self.model] if self.task["members"] else {}
        return {each["label"]: skipped[each["label"]] for each in self.task["members"] if each["label"] in skipped}

    @property
    def members(self) -> list[dict[str, Any]]:
        """The attacks that it was made of: its members, without those that were left out, or itself."""
        return [each for each in self.task["members"] if each["label"] not in self.skipped] or [self.task]

    @property
    def radii(self) -> list[float]:
        """Its positive strengths."""
        return [radius for radius in self.task["strengths"] if radius > 0]

    @cached_property
    def stochastic(self) -> bool:
        """Whether the model draws random numbers."""
        return bool(self.outcomes.run["models"][self.model]["stochastic"])

    @cached_property
    def comparable(self) -> bool:
        """Whether outcomes on a part of the data can be held against those on all of it: a net that draws from a
        global generator gets other draws in another batch."""
        return not self.outcomes.run["models"][self.model].get("keyed_by_batch", False)

    @cached_property
    def cells(self) -> list[Arrays]:
        """Outcomes at each strength."""
        return self.outcomes.cells(self.model, self.label)

    @cached_property
    def clean(self) -> np.ndarray:
        """Which samples the model gets right, [N]."""
        correct: np.ndarray = self.outcomes.clean(self.model)["correct"]
        return correct

    @cached_property
    def assumed(self) -> np.ndarray:
        """Which samples count as right without an attack, since they withstood a larger radius, [strength, sample]."""
        return self.outcomes.assumed(self.label, self.model)

    def standing(self, strength: float) -> np.ndarray:
        """Which samples it leaves standing at a radius, carried from smaller ones, [N]."""
        standing: np.ndarray = self.outcomes.robust(self.label, self.model)[self.task["strengths"].index(strength)]
        return standing

    def exhibit(self, kind: str, about: str | None = None, label: str = "") -> EvidenceResult | None:
        """The exhibit of this kind about the attack (or about the norm, where `about` says so)."""
        for settings in self.outcomes.run["evidence_tasks"][self.model]:
            fits = settings["kind"] == kind and settings["about"] == (about or self.label)
            if fits and label in ("", settings["task"]["label"]):
                return self._open(settings)
        return None

    def all_of(self, kind: str) -> list[EvidenceResult]:
        """All exhibits of this kind about the attack's norm or about any attack under it."""
        outcomes = self.outcomes
        here = {label for label in outcomes.labels("attack") if outcomes.task(label)["attack"]["norm"] == self.norm}
        return [
            self._open(settings)
            for settings in outcomes.run["evidence_tasks"][self.model]
            if settings["kind"] == kind and settings["about"] in {self.norm, *here}
        ]

    @cached_property
    def swapped(self) -> tuple[np.ndarray, Arrays]:
        """Positions of the audit's samples, and whether the model still says their class when shown another one."""
        return np.array(self.outcomes.run["rows"]), self.outcomes.cell(self.model, ANOTHER_CLASS, 0)

    def rivals(self, strength: float) -> list[Rival]:
        """All other attacks of this norm at this radius: the user's own tasks, and each attack of the exhibits.

        A task that ended at the very same margins is none: its estimator is the same surrogate by another name.
        """
        outcomes, found = self.outcomes, []
        for label in outcomes.labels("attack"):
            task = outcomes.task(label)
            if label == self.label or task["attack"]["norm"] != self.norm or strength not in task["strengths"]:
                continue
            if _identical(outcomes.margins(label, self.model), outcomes.margins(self.label, self.model)):
                continue
            standing = outcomes.robust(label, self.model)[task["strengths"].index(strength)]
            gradients = any(cell["backwards"].any() for cell in outcomes.cells(self.model, label))
            found.append(_rival(label, np.arange(len(standing)), standing, gradients, task["members"] or [task]))
        for kind in ("estimators", "steps-100", "transfer"):
            for exhibit in self.all_of(kind):
                found += exhibit.rivals(strength)
        return found

    def _open(self, settings: dict[str, Any]) -> EvidenceResult:
        task = settings["task"]
        rows = np.array(self.outcomes.run["rows"])[: settings["samples"]]
        rows = rows[::-1] if settings["reverse"] else rows
        cells = [self.outcomes.cell(self.model, EVIDENCE + task["label"], k) for k in range(len(task["strengths"]))]
        return EvidenceResult(settings, cells, rows, self.clean[rows])


def _rival(name: str, rows: np.ndarray, standing: np.ndarray, gradients: bool, members: list[dict[str, Any]]) -> Rival:
    transfer = all(member["attack"]["source"] is not None for member in members)
    used = frozenset(member["attack"]["gradient"] for member in members) if gradients else frozenset()
    return Rival(name, rows, standing, gradients and not transfer, used, transfer)


def _identical(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two attacks ended at the same margins [strength, sample], up to rounding."""
    return first.shape == second.shape and np.allclose(first, second, rtol=1e-4, atol=1e-6, equal_nan=True)
