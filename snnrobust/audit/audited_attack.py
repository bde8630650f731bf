"""The data of one audit: an attack's own outcomes, and the results of the evidence tasks about it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from snnrobust.analysis.outcomes import Outcomes, budget_of
from snnrobust.audit.gaps import Gap
from snnrobust.common.files import Arrays
from snnrobust.results.store import ANOTHER_CLASS, EVIDENCE
from snnrobust.threat_models.threat_model import Domain, Limit, Norm


@dataclass(frozen=True)
class OtherAttack:
    """An attack that the audited attack is compared with, on some samples at one radius.

    Attributes:
        label: Label of the attack, or of the member where it is a member of an evidence task's ensemble.
        rows: Positions of the samples in the test data, [n].
        robust: Which of them it does not break, [n]; also those that it did not attack.
        known: Which of them it attacked, or the model gets wrong without an attack, [n].
        gradients: Whether it used gradients of the audited model.
        estimators: Its gradient estimators; empty where it used no gradients.
        transfer: Whether its examples were made on another model.
        kind: Kind of the evidence task that it is a member of; empty where it is no member of one.
    """

    label: str
    rows: np.ndarray
    robust: np.ndarray
    known: np.ndarray
    gradients: bool
    estimators: frozenset[str]
    transfer: bool
    kind: str = ""

    def gap_below(self, robust: np.ndarray) -> Gap:
        """The gap between the samples `robust` [n] to another attack and those robust to this one.

        Samples that this one did not attack count for neither. They were broken before it came to them: at worst, the
        true gap is smaller.
        """
        return Gap.between(robust & self.known, self.robust & self.known, self.name)

    @property
    def name(self) -> str:
        """The label, after the kind of the evidence task if there is one."""
        return f"{self.kind}: {self.label}" if self.kind else self.label


@dataclass(frozen=True)
class EvidenceResult:
    """The outcomes of one evidence task on one model.

    Attributes:
        settings: The recorded settings of the evidence task.
        cells: Outcomes at each of its strengths.
        rows: Positions of its samples in the test data, [n].
        clean: Which of them the model classifies correctly without an attack, [n].
        skipped: Labels of members that were not run, since they don't fit the model.
    """

    settings: dict[str, Any]
    cells: list[Arrays]
    rows: np.ndarray
    clean: np.ndarray
    skipped: frozenset[str] = frozenset()

    @property
    def strengths(self) -> list[float]:
        """Its radii or severities."""
        return list(self.settings["task"]["strengths"])

    def at(self, strength: float) -> Arrays | None:
        """Outcomes at one of its strengths."""
        return self.cells[self.strengths.index(strength)] if strength in self.strengths else None

    def robust(self, strength: float) -> np.ndarray | None:
        """Which samples are correct when clean and not broken by any of its attacks at this radius alone, [n]."""
        cell = self.at(strength)
        return None if cell is None else (cell["correct"] != 0) & self.clean

    def attacks(self, strength: float) -> list[OtherAttack]:
        """Each of its attacks by itself."""
        cell, task = self.at(strength), self.settings["task"]
        if cell is None:
            return []
        kind = self.settings["kind"] if task["members"] else ""
        found = []
        for m, member in enumerate(task["members"] or [task]):
            if member["label"] in self.skipped:
                continue
            correct = cell["member_correct"][m]
            robust, known = (correct != 0) & self.clean, (correct >= 0) | ~self.clean
            gradients = member.get("uses_gradients")  # missing in runs of format 3
            gradients = bool(cell["member_backwards"][m].any()) if gradients is None else gradients
            found.append(_other_attack(member["label"], self.rows, robust, known, gradients, [member], kind))
        return found

    def robust_to_gradient_attacks(self, strength: float, like: EvidenceResult | None = None) -> np.ndarray | None:
        """Which samples none of its gradient attacks breaks, [n]; None where it has no gradient attack.

        Args:
            strength: The radius.
            like: If given, only members that this ensemble has as well count (compared by label).
        """
        members = None if like is None else like.settings["task"]["members"]
        labels = None if not members else {member["label"] for member in members}
        found = [
            each.robust
            for each in self.attacks(strength)
            if each.gradients and (labels is None or (each.kind and each.label in labels))
        ]
        return np.logical_and.reduce(found) if found else None


class AuditedAttack:
    """One attack on one model, and all the evidence about it."""

    def __init__(self, outcomes: Outcomes, model: str, label: str) -> None:
        self.outcomes = outcomes
        self.model = model
        self.label = label
        self.task = outcomes.task(label)
        attack = self.task["attack"]
        self.norm: Norm = attack["norm"]
        self.limits: tuple[Limit, ...] = tuple((norm, most) for norm, most in attack.get("limits", ()))
        self.budget = budget_of(attack)
        self.domain: Domain = outcomes.run["models"][model]["domain"]

    @property
    def skipped(self) -> dict[str, str]:
        """Labels of the members that were left out because they don't fit the model, with the reason."""
        skipped = self.outcomes.run["skipped"][self.model] if self.task["members"] else {}
        return {each["label"]: skipped[each["label"]] for each in self.task["members"] if each["label"] in skipped}

    @property
    def members(self) -> list[dict[str, Any]]:
        """Its members without those that were left out; the attack itself if it is no ensemble."""
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
        """Whether outcomes on a subset of the data can be compared with those on all of it. They can't for a model that
        uses a global random generator: a sample gets other random numbers in another batch."""
        return not self.outcomes.run["models"][self.model].get("keyed_by_batch", False)

    @cached_property
    def cells(self) -> list[Arrays]:
        """Outcomes at each strength."""
        return self.outcomes.cells(self.model, self.label)

    @cached_property
    def uses_gradients(self) -> bool:
        """Whether the attack, or a member of it, computed gradients."""
        return any(cell["backwards"].any() for cell in self.cells)

    @cached_property
    def clean(self) -> np.ndarray:
        """Which samples the model classifies correctly without an attack, [N]."""
        correct: np.ndarray = self.outcomes.clean(self.model)["correct"]
        return correct

    @cached_property
    def assumed(self) -> np.ndarray:
        """Which samples are assumed robust because they are robust at a larger radius, [strength, sample]."""
        return self.outcomes.assumed(self.label, self.model)

    def robust(self, strength: float) -> np.ndarray:
        """Which samples are robust at a radius: not broken at this radius or a smaller one, [N]."""
        robust: np.ndarray = self.outcomes.robust(self.label, self.model)[self.task["strengths"].index(strength)]
        return robust

    def evidence(self, kind: str, about: str | None = None, label: str = "") -> EvidenceResult | None:
        """The result of the evidence task of this kind about the attack (or about the budget `about`)."""
        for settings in self.outcomes.run["evidence_tasks"][self.model]:
            fits = settings["kind"] == kind and settings["about"] == (about or self.label)
            if fits and label in ("", settings["task"]["label"]):
                return self._result(settings)
        return None

    def evidence_under_norm(self, kind: str) -> list[EvidenceResult]:
        """The results of the evidence tasks of this kind about the attack's threat model or any attack under it."""
        outcomes = self.outcomes
        here = {
            label for label in outcomes.labels("attack") if budget_of(outcomes.task(label)["attack"]) == self.budget
        }
        return [
            self._result(settings)
            for settings in outcomes.run["evidence_tasks"][self.model]
            if settings["kind"] == kind and settings["about"] in {self.budget, *here}
        ]

    @cached_property
    def class_swap(self) -> tuple[np.ndarray, Arrays]:
        """Positions of the audit's samples, and whether the model still predicts their class when each is replaced by a
        sample of another class."""
        return np.array(self.outcomes.run["rows"]), self.outcomes.cell(self.model, ANOTHER_CLASS, 0)

    def other_attacks(self, strength: float) -> list[OtherAttack]:
        """All other attacks under this threat model at this radius: the user's tasks, and those of the evidence.

        A task with the same margins is left out: its estimator is the same surrogate under another name.
        """
        outcomes, found = self.outcomes, []
        for label in outcomes.labels("attack"):
            task = outcomes.task(label)
            if label == self.label or budget_of(task["attack"]) != self.budget or strength not in task["strengths"]:
                continue
            if _same_margins(outcomes.margins(label, self.model), outcomes.margins(self.label, self.model)):
                continue
            robust = outcomes.robust(label, self.model)[task["strengths"].index(strength)]
            gradients = any(cell["backwards"].any() for cell in outcomes.cells(self.model, label))
            rows, known = np.arange(len(robust)), np.ones(len(robust), dtype=bool)
            found.append(_other_attack(label, rows, robust, known, gradients, task["members"] or [task]))
        for kind in ("estimators", "steps-100", "transfer"):
            for result in self.evidence_under_norm(kind):
                found += result.attacks(strength)
        return found

    def _result(self, settings: dict[str, Any]) -> EvidenceResult:
        task = settings["task"]
        rows = np.array(self.outcomes.run["rows"])[: settings["samples"]]
        rows = rows[::-1] if settings["reverse"] else rows
        cells = [self.outcomes.cell(self.model, EVIDENCE + task["label"], k) for k in range(len(task["strengths"]))]
        skipped = frozenset(self.outcomes.run["skipped"][self.model]) if task["members"] else frozenset()
        return EvidenceResult(settings, cells, rows, self.clean[rows], skipped)


def _other_attack(
    label: str,
    rows: np.ndarray,
    robust: np.ndarray,
    known: np.ndarray,
    gradients: bool,
    members: list[dict[str, Any]],
    kind: str = "",
) -> OtherAttack:
    transfer = all(member["attack"]["source"] is not None for member in members)
    estimators = frozenset(member["attack"]["gradient"] for member in members) if gradients else frozenset()
    return OtherAttack(label, rows, robust, known, gradients and not transfer, estimators, transfer, kind)


def _same_margins(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two attacks ended at the same margins [strength, sample], up to rounding."""
    return first.shape == second.shape and np.allclose(first, second, rtol=1e-4, atol=1e-6, equal_nan=True)
