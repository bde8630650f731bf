"""The report: stored outcomes, and the curves, records and verdict that follow from them."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from snnrobust import audit
from snnrobust.errors import InputError
from snnrobust.files import Arrays
from snnrobust.report.records import task_records
from snnrobust.results import NAN, Artifact, Curve, Finding, Record, Sense, Verdict
from snnrobust.statistics import bootstrap_mean, clopper_pearson
from snnrobust.store import Store
from snnrobust.threat import ThreatModel


class Report:
    """What an evaluation found. Everything is computed from the stored per-sample outcomes.

    Attributes:
        run: Models, data, tasks, seed, mode and environment, as recorded.
        findings: Checks of the evidence, the probe's first.
        verdict: "trusted" if every required finding passed, "untrustworthy" if a fatal one failed, else "doubtful".
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.run: dict[str, Any] = store.run
        self._tasks: dict[str, dict[str, Any]] = {task["label"]: task for task in self.run["tasks"]}
        probed = [finding for name in self.models for finding in store.probe_findings(name) or []]
        self.findings: list[Finding] = [*probed, *audit.judge(self)] if self.run["evidence"] != "none" else []
        self.verdict: Verdict = audit.verdict(self.findings)

    @property
    def models(self) -> list[str]:
        """Names of the models."""
        return list(self.run["models"])

    def labels(self, kind: str | None = None) -> list[str]:
        """Labels of the tasks, of one kind ("clean", "attack", "noise", "measurement") or of all."""
        return [label for label, task in self._tasks.items() if kind in (None, task["kind"])]

    def task(self, label: str) -> dict[str, Any]:
        """The recorded settings of a task.

        Raises:
            InputError: If there is none of that label.
        """
        if label not in self._tasks:
            raise InputError(f"expected a task label in {sorted(self._tasks)}, got {label!r}; name one of these")
        return self._tasks[label]

    def cell(self, model: str, label: str, position: int) -> Arrays:
        """Per-sample outcomes of a task at its `position`-th strength.

        Raises:
            InputError: If that cell was not computed.
        """
        arrays = self._store.cell(model, label, position)
        if arrays is None:
            raise InputError(f"expected results of '{label}' on '{model}', got none; run or resume the evaluation")
        return arrays

    def clean(self, model: str | None = None) -> Arrays:
        """Per-sample outcomes on unchanged inputs: correct, margin, tied, silent, each [N]."""
        return self.cell(self._model(model), "clean", 0)

    def curve(self, label: str, model: str | None = None, sense: Sense | None = None) -> Curve:
        """Accuracy over the strengths of an attack or of noise, with 95 % intervals.

        Args:
            label: Label of the task.
            model: Name of the model; may be left out if there is one.
            sense: For attacks "any-iterate" (the default) or, after mode="exhaustive", "last-iterate".

        Raises:
            InputError: For a label without a curve, or a sense that was not recorded.
        """
        name, task = self._model(model), self.task(label)
        if task["kind"] == "noise":
            return self._noise_curve(name, label)
        if task["kind"] != "attack":
            raise InputError(f"expected the label of an attack or of noise, got '{label}' of kind '{task['kind']}'")
        if sense == "last-iterate":
            if self.run["mode"] != "exhaustive":
                raise InputError(
                    "expected mode='exhaustive' for the last iterate, got 'nested'; evaluate again with it"
                )
            last = [self.cell(name, label, k)["last_correct"] == 1 for k in range(len(task["strengths"]))]
            return self.share_curve(label, name, np.stack(last), "last-iterate")
        return self.share_curve(label, name, self.robust(label, name))

    def robust(self, label: str, model: str | None = None, by: Literal["correct", "voted"] = "correct") -> np.ndarray:
        """Whether each sample withstands the attack, [strength, sample]: right when clean, and broken at no strength
        up to this one. An example found at a smaller radius is allowed at a larger one.

        Args:
            label: Label of the attack.
            model: Name of the model; may be left out if there is one.
            by: What decides for a stochastic net: the mean logits over scoring draws, or the "voted" majority.
        """
        name, strengths = self._model(model), self.task(label)["strengths"]
        unbroken = np.stack([self.cell(name, label, k)[by] != 0 for k in range(len(strengths))])
        robust: np.ndarray = np.logical_and.accumulate(unbroken, axis=0) & self.clean(name)[by]
        return robust

    def margins(self, label: str, model: str | None = None) -> np.ndarray:
        """True logit minus the best other at the strongest example, [strength, sample]; NaN: not attempted."""
        name, strengths = self._model(model), self.task(label)["strengths"]
        return np.stack([self.cell(name, label, k)["margin"] for k in range(len(strengths))])

    def threats(self) -> list[str]:
        """The threat models of the attacks, radius apart."""
        return list(dict.fromkeys(self._threat(name, label) for name in self.models for label in self.labels("attack")))

    def worst_case(self, model: str | None = None, threat: str | None = None) -> Curve:
        """Per-sample worst case over all attacks of one threat model, and which attack broke a sample first.

        At each radius a sample counts as broken if any attack broke it at that radius or a smaller one.

        Raises:
            InputError: If there is no attack, or several threat models and `threat` names none of them.
        """
        name = self._model(model)
        by_threat: dict[str, list[str]] = {}
        for label in self.labels("attack"):
            by_threat.setdefault(self._threat(name, label), []).append(label)
        if not by_threat:
            raise InputError("expected at least one attack in the report, got none; evaluate with sr.load('pgd', ...)")
        if threat is None and len(by_threat) > 1:
            raise InputError(
                f"expected threat= with several threat models, got none; choose one of {sorted(by_threat)}"
            )
        chosen = next(iter(by_threat)) if threat is None else threat
        if chosen not in by_threat:
            raise InputError(f"expected a threat model in {sorted(by_threat)}, got {chosen!r}; name one of these")
        labels = by_threat[chosen]
        radii = sorted({radius for label in labels for radius in self.task(label)["strengths"]})
        standing = self.clean(name)["correct"].copy()
        rows, attribution = [], dict.fromkeys(labels, 0)
        for radius in radii:
            for label in labels:
                strengths = self.task(label)["strengths"]
                if radius in strengths:
                    broken = standing & ~self.robust(label, name)[strengths.index(radius)]
                    attribution[label] += int(broken.sum())
                    standing &= ~broken
            rows.append(standing.copy())
        curve = self.share_curve(labels[0], name, np.stack(rows), strengths=radii)
        return dataclasses.replace(curve, label="worst case", attribution=attribution)

    @cached_property
    def records(self) -> list[Record]:
        """Every number, one record each."""
        return [record for name in self.models for label in self._tasks for record in task_records(self, name, label)]

    @property
    def artifacts(self) -> list[Artifact]:
        """What measurements drew."""
        found = (self._store.measurement(name, label) for name in self.models for label in self.labels("measurement"))
        return [artifact for each in found if each is not None for artifact in each[1]]

    def to_frame(self) -> pd.DataFrame:
        """All records as a table, one row each."""
        columns = (
            "model label plugin origin threat strength unit seed metric value low high count forwards backwards seconds"
        )
        return pd.DataFrame([dataclasses.asdict(record) for record in self.records], columns=columns.split())

    def save(self, folder: str | Path) -> None:
        """Writes the report to a folder that is empty, new, or holds this very run.

        Raises:
            StoreError: If the folder holds anything else.
        """
        self._store.load_all()
        target = Store(Path(folder), self.run)
        for (model, label, position), arrays in self._store.cells.items():
            target.save_cell(model, label, position, arrays, self.seconds(model, f"{label}/{position}"))
        for (model, label), (records, artifacts) in self._store.measured.items():
            target.save_measurement(model, label, records, artifacts, self.seconds(model, label))
        for model, findings in self._store.findings.items():
            target.save_findings(model, findings)

    @classmethod
    def load(cls, folder: str | Path) -> Report:
        """The report that `save`, or an evaluation with `out=`, wrote.

        Raises:
            StoreError: If there is none, or a file is damaged.
            InputError: If the run is not finished.
        """
        store = Store.open(Path(folder))
        store.load_all()
        return cls(store)

    def to_html(self, path: str | Path) -> Path:
        """Writes one self-contained page, with its pictures as PNG files beside it; returns the page's path."""
        from snnrobust.report.page import write_page  # drawing is slow to import

        return write_page(self, Path(path))

    def _model(self, model: str | None) -> str:
        if model is None and len(self.models) == 1:
            return self.models[0]
        if model not in self.models:
            raise InputError(f"expected model= in {self.models}, got {model!r}; name one of these")
        return model

    def _threat(self, model: str, label: str) -> str:
        """The ball that an attack searched, without its radius."""
        settings = self.run["models"][model]
        norm, (low, high) = self.task(label)["attack"]["norm"], settings["bounds"]
        return ThreatModel(norm, 0.0, (low, high), settings["domain"]).ball

    def share_curve(
        self,
        label: str,
        model: str,
        kept: np.ndarray,
        sense: Sense = "any-iterate",
        strengths: list[float] | None = None,
    ) -> Curve:
        """Shares of `kept` [strength, sample] with Clopper-Pearson intervals, as a curve of an attack."""
        count = kept.shape[1]
        intervals = [clopper_pearson(int(row.sum()), count) for row in kept]
        return Curve(
            strength=tuple(self.task(label)["strengths"] if strengths is None else strengths),
            value=tuple(float(row.mean()) for row in kept),
            low=tuple(low for low, _ in intervals),
            high=tuple(high for _, high in intervals),
            count=count,
            threat=self._threat(model, label),
            sense=sense,
            model=model,
            label=label,
            unit="epsilon",
        )

    def measured(self, model: str, label: str) -> list[Record]:
        """The records of a measurement, as it yielded them."""
        found = self._store.measurement(model, label)
        return found[0] if found is not None else []

    def seconds(self, model: str, name: str) -> float:
        """Seconds that the cell "LABEL/POSITION" or the measurement "LABEL" took; NaN where unknown."""
        return self._store.seconds[model].get(name, NAN)

    def _noise_curve(self, model: str, label: str) -> Curve:
        strengths = self.task(label)["strengths"]
        shares = [self.cell(model, label, k)["fraction"].astype(np.float64) for k in range(len(strengths))]
        intervals = [bootstrap_mean(share, self.run["seed"]) for share in shares]
        return Curve(
            strength=tuple(strengths),
            value=tuple(float(share.mean()) for share in shares),
            low=tuple(low for low, _ in intervals),
            high=tuple(high for _, high in intervals),
            count=len(shares[0]),
            threat=self.task(label)["plugin"],
            sense="mean over draws",
            model=model,
            label=label,
            unit="severity",
        )

    def __repr__(self) -> str:
        return f"Report(models={self.models}, tasks={self.labels()}, verdict={self.verdict!r})"
