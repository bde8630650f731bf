"""The report: stored outcomes, and the curves, records and verdict that follow from them."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from snnrobust import audit
from snnrobust.analysis import comparison, curves, distances, members, records, transfer
from snnrobust.analysis.comparison import Comparison
from snnrobust.analysis.members import Member
from snnrobust.analysis.outcomes import Outcomes
from snnrobust.analysis.transfer import Transfer
from snnrobust.common.files import Arrays
from snnrobust.errors import InputError
from snnrobust.report.page import write_page
from snnrobust.results.artifacts import Artifact
from snnrobust.results.records import Claim, Curve, Finding, Record, Sense, Verdict
from snnrobust.results.store import Store


class Report:
    """What an evaluation found. Everything is computed from the stored per-sample outcomes.

    Attributes:
        judged: The outcomes with their findings, claims and verdict.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.judged = audit.judge(Outcomes(store))

    @property
    def outcomes(self) -> Outcomes:
        """What was stored, unjudged."""
        return self.judged.outcomes

    @property
    def run(self) -> dict[str, Any]:
        """Models, data, tasks, seed, mode and environment, as recorded."""
        return self.outcomes.run

    @property
    def findings(self) -> list[Finding]:
        """Checks of the evidence, the probe's first."""
        return self.judged.findings

    @property
    def claims(self) -> list[Claim]:
        """Every robust accuracy at a positive radius, each with a verdict of its own."""
        return self.judged.claims

    @property
    def verdict(self) -> Verdict:
        """The worst verdict on the claims that one would quote: those of ensembles; without any, those of the attacks
        that take several steps along a gradient; without these, all."""
        return self.judged.verdict

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
            InputError: If there is none of that label.
        """
        return self.outcomes.task(label)

    def quoted(self) -> list[str]:
        """Labels of the attacks whose numbers one would quote; see `verdict`."""
        return self.outcomes.quoted()

    def cell(self, model: str, label: str, position: int) -> Arrays:
        """Per-sample outcomes of a task at its `position`-th strength.

        Raises:
            InputError: If that cell was not computed.
        """
        return self.outcomes.cell(model, label, position)

    def clean(self, model: str | None = None) -> Arrays:
        """Per-sample outcomes on unchanged inputs: correct, margin, tied, silent, each [N]."""
        return self.outcomes.clean(self._model(model))

    def curve(self, label: str, model: str | None = None, sense: Sense | None = None) -> Curve:
        """Accuracy over the strengths of an attack or of noise, with 95 % intervals.

        The curve of an ensemble also says in `attribution` how many samples each member was the first to break.

        Args:
            label: Label of the task.
            model: Name of the model; may be left out if there is one.
            sense: For attacks "any-iterate" (the default) or, after mode="exhaustive", "last-iterate".

        Raises:
            InputError: For a label without a curve, or a sense that was not recorded.
        """
        return curves.accuracy_curve(self.outcomes, label, self._model(model), sense)

    def robust(self, label: str, model: str | None = None, by: Literal["correct", "voted"] = "correct") -> np.ndarray:
        """Whether each sample withstands the attack, [strength, sample]: right when clean, and broken at no strength
        up to this one. An example found at a smaller radius is allowed at a larger one.

        Args:
            label: Label of the attack.
            model: Name of the model; may be left out if there is one.
            by: What decides for a stochastic net: the mean logits over scoring draws, or the "voted" majority.
        """
        return self.outcomes.robust(label, self._model(model), by)

    def margins(self, label: str, model: str | None = None) -> np.ndarray:
        """True logit minus the best other at the strongest example, [strength, sample]; NaN: not attempted."""
        return self.outcomes.margins(label, self._model(model))

    def bisected(self, label: str, model: str | None = None) -> bool:
        """Whether an attack's radii were bisected; `run["kept_nested"]` says why one was not in mode="bisect"."""
        return self.outcomes.bisected(label, self._model(model))

    def assumed(self, label: str, model: str | None = None) -> np.ndarray:
        """Which samples count as right at a strength since they withstood a larger one, without having been attacked
        there, [strength, sample]; none unless the attack was bisected (mode="bisect").

        Args:
            label: Label of the attack.
            model: Name of the model; may be left out if there is one.
        """
        return self.outcomes.assumed(label, self._model(model))

    def members(self, label: str, model: str | None = None) -> list[Member]:
        """What each member of an ensemble was tried on, broke first and spent, at each strength, in their order.

        Raises:
            InputError: If `label` is not that of an attack. A plain attack is its own only member.
        """
        return members.members(self.outcomes, label, self._model(model))

    def distances(self, label: str, model: str | None = None) -> np.ndarray:
        """Least distance, in the attack's norm, at which it broke each sample, [sample].

        0 where the model is wrong without an attack, infinity where nothing was broken. It is an upper bound of the
        distance to the closest adversarial example: exact for what a minimum-norm attack found, for other attacks the
        distance of an example that was sought within a radius and not for being close.
        """
        return distances.distances(self.outcomes, label, self._model(model))

    def compare(self, first: str, second: str, label: str, strength: float) -> Comparison:
        """Two models on the same samples under one attack at one radius: the difference, and an exact McNemar test.

        Samples are drawn, models are not: the test asks whether these two trained nets differ. It can't tell what
        they were trained from: models that differ in what is recorded of them beside weights are refused.

        Raises:
            InputError: For models of different families, an unknown model or label, or a strength that was not run.
        """
        return comparison.compare(self.outcomes, first, second, label, strength)

    def compare_all(self, label: str, strength: float) -> list[Comparison]:
        """All pairs of models of one family, with p-values adjusted for their number (Holm 1979).

        Models that are like no other one are in no pair; where there is no pair the list is empty.
        """
        return comparison.compare_all(self.outcomes, label, strength)

    def transfer(self, strength: float, label: str | None = None) -> Transfer:
        """Robust accuracy by the model that examples were made on and the model that they were tried on.

        Args:
            strength: The radius.
            label: Any of the attacks that are alike but for `source`; may be left out if these are one group. The
                same attack without a source gives the diagonal.

        Raises:
            InputError: If no attack has a source, several groups have and `label` names none, or for a radius that
                was not run.
        """
        return transfer.transfer(self.outcomes, strength, label)

    def threat(self, label: str, model: str | None = None) -> str:
        """The ball that an attack searched, without its radius."""
        return self.outcomes.threat(label, self._model(model))

    def threats(self) -> list[str]:
        """The threat models of the attacks, radius apart."""
        return self.outcomes.threats()

    def worst_case(self, model: str | None = None, threat: str | None = None) -> Curve:
        """Per-sample worst case over all attacks of one threat model, and which attack broke a sample first.

        At each radius a sample counts as broken if any attack broke it at that radius or a smaller one. It is credited
        to the task that broke it at the smallest radius and, there, comes first; a member of an ensemble is called
        "ENSEMBLE: MEMBER".

        Raises:
            InputError: If there is no attack, or several threat models and `threat` names none of them.
        """
        return curves.worst_case(self.outcomes, self._model(model), threat)

    @cached_property
    def records(self) -> list[Record]:
        """Every number, one record each."""
        return records.records(self.outcomes)

    @property
    def artifacts(self) -> list[Artifact]:
        """What measurements drew."""
        return self.outcomes.artifacts

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
        for (model, label), (numbers, artifacts) in self._store.measured.items():
            target.save_measurement(model, label, numbers, artifacts, self.seconds(model, label))
        for model in self.models:
            for size in self.halved(model)[len(target.halved(model)) :]:
                target.save_halving(model, size)
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
        return write_page(self.judged, self.records, Path(path))

    def _model(self, model: str | None) -> str:
        if model is None and len(self.models) == 1:
            return self.models[0]
        if model not in self.models:
            raise InputError(f"expected model= in {self.models}, got {model!r}; name one of these")
        return model

    def measured(self, model: str, label: str) -> list[Record]:
        """The records of a measurement, as it yielded them."""
        return self.outcomes.measured(model, label)

    def ways(self, model: str) -> dict[str, list[str]]:
        """What the searches of each task, or member of an ensemble, ran on, in words."""
        return self.outcomes.ways(model)

    def halved(self, model: str) -> list[int]:
        """Samples in flight after each time that memory ran out."""
        return self.outcomes.halved(model)

    def seconds(self, model: str, name: str) -> float:
        """Seconds that the cell "LABEL/POSITION" or the measurement "LABEL" took; NaN where unknown."""
        return self.outcomes.seconds(model, name)

    def __repr__(self) -> str:
        return f"Report(models={self.models}, tasks={self.labels()}, verdict={self.verdict!r})"
