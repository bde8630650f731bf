"""Results on disk: every file is whole or absent, so a killed run can be resumed.

run.json                      what is evaluated: models, data, tasks, seed, mode, environment
cells/MODEL/LABEL/K.npz       per-sample outcomes at the K-th strength of a task ("K.partial.npz" while it runs)
cells/MODEL/LABEL/K.examples.npz  adversarial examples of the first samples, where they are kept
cells/MODEL/LABEL/measure.*   records (.json) and artifacts (.json, .npz) of a measurement ("measure.partial.npz" while
                              one runs that can go on where it stopped)
cells/MODEL/findings.json     what the probe found
cells/MODEL/memory.json       batch sizes after memory ran out, where it did
cells/MODEL/timings.json      seconds a cell; apart, so that equal runs have equal result bytes

No file is written by two models, so that each may be evaluated by a process of its own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from snnrobust.common.files import Arrays, check_folder, pack, read_json, slug, to_json, unpack, write
from snnrobust.errors import InputError, StoreError
from snnrobust.results.artifacts import Artifact
from snnrobust.results.checkpoint import MeasurementCheckpoint
from snnrobust.results.execution_path import ExecutionPath
from snnrobust.results.format_3 import upgrade_record, upgrade_run
from snnrobust.results.records import Finding, Record
from snnrobust.results.run_identity import is_same_run, run_difference
from snnrobust.results.serialise import as_plain, from_plain

FORMAT = 4
#: What goes before the labels of the audit's own attacks.
EVIDENCE = "evidence/"
#: The label of the audit's swap of each sample for one of another class.
ANOTHER_CLASS = EVIDENCE + "another class"


class Store:
    """A run's folder, or memory alone where no folder is named.

    Args:
        folder: Output folder, or None.
        run: The content of run.json; its "fingerprint" decides whether a folder holds the same run.

    Raises:
        StoreError: If the folder holds another run, or something that is no run.
    """

    def __init__(self, folder: Path | None, run: dict[str, Any]) -> None:
        self.folder = folder
        self.run = run
        self.cells: dict[tuple[str, str, int], Arrays] = {}
        self._examples: dict[tuple[str, str, int], Arrays] = {}
        self.measured: dict[tuple[str, str], tuple[list[Record], list[Artifact]]] = {}
        self.findings: dict[str, list[Finding]] = {}
        self.seconds: dict[str, dict[str, float]] = {model: {} for model in run["models"]}
        self._halved: dict[str, list[int]] = {}
        self._paths: dict[str, dict[str, list[ExecutionPath]]] = {}
        if folder is None:
            return
        check_folder(folder)
        if (folder / "run.json").is_file():
            self._continue(folder)
        else:
            write(folder / "run.json", to_json(run))

    @classmethod
    def open(cls, folder: Path) -> Store:
        """The store of an existing run.

        Raises:
            StoreError: If there is none.
        """
        return cls(folder, cls.read_run(folder))

    @staticmethod
    def read_run(folder: Path) -> dict[str, Any]:
        """The content of run.json in `folder`.

        Raises:
            StoreError: If there is none, or it is damaged or of another format.
        """
        path = folder / "run.json"
        if not path.is_file():
            raise StoreError(f"expected a run in '{folder}', got no run.json there; name a folder that a run wrote")
        run = read_json(path)
        if isinstance(run, dict) and run.get("format") == 3:
            return upgrade_run(run)
        if not isinstance(run, dict) or run.get("format") != FORMAT:
            raise StoreError(
                f"expected a run of format 3 or {FORMAT} in '{folder}', got another; use the version that wrote it"
            )
        return run

    def cell(self, model: str, label: str, position: int) -> Arrays | None:
        """The finished cell, or None."""
        key = (model, label, position)
        if key not in self.cells and self.folder is not None and (path := self._path(key)).is_file():
            self.cells[key] = unpack(path)
        return self.cells.get(key)

    def partial(self, model: str, label: str, position: int) -> Arrays | None:
        """What an interrupted cell had finished, or None."""
        path = self._path((model, label, position), ".partial.npz") if self.folder is not None else None
        return unpack(path) if path is not None and path.is_file() else None

    def examples(self, model: str, label: str, position: int) -> Arrays | None:
        """The examples that were kept of a finished cell: held [n], x [n, *] and logits [n, K]; None where none."""
        key = (model, label, position)
        if key not in self._examples and self.folder is not None:
            path = self._path(key, ".examples.npz")
            if path.is_file():
                self._examples[key] = unpack(path)
        return self._examples.get(key)

    def save_partial(self, model: str, label: str, position: int, arrays: Arrays) -> None:
        """Keeps the finished samples of a cell that is still running."""
        if self.folder is not None:
            write(self._path((model, label, position), ".partial.npz"), pack(arrays))

    def save_cell(
        self,
        model: str,
        label: str,
        position: int,
        arrays: Arrays,
        seconds: float,
        examples: Arrays | None = None,
    ) -> None:
        """Keeps a finished cell, and the examples of its first samples where there are any."""
        key = (model, label, position)
        self.cells[key] = arrays
        if examples is not None:
            self._examples[key] = examples
        self._time(model, f"{label}/{position}", seconds)
        if self.folder is not None:
            if examples is not None:
                write(self._path(key, ".examples.npz"), pack(examples))
            # The outcomes are written last: where they exist, the examples do, too.
            write(self._path(key), pack(arrays))
            self._path(key, ".partial.npz").unlink(missing_ok=True)

    def measurement(self, model: str, label: str) -> tuple[list[Record], list[Artifact]] | None:
        """What a finished measurement yielded, or None."""
        key = (model, label)
        if key not in self.measured and self.folder is not None:
            path = self._measure_path(key, ".json")
            if path.is_file():
                content = read_json(path)
                arrays = unpack(self._measure_path(key, ".npz"))
                old = "quantity" not in content["records"][0] if content["records"] else False
                plain = [upgrade_record(each) if old else each for each in content["records"]]
                records = [Record(**_floats(Record, each)) for each in plain]
                self.measured[key] = records, from_plain(content["artifacts"], arrays)
        return self.measured.get(key)

    def checkpoint(self, model: str, label: str, on_put: Callable[[str, float], object]) -> MeasurementCheckpoint:
        """The intermediate results of a measurement, to resume from and to add to; `on_put` is called at each."""
        path = None if self.folder is None else self._measure_path((model, label), ".partial.npz")
        return MeasurementCheckpoint(path, on_put=on_put)

    def save_measurement(
        self, model: str, label: str, records: list[Record], artifacts: list[Artifact], seconds: float
    ) -> None:
        """Keeps a finished measurement."""
        key = (model, label)
        self.measured[key] = records, artifacts
        self._time(model, label, seconds)
        if self.folder is not None:
            described, arrays = as_plain(artifacts)
            write(self._measure_path(key, ".npz"), pack(arrays))
            # The JSON file is written last: where it exists, the arrays do, too.
            records_plain = [dataclasses.asdict(record) for record in records]
            write(self._measure_path(key, ".json"), to_json({"records": records_plain, "artifacts": described}))
            self._measure_path(key, ".partial.npz").unlink(missing_ok=True)

    def probe_findings(self, model: str) -> list[Finding] | None:
        """What the probe found for a model, or None if it has not run."""
        if model not in self.findings and self.folder is not None:
            path = self.folder / "cells" / slug(model) / "findings.json"
            if path.is_file():
                self.findings[model] = [Finding(**_floats(Finding, each)) for each in read_json(path)]
        return self.findings.get(model)

    def save_findings(self, model: str, findings: list[Finding]) -> None:
        """Keeps what the probe found."""
        self.findings[model] = findings
        if self.folder is not None:
            path = self.folder / "cells" / slug(model) / "findings.json"
            write(path, to_json([dataclasses.asdict(finding) for finding in findings]))

    def execution_paths(self, model: str) -> dict[str, list[ExecutionPath]]:
        """What the searches of each task, or member of an ensemble, ran on."""
        if model not in self._paths:
            known = self.folder is not None and (path := self._searches(model)).is_file()
            plain: dict[str, list[Any]] = read_json(path) if known else {}
            self._paths[model] = {label: [_execution_path(each) for each in found] for label, found in plain.items()}
        return self._paths[model]

    def save_execution_path(self, model: str, label: str, path: ExecutionPath) -> None:
        """Keeps what a search ran on."""
        known = self.execution_paths(model).setdefault(label, [])
        if path not in known:
            known.append(path)
            if self.folder is not None:
                plain = {name: [each.plain() for each in paths] for name, paths in self.execution_paths(model).items()}
                write(self._searches(model), to_json(plain))

    def halved(self, model: str) -> list[int]:
        """The batch size after each time that memory ran out."""
        if model not in self._halved and self.folder is not None and (path := self._memory(model)).is_file():
            self._halved[model] = read_json(path)
        return self._halved.get(model, [])

    def save_halving(self, model: str, size: int) -> None:
        """Records a reduced batch size."""
        self._halved[model] = [*self.halved(model), size]
        if self.folder is not None:
            write(self._memory(model), to_json(self._halved[model]))

    def load_all(self) -> None:
        """Reads every result of the run's tasks into memory.

        Raises:
            InputError: If one is missing because the run is not finished.
        """
        for model in self.run["models"]:
            self.probe_findings(model)
            self.halved(model)
            further = [each["task"] for each in self.run["evidence_tasks"][model]]
            evidence = [{**task, "label": EVIDENCE + task["label"]} for task in further]
            swapped = [{"label": ANOTHER_CLASS, "kind": "attack", "strengths": []}] if evidence else []
            for task in (*self.run["tasks"], *evidence, *swapped):
                label = task["label"]
                if task["kind"] == "measurement":
                    found: list[object] = [self.measurement(model, label)]
                else:
                    found = [self.cell(model, label, k) for k in range(max(1, len(task["strengths"])))]
                if any(each is None for each in found):
                    raise InputError(
                        f"expected a finished run in '{self.folder}', got one without '{label}' on '{model}'; resume it"
                    )

    def read_timings(self) -> None:
        """Reads the seconds that every model's cells took."""
        for model in self.seconds:
            if self.folder is not None and (path := self._timings(model)).is_file():
                self.seconds[model] = read_json(path)

    def _time(self, model: str, name: str, seconds: float) -> None:
        self.seconds[model][name] = seconds
        if self.folder is not None:
            write(self._timings(model), to_json(self.seconds[model]))

    def _memory(self, model: str) -> Path:
        return self._folder() / "cells" / slug(model) / "memory.json"

    def _timings(self, model: str) -> Path:
        return self._folder() / "cells" / slug(model) / "timings.json"

    def _continue(self, folder: Path) -> None:
        held = self.read_run(folder)
        former = held.get("written_by_format")
        if former is not None and self.run.get("written_by_format") is None:
            raise StoreError(
                f"expected a run of this version in '{folder}', got one of format {former}, which can be read "
                f"(Report.load) but not resumed; choose another output folder"
            )
        if not is_same_run(held, self.run):
            raise StoreError(
                f"expected this run in '{folder}', got another run ({run_difference(held, self.run)}); "
                f"choose another output folder"
            )
        self.run = held
        self.read_timings()

    def _searches(self, model: str) -> Path:
        return self._folder() / "cells" / slug(model) / "searches.json"

    def _path(self, key: tuple[str, str, int], suffix: str = ".npz") -> Path:
        model, label, position = key
        return self._folder() / "cells" / slug(model) / slug(label) / f"{position}{suffix}"

    def _measure_path(self, key: tuple[str, str], suffix: str) -> Path:
        return self._folder() / "cells" / slug(key[0]) / slug(key[1]) / f"measure{suffix}"

    def _folder(self) -> Path:
        if self.folder is None:
            raise StoreError("expected an output folder, got a run in memory; pass out=")
        return self.folder


def stored_batch_size(folder: Path | None, *, measured: bool) -> int | None:
    """The batch size of the run that `folder` may hold, to go on with; None where there is none.

    Args:
        folder: Output folder, or None.
        measured: Whether a budget is named, for which the batch size is measured anew unless outcomes depend on it.

    Raises:
        StoreError: If the run's description is damaged or of another format.
    """
    if folder is None or not (folder / "run.json").is_file():
        return None
    run = Store.read_run(folder)
    size: int | None = run.get("chunk") if measured else run.get("batch_size")
    return size


def _execution_path(plain: Any) -> ExecutionPath:
    return ExecutionPath.from_format_3(plain) if isinstance(plain, str) else ExecutionPath(**plain)


def _floats(kind: type, plain: dict[str, Any]) -> dict[str, Any]:
    """Fields of a dataclass from JSON: where a float is expected, null stands for NaN and text for an infinity."""
    types = {each.name: each.type for each in dataclasses.fields(kind)}
    nan = {name: math.nan for name, value in plain.items() if value is None and types[name] == "float"}
    return (
        plain
        | nan
        | {name: float(value) for name, value in plain.items() if value in ("inf", "-inf") and types[name] == "float"}
    )
