"""Reports from outcomes written by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from snnrobust import audit
from snnrobust.report import Report
from snnrobust.results.artifacts import Artifact
from snnrobust.results.records import Finding, Record
from snnrobust.results.store import FORMAT, Store


class Handmade:
    """Settings and outcomes as an evaluation would have stored them."""

    @staticmethod
    def model(name: str, **more: Any) -> dict[str, Any]:
        settings = {"net": "Net", "bounds": [0.0, 1.0], "domain": "real", "stochastic": False, "parameters": 100}
        return {"name": name, "fingerprint": f"weights of {name}", **settings, **more}

    @staticmethod
    def attack(label: str, strengths: Sequence[float] = (0.1,), **more: Any) -> dict[str, Any]:
        factors = {"norm": "linf", "objective": "Margin()", "gradient": "Own()", "restarts": 1, "eot": 1}
        factors |= {name: more.pop(name) for name in ("norm", "restarts") if name in more}
        factors |= {"source": more.pop("source", None)}
        task = {"name": "pgd", "label": label, "kind": "attack", "origin": "test", "plugin": "PGD(steps=20)"}
        return {**task, "strengths": list(strengths), "attack": factors, "members": [], "draws": 1, **more}

    def ensemble(self, label: str, members: Sequence[str], strengths: Sequence[float] = (0.1,)) -> dict[str, Any]:
        parts = [self.attack(member, strengths) for member in members]
        shared = {"norm": "linf", "eot": 1, "source": None}
        return {**self.attack(label, strengths), "plugin": "Fast()", "attack": shared, "members": parts}

    @staticmethod
    def cell(*alone: Sequence[int], **more: Any) -> dict[str, np.ndarray]:
        """An attack's outcomes from those of its members [M, N]: 1 right, 0 broken, -1 not tried."""
        each = np.array(alone, dtype=np.int8)
        tried = each >= 0
        correct = np.where((each == 0).any(axis=0), 0, np.where(tried.any(axis=0), 1, -1)).astype(np.int8)
        zeros = np.zeros(each.shape[1], dtype=np.int32)
        cell = {
            "correct": correct,
            "voted": correct,
            "margin": np.where(correct > 0, 0.5, np.where(correct == 0, -0.5, np.nan)),
            "distance": np.full(each.shape[1], 0.01),
            "last_correct": correct,
            "unchanged": zeros,
            "disagreements": zeros,
            "member": np.where(correct < 0, -1, (each == 0).argmax(axis=0)),
            "member_correct": each,
            "member_forwards": 20 * tried.astype(np.int32),
            "member_backwards": 10 * tried.astype(np.int32),
            **{name: np.array(value) for name, value in more.items()},
        }
        return {"forwards": cell["member_forwards"].sum(0), "backwards": cell["member_backwards"].sum(0), **cell}

    def report(
        self,
        tasks: list[dict[str, Any]],
        cells: dict[str, list[dict[str, np.ndarray]]] | dict[tuple[str, str], list[dict[str, np.ndarray]]],
        clean: Sequence[int],
        models: Sequence[dict[str, Any]] | None = None,
        measured: Mapping[str, tuple[list[Record], list[Artifact]]] | None = None,
        **more: Any,
    ) -> Report:
        """A report; cells by label where there is one model, else by (model, label); measured things of each model by
        label, which are tasks of their own."""
        tasks = [*tasks, *({**self.attack(each, ()), "kind": "measurement"} for each in measured or {})]
        wrapped = {each["name"]: each for each in models or [self.model("m")]}
        start = {**self.attack("clean", ()), "kind": "clean", "name": "clean", "attack": None}
        run = {
            "format": FORMAT,
            "fingerprint": "",
            "models": wrapped,
            "data": {"name": "numbers", "samples": len(clean)},
            "tasks": [start, *tasks],
            "seed": 0,
            "mode": "nested",
            "evidence": "none",
            "environment": {},
            "exhibits": {name: [] for name in wrapped},
            "rows": [],
            "sources": {},
            "skipped": {model: {} for model in wrapped},
            "quoted": [task["label"] for task in tasks if task["kind"] == "attack"],
            **more,
        }
        store, right = Store(None, run), np.array(clean, dtype=bool)
        for model in wrapped:
            first = {"correct": right, "voted": right, "margin": np.where(right, 1.0, -1.0)}
            store.save_cell(model, "clean", 0, {**first, "tied": right & False, "silent": right & False}, 0.0)
            store.save_findings(model, [])
        for key, found in cells.items():
            model, label = key if isinstance(key, tuple) else (next(iter(wrapped)), key)
            for k, cell in enumerate(found):
                store.save_cell(model, label, k, cell, 0.0)
        for label, (records, artifacts) in (measured or {}).items():
            for model in wrapped:
                named = [replace(each, model=model, label=label) for each in artifacts]
                store.save_measurement(model, label, records, named, 1.0)
        return Report(store)

    @staticmethod
    def judged(report: Report, findings: list[Finding]) -> Report:
        """The report with these findings in the place of its own."""
        claims = audit.claims(report.outcomes, findings)
        report.judged = audit.Judged(report.outcomes, findings, claims, audit.overall(findings, claims))
        return report


@pytest.fixture(scope="session")
def made() -> Handmade:
    return Handmade()
