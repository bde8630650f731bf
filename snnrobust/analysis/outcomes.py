"""The outcomes of a stored run: per-sample results by model and task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np

from snnrobust.common.files import Arrays
from snnrobust.common.validate import check_choice
from snnrobust.errors import InputError
from snnrobust.plugin.task import TaskKind
from snnrobust.results.artifacts import Artifact
from snnrobust.results.execution_path import ExecutionPath
from snnrobust.results.records import NAN, Finding, Record
from snnrobust.results.store import Store
from snnrobust.threat_models.threat_model import budget_name


def budget_of(attack: Mapping[str, Any]) -> str:
    """The norm and further limits of a recorded attack, as text: attacks that share it can be compared."""
    return budget_name(attack["norm"], tuple((norm, most) for norm, most in attack.get("limits", ())))


class Outcomes:
    """The stored outcomes of a run by model and task label, without findings or verdicts.

    Args:
        store: A finished run.

    Attributes:
        run: The recorded models, data, tasks, seed, mode and environment.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.run: dict[str, Any] = store.run
        self._tasks: dict[str, dict[str, Any]] = {task["label"]: task for task in self.run["tasks"]}

    @property
    def models(self) -> list[str]:
        """Names of the models."""
        return list(self.run["models"])

    def labels(self, kind: str | None = None) -> list[str]:
        """Labels of the tasks, of one kind ("clean", "attack", "noise", "measurement") or of all."""
        if kind is not None:
            check_choice("kind", kind, get_args(TaskKind))
        return [label for label, task in self._tasks.items() if kind in (None, task["kind"])]

    def task(self, label: str) -> dict[str, Any]:
        """The recorded settings of a task.

        Raises:
            InputError: If no task has this label.
        """
        if label not in self._tasks:
            raise InputError(f"expected a task label in {sorted(self._tasks)}, got {label!r}; name one of these")
        return self._tasks[label]

    def attack(self, label: str) -> dict[str, Any]:
        """The recorded settings of an attack.

        Raises:
            InputError: If the label is not that of an attack.
        """
        task = self.task(label)
        if task["kind"] != "attack":
            raise InputError(
                f"expected the label of an attack, got '{label}' of kind '{task['kind']}'; name one of "
                f"{self.labels('attack')}"
            )
        return task

    def quoted(self) -> list[str]:
        """Labels of the attacks whose numbers are to be quoted."""
        return list(self.run["quoted"])

    def cell(self, model: str, label: str, position: int) -> Arrays:
        """Per-sample outcomes of a task at its `position`-th strength.

        Raises:
            InputError: If the cell was not computed.
        """
        arrays = self._store.cell(model, label, position)
        if arrays is None:
            raise InputError(f"expected results of '{label}' on '{model}', got none; run or resume the evaluation")
        return arrays

    def cells(self, model: str, label: str) -> list[Arrays]:
        """Per-sample outcomes of a task at each of its strengths."""
        return [self.cell(model, label, k) for k in range(len(self.task(label)["strengths"]))]

    def clean(self, model: str) -> Arrays:
        """Per-sample outcomes on unchanged inputs: correct, margin, tied, silent, each [N]."""
        return self.cell(model, "clean", 0)

    def robust(self, label: str, model: str, by: Literal["correct", "voted"] = "correct") -> np.ndarray:
        """Whether each sample is robust, [strength, sample]: correct when clean, and broken at no strength up to this
        one. An example found at a smaller radius also counts at a larger one."""
        check_choice("by", by, ("correct", "voted"))
        unbroken = np.stack([cell[by] != 0 for cell in self.cells(model, label)])
        robust: np.ndarray = np.logical_and.accumulate(unbroken, axis=0) & self.clean(model)[by]
        return robust

    def margins(self, label: str, model: str) -> np.ndarray:
        """Margin at the strongest example, [strength, sample]: logit of the true class minus the largest other one; NaN
        if the sample was not attacked."""
        return np.stack([cell["margin"] for cell in self.cells(model, label)])

    def bisected(self, label: str, model: str) -> bool:
        """Whether an attack was run by bisection (mode="bisect") on a model."""
        return bool(self.attack(label)["strengths"]) and "assumed" in self.cell(model, label, 0)

    def assumed(self, label: str, model: str) -> np.ndarray:
        """Which samples were not attacked at a radius but are assumed robust there, because they are robust at a larger
        one, [strength, sample]; none without bisection."""
        self.attack(label)
        nothing = np.zeros(len(self.clean(model)["correct"]), dtype=bool)
        return np.stack([cell.get("assumed", nothing) for cell in self.cells(model, label)])

    def threat(self, label: str, model: str) -> str:
        """The threat model of an attack, without its radius."""
        settings = self.run["models"][model]
        (low, high), domain = settings["bounds"], settings["domain"]
        fixed = f", {settings['silent']:g} fixed" if "silent" in settings else ""
        return f"{budget_of(self.task(label)['attack'])} in [{low:g}, {high:g}], {domain}{fixed}"

    def threats(self) -> list[str]:
        """The threat models of all attacks, without their radii."""
        return list(dict.fromkeys(self.threat(label, name) for name in self.models for label in self.labels("attack")))

    def measurement_records(self, model: str, label: str) -> list[Record]:
        """The records that a measurement yielded."""
        found = self._store.measurement(model, label)
        return found[0] if found is not None else []

    @property
    def artifacts(self) -> list[Artifact]:
        """The artifacts of all measurements."""
        found = (self._store.measurement(name, label) for name in self.models for label in self.labels("measurement"))
        return [artifact for each in found if each is not None for artifact in each[1]]

    def probed(self) -> list[Finding]:
        """The findings of the probe on each model."""
        return [finding for name in self.models for finding in self._store.probe_findings(name) or []]

    def examples(self, model: str, label: str, position: int) -> Arrays | None:
        """The examples that were kept of a cell: held [n], x [n, *] and logits [n, K], of the first n samples; those of
        "clean" are the originals, with y [n] and index [n]. None where the run kept none."""
        return self._store.examples(model, label, position)

    def execution_paths(self, model: str) -> dict[str, list[ExecutionPath]]:
        """The execution paths of the searches of each task, or member of an ensemble."""
        return self._store.execution_paths(model)

    def halved(self, model: str) -> list[int]:
        """The batch size after each time that memory ran out."""
        return self._store.halved(model)

    def seconds(self, model: str, name: str) -> float:
        """Wall time of the cell "LABEL/POSITION" or the measurement "LABEL" in seconds; NaN if unknown."""
        return self._store.seconds[model].get(name, NAN)
