"""The report: stored outcomes, and the curves, records, findings and verdict computed from them."""

from __future__ import annotations

import dataclasses
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from snnrobust import audit
from snnrobust.analysis import comparison, curves, distances, examples, members, records, transfer
from snnrobust.analysis.comparison import Comparison
from snnrobust.analysis.examples import AdversarialExamples
from snnrobust.analysis.members import Member
from snnrobust.analysis.outcomes import Outcomes
from snnrobust.analysis.transfer import Transfer
from snnrobust.common.deprecation import warn_renamed
from snnrobust.common.files import Arrays
from snnrobust.errors import InputError
from snnrobust.report.page import write_page
from snnrobust.results.artifacts import Artifact
from snnrobust.results.errata import errata
from snnrobust.results.execution_path import ExecutionPath
from snnrobust.results.records import Claim, Curve, Finding, Record, Sense, Verdict
from snnrobust.results.store import Store


class Report:
    """The results of an evaluation. All numbers are computed from the stored per-sample outcomes.

    Attributes:
        audit: The outcomes with their findings, claims and verdict.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.audit = audit.audit_outcomes(Outcomes(store))

    @property
    def outcomes(self) -> Outcomes:
        """The stored outcomes."""
        return self.audit.outcomes

    @property
    def judged(self) -> audit.AuditResult:
        """The former name of `audit`."""
        warn_renamed("Report.judged", "Report.audit")
        return self.audit

    @property
    def run(self) -> dict[str, Any]:
        """The recorded models, data, tasks, seed, mode and environment."""
        return self.outcomes.run

    @property
    def findings(self) -> list[Finding]:
        """All findings; those of the probe come first."""
        return self.audit.findings

    @property
    def claims(self) -> list[Claim]:
        """One claim for each robust accuracy at a positive radius, with its verdict."""
        return self.audit.claims

    @property
    def verdict(self) -> Verdict:
        """The worst verdict on the quoted claims: those of ensembles; if there are none, those of gradient attacks with
        several steps; if there are none either, all."""
        return self.audit.verdict

    @property
    def models(self) -> list[str]:
        """Names of the models."""
        return self.outcomes.models

    def labels(self, kind: str | None = None) -> list[str]:
        """Labels of the tasks, of one kind ("clean", "attack", "noise", "measurement") or of all."""
        return self.outcomes.labels(kind)

    def task(self, label: str) -> dict[str, Any]:
        """The recorded settings of a task.

        Raises:
            InputError: If no task has this label.
        """
        return self.outcomes.task(label)

    def quoted(self) -> list[str]:
        """Labels of the attacks whose numbers are to be quoted; see `verdict`."""
        return self.outcomes.quoted()

    def cell(self, model: str, label: str, position: int) -> Arrays:
        """Per-sample outcomes of a task at its `position`-th strength.

        Raises:
            InputError: If the cell was not computed.
        """
        return self.outcomes.cell(model, label, position)

    def clean(self, model: str | None = None) -> Arrays:
        """Per-sample outcomes on unchanged inputs: correct, margin, tied, silent, each [N]."""
        return self.outcomes.clean(self._model(model))

    def curve(self, label: str, model: str | None = None, sense: Sense | None = None) -> Curve:
        """Accuracy over the strengths of an attack or of noise, with 95 % intervals.

        For an ensemble, `attribution` has the number of samples that each member was the first to break.

        Args:
            label: Label of the task.
            model: Name of the model; optional if there is only one.
            sense: For attacks "any-iterate" (the default) or, after mode="exhaustive", "last-iterate".

        Raises:
            InputError: For a label without a curve, or a sense that was not recorded.
        """
        return curves.accuracy_curve(self.outcomes, label, self._model(model), sense)

    def robust(self, label: str, model: str | None = None, by: Literal["correct", "voted"] = "correct") -> np.ndarray:
        """Whether each sample is robust, [strength, sample]: correct when clean, and broken at no strength up to this
        one. An example found at a smaller radius also counts at a larger one.

        Args:
            label: Label of the attack.
            model: Name of the model; optional if there is only one.
            by: How a stochastic net is scored: "correct" by the mean logits over draws, "voted" by majority vote.
        """
        return self.outcomes.robust(label, self._model(model), by)

    def margins(self, label: str, model: str | None = None) -> np.ndarray:
        """Margin at the strongest example, [strength, sample]: logit of the true class minus the largest other one; NaN
        if the sample was not attacked."""
        return self.outcomes.margins(label, self._model(model))

    def bisected(self, label: str, model: str | None = None) -> bool:
        """Whether an attack was run by bisection (mode="bisect"); `run["not_bisected"]` has the reason if not."""
        return self.outcomes.bisected(label, self._model(model))

    def assumed(self, label: str, model: str | None = None) -> np.ndarray:
        """Which samples were not attacked at a strength but are assumed robust there, because they are robust at a
        larger one, [strength, sample]; none without bisection (mode="bisect").

        Args:
            label: Label of the attack.
            model: Name of the model; optional if there is only one.
        """
        return self.outcomes.assumed(label, self._model(model))

    def members(self, label: str, model: str | None = None) -> list[Member]:
        """For each member of an ensemble, at each strength and in order: samples attempted, first broken, and compute.

        Raises:
            InputError: If `label` is not that of an attack. An attack that is no ensemble counts as one member.
        """
        return members.member_results(self.outcomes, label, self._model(model))

    def distances(self, label: str, model: str | None = None) -> np.ndarray:
        """Distance, in the attack's norm, of the closest adversarial example found for each sample, [sample].

        0 if the model is wrong without an attack, infinity if the sample was not broken. It is an upper bound of the
        distance to the closest adversarial example, and tight only for minimum-norm attacks: other attacks don't
        minimise the distance.
        """
        return distances.distances(self.outcomes, label, self._model(model))

    def compare(self, first: str, second: str, label: str, strength: float) -> Comparison:
        """Compares two models on the same samples under one attack at one radius: difference and exact McNemar test.

        The test is over samples, so it is about these two trained nets. It says nothing about architectures or training
        methods: models whose recorded settings differ in more than the weights are refused.

        Raises:
            InputError: For models of different settings, an unknown model or label, or a strength that was not run.
        """
        return comparison.compare(self.outcomes, first, second, label, strength)

    def compare_all(self, label: str, strength: float) -> list[Comparison]:
        """Compares all pairs of models of equal settings (other weights), with Holm correction (Holm 1979).

        The list is empty if there is no such pair.
        """
        return comparison.compare_all(self.outcomes, label, strength)

    def examples(self, label: str, strength: float, model: str | None = None) -> AdversarialExamples:
        """Adversarial examples of an attack at one of its radii, of the first N samples after `evaluate(examples=N)`.

        Args:
            label: Label of the attack.
            strength: The radius.
            model: Name of the model; may be left out if there is one.

        Raises:
            InputError: If the run kept no examples, or for a label or radius without an attack.
        """
        return examples.adversarial_examples(self.outcomes, label, strength, self._model(model))

    def transfer(self, strength: float, label: str | None = None) -> Transfer:
        """Robust accuracy by source model (on which examples were made) and target model (on which they are scored).

        Args:
            strength: The radius.
            label: Any attack of a group that differs only in `source`; optional if there is only one group. The same
                attack without a source gives the diagonal.

        Raises:
            InputError: If no attack has a source, if there are several groups and no `label`, or for a radius that was
                not run.
        """
        return transfer.transfer(self.outcomes, strength, label)

    def threat(self, label: str, model: str | None = None) -> str:
        """The threat model of an attack, without its radius."""
        return self.outcomes.threat(label, self._model(model))

    def threats(self) -> list[str]:
        """The threat models of all attacks, without their radii."""
        return self.outcomes.threats()

    def worst_case(self, model: str | None = None, threat: str | None = None) -> Curve:
        """Per-sample worst case over all attacks of one threat model, with the attack that broke each sample first.

        At each radius a sample counts as broken if any attack broke it at that radius or a smaller one. It is
        attributed to the attack that broke it at the smallest radius, and to the first task among several; a member of
        an ensemble is named "ENSEMBLE: MEMBER".

        Raises:
            InputError: If there is no attack, or several threat models and `threat` names none of them.
        """
        return curves.worst_case_curve(self.outcomes, self._model(model), threat)

    @cached_property
    def records(self) -> list[Record]:
        """All numbers, one record each."""
        return records.records(self.outcomes)

    @property
    def artifacts(self) -> list[Artifact]:
        """The artifacts of all measurements."""
        return self.outcomes.artifacts

    def to_frame(self) -> pd.DataFrame:
        """All records as a table, one row each."""
        columns = (
            "model label plugin origin threat strength unit seed metric value low high count forwards backwards seconds"
        )
        return pd.DataFrame([dataclasses.asdict(record) for record in self.records], columns=columns.split())

    def save(self, folder: str | Path) -> None:
        """Writes the report to a folder that is new, empty, or already has this run.

        Raises:
            StoreError: If the folder has other contents.
        """
        self._store.load_all()
        target = Store(Path(folder), self.run)
        for (model, label, position), arrays in self._store.cells.items():
            seconds, kept = self.seconds(model, f"{label}/{position}"), self._store.examples(model, label, position)
            target.save_cell(model, label, position, arrays, seconds, kept)
        for (model, label), (numbers, artifacts) in self._store.measured.items():
            target.save_measurement(model, label, numbers, artifacts, self.seconds(model, label))
        for model in self.models:
            for size in self.halved(model)[len(target.halved(model)) :]:
                target.save_halving(model, size)
        for model, findings in self._store.findings.items():
            target.save_findings(model, findings)
        for model in self.models:
            for label, paths in self._store.execution_paths(model).items():
                for path in paths:
                    target.save_execution_path(model, label, path)

    @classmethod
    def load(cls, folder: str | Path) -> Report:
        """Reads a report written by `save` or by an evaluation with `out=`.

        Warns if an earlier version wrote it whose numbers are wrong in some cases that may apply.

        Raises:
            StoreError: If there is no report, or a file is damaged.
            InputError: If the run is not finished.
        """
        store = Store.open(Path(folder))
        store.load_all()
        if found := errata(store.run, store.cells):
            warnings.warn(
                f"expected a run of the present version in '{Path(folder).absolute()}', got one of format 3, where "
                f"{'; '.join(found)}; run it again if this applies (CHANGELOG.md, Errata)",
                RuntimeWarning,
                stacklevel=2,
            )
        return cls(store)

    def to_html(self, path: str | Path) -> Path:
        """Writes one self-contained HTML page, and its pictures as PNG files next to it; returns the page's path."""
        return write_page(self.audit, self.records, Path(path))

    def _model(self, model: str | None) -> str:
        if model is None and len(self.models) == 1:
            return self.models[0]
        if model not in self.models:
            raise InputError(f"expected model= in {self.models}, got {model!r}; name one of these")
        return model

    def measured(self, model: str, label: str) -> list[Record]:
        """The records that a measurement yielded."""
        return self.outcomes.measurement_records(model, label)

    def execution_paths(self, model: str | None = None) -> dict[str, list[ExecutionPath]]:
        """The execution paths of the searches of each task, or member of an ensemble.

        Args:
            model: Name of the model; optional if there is only one.
        """
        return self.outcomes.execution_paths(self._model(model))

    def ways(self, model: str) -> dict[str, list[str]]:
        """The former name of `execution_paths`, which gave sentences."""
        warn_renamed("Report.ways", "Report.execution_paths")
        return {label: [str(path) for path in paths] for label, paths in self.execution_paths(model).items()}

    def halved(self, model: str) -> list[int]:
        """The batch size after each time that memory ran out."""
        return self.outcomes.halved(model)

    def seconds(self, model: str, name: str) -> float:
        """Wall time of the cell "LABEL/POSITION" or the measurement "LABEL" in seconds; NaN if unknown."""
        return self.outcomes.seconds(model, name)

    def __repr__(self) -> str:
        return f"Report(models={self.models}, tasks={self.labels()}, verdict={self.verdict!r})"
