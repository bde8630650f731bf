"""Results on disk: every file is whole or absent, so a killed run can be resumed.

run.json                      what is evaluated: models, data, tasks, seed, mode, environment; with a checksum of it all
cells/MODEL/LABEL/K.npz       per-sample outcomes at the K-th strength of a task ("K.partial.npz" while it runs)
cells/MODEL/LABEL/K.examples.npz  adversarial examples of the first samples, where they are kept
cells/MODEL/LABEL/measure.*   records (.json) and artifacts (.json, .npz) of a measurement ("measure.partial.npz" while
                              one runs that can go on where it stopped)
cells/MODEL/findings.json     what the probe found
cells/MODEL/memory.json       batch sizes after memory ran out, where it did
cells/MODEL/timings.json      seconds a cell; apart, so that equal runs have equal result bytes
cells/MODEL/searches.json     what each search ran on
cells/MODEL/fittings.json     what each fitted perturbation was fitted on, and with how many passes

Any file may be damaged. The last four only describe: damaged ones are ignored with a warning. Any other one is
refused, with a cure that ends with a report: a file below cells/ can be deleted and is computed again by resuming, so a
file whose companion is gone counts as absent.

No file is written by two models, so that each may be evaluated by a process of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from snnrobust.common.files import Arrays, check_folder, exists, pack, read_json, reading, slug, to_json, unpack, write
from snnrobust.errors import InputError, StoreError
from snnrobust.results.artifacts import Artifact
from snnrobust.results.checkpoint import CURE, MeasurementCheckpoint
from snnrobust.results.descriptions import (
    parse_batch_sizes,
    parse_execution_paths,
    parse_seconds,
    read_description,
    write_description,
)
from snnrobust.results.execution_path import ExecutionPath
from snnrobust.results.fitting import Fitting, parse_fittings
from snnrobust.results.format_3 import upgrade_record, upgrade_run
from snnrobust.results.records import Finding, Record
from snnrobust.results.run_identity import is_same_run, run_checksum, run_difference
from snnrobust.results.serialise import array_names, as_plain, from_plain
from snnrobust.results.soundness import (
    check_cell,
    check_examples,
    check_partial,
    check_run,
    check_swap,
    examples_differ,
    from_fields,
)

FORMAT = 4
#: What goes before the labels of the audit's own attacks.
EVIDENCE = "evidence/"
#: The label of the audit's swap of each sample for one of another class.
ANOTHER_CLASS = EVIDENCE + "another class"
#: What to do about a damaged run.json: nothing else says what the cells are of.
_RUN_CURE = "it can't be repaired: start again in another output folder"


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
        self._fittings: dict[str, dict[str, Fitting]] = {}
        if folder is None:
            return
        check_folder(folder)
        if exists(folder / "run.json"):
            self._continue(folder)
        else:
            write(folder / "run.json", to_json({**run, "checksum": run_checksum(run)}))

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
        if not exists(path):
            raise StoreError(f"expected a run in '{folder}', got no run.json there; name a folder that a run wrote")
        run = read_json(path, _RUN_CURE)
        with reading(path, "the description of a run", _RUN_CURE):
            if not isinstance(run, dict) or not isinstance(run.get("format"), int):
                raise ValueError("no format")
            if run["format"] not in (3, FORMAT):
                raise StoreError(
                    f"expected a run of format 3 or {FORMAT} in '{path.absolute()}', got format {run['format']}; "
                    f"use the version that wrote it, or start again in another output folder"
                )
            former, checksum = run["format"] == 3, run.pop("checksum", None)
            run = upgrade_run(run) if former else run
            check_run(run)
            if not former and checksum != run_checksum(run):  # also of what is sound by itself, e.g. a shorter list
                raise ValueError("its entries don't fit its checksum")
        described: dict[str, Any] = run
        return described

    def cell(self, model: str, label: str, position: int) -> Arrays | None:
        """The finished cell, or None.

        Raises:
            StoreError: If its file is damaged.
        """
        key = (model, label, position)
        if key not in self.cells and self.folder is not None and exists(path := self._path(key)):
            if self._examples_of(label) and not exists(self._path(key, ".examples.npz")):
                return None  # a damaged file of examples was deleted: both are computed again
            arrays = unpack(path, CURE)
            with reading(path, f"outcomes of '{label}'", CURE):
                self._check_cell(key, arrays)
            self.cells[key] = arrays
        return self.cells.get(key)

    def partial(self, model: str, label: str, position: int) -> Arrays | None:
        """What an interrupted cell had finished, or None.

        Raises:
            StoreError: If its file is damaged.
        """
        if self.folder is None or not exists(path := self._path((model, label, position), ".partial.npz")):
            return None
        arrays, (task, count) = unpack(path, CURE), self._described(label, model)
        if task is not None:
            with reading(path, f"unfinished outcomes of '{label}'", CURE):
                check_partial(task, arrays, count, self._examples_of(label))
            if self._examples_of(label):
                kept = {name: arrays[f"example_{name}"] for name in ("x", "logits")}
                self._check_shapes(kept, path, model)
        return arrays

    def examples(self, model: str, label: str, position: int) -> Arrays | None:
        """The examples that were kept of a finished cell: held [n], x [n, *] and logits [n, K]; None where none.

        Raises:
            StoreError: If their file is damaged.
        """
        key = (model, label, position)
        if key not in self._examples and self.folder is not None:
            path = self._path(key, ".examples.npz")
            if exists(path):
                arrays = unpack(path, CURE)
                if count := self._examples_of(label):
                    with reading(path, f"examples of '{label}'", CURE):
                        check_examples(arrays, count, clean=label == "clean")
                    if label != "clean":
                        self._check_shapes(arrays, path, model)
                self._examples[key] = arrays
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
        """What a finished measurement yielded, or None.

        Raises:
            StoreError: If a file of it is damaged.
        """
        key = (model, label)
        if key not in self.measured and self.folder is not None:
            path, beside = self._measure_path(key, ".json"), self._measure_path(key, ".npz")
            if exists(path) and exists(beside):
                content, arrays = read_json(path, CURE), unpack(beside, CURE)
                with reading(path, f"records of '{label}'", CURE):
                    upgraded = self.run.get("written_by_format") is not None and content["records"]
                    old = bool(upgraded) and "quantity" not in content["records"][0]
                    plain = [upgrade_record(each) if old else each for each in content["records"]]
                    records, described = [from_fields(Record, each, old=old) for each in plain], content["artifacts"]
                    expected = array_names(described)
                with reading(beside, f"arrays of '{label}'", CURE):
                    if missing := [name for name in expected if name not in arrays]:
                        raise ValueError(f"no arrays {missing}")
                    self.measured[key] = records, from_plain(described, arrays)
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
        """What the probe found for a model, or None if it has not run.

        Raises:
            StoreError: If its file is damaged.
        """
        if model not in self.findings and self.folder is not None:
            path = self.folder / "cells" / slug(model) / "findings.json"
            if exists(path):
                content = read_json(path, CURE)
                with reading(path, "findings of the probe", CURE):
                    if not isinstance(content, list):
                        raise ValueError(f"{type(content).__name__} where a list should be")
                    if not content and self.run.get("evidence", "none") != "none":
                        raise ValueError("no findings")
                    self.findings[model] = [from_fields(Finding, each) for each in content]
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
            path = None if self.folder is None else self._searches(model)
            self._paths[model] = read_description(path, "what searches ran on", parse_execution_paths, {})
        return self._paths[model]

    def save_execution_path(self, model: str, label: str, path: ExecutionPath) -> None:
        """Keeps what a search ran on."""
        known = self.execution_paths(model).setdefault(label, [])
        if path not in known:
            known.append(path)
            if self.folder is not None:
                plain = {name: [each.plain() for each in paths] for name, paths in self.execution_paths(model).items()}
                write_description(self._searches(model), plain)

    def fittings(self, model: str) -> dict[str, Fitting]:
        """What each perturbation was fitted on, by the task's label, position of the radius, attack and restart."""
        if model not in self._fittings:
            path = None if self.folder is None else self._folder() / "cells" / slug(model) / "fittings.json"
            self._fittings[model] = read_description(path, "what attacks were fitted on", parse_fittings, {})
        return self._fittings[model]

    def save_fitting(self, model: str, label: str, position: int, attack: str, fitting: Fitting) -> None:
        """Keeps what a perturbation was fitted on."""
        self.fittings(model)[f"{label}/{position}/{attack}"] = fitting
        if self.folder is not None:
            plain = {name: dataclasses.asdict(each) for name, each in self.fittings(model).items()}
            write_description(self._folder() / "cells" / slug(model) / "fittings.json", plain)

    def halved(self, model: str) -> list[int]:
        """The batch size after each time that memory ran out."""
        if model not in self._halved and self.folder is not None and exists(path := self._memory(model)):
            self._halved[model] = read_description(path, "batch sizes", parse_batch_sizes, [])
        return self._halved.get(model, [])

    def save_halving(self, model: str, size: int) -> None:
        """Records a reduced batch size."""
        self._halved[model] = [*self.halved(model), size]
        if self.folder is not None:
            write_description(self._memory(model), self._halved[model])

    def load_all(self) -> None:
        """Reads every result of the run's tasks into memory.

        Raises:
            InputError: If one is missing because the run is not finished.
            StoreError: If a file is damaged.
        """
        for model in self.run["models"]:
            if self.probe_findings(model) is None and self.run.get("evidence", "none") != "none":
                raise InputError(
                    f"expected a finished run in '{self.folder}', got one without the probe of '{model}'; resume it"
                )
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
            if self.folder is not None and exists(path := self._timings(model)):
                self.seconds[model] = read_description(path, "seconds of cells", parse_seconds, {})

    def _time(self, model: str, name: str, seconds: float) -> None:
        self.seconds[model][name] = seconds
        if self.folder is not None:
            write_description(self._timings(model), self.seconds[model])

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

    def _check_shapes(self, arrays: Arrays, path: Path, model: str) -> None:
        """Checks that the examples of an attack, from the file at `path`, have the shapes of the originals."""
        originals = self.examples(model, "clean", 0)
        if originals is not None and (shapes := examples_differ(arrays, originals)):
            clean = self._path((model, "clean", 0), ".examples.npz")
            raise StoreError(
                f"expected examples and originals of one shape in '{path.absolute()}' and '{clean.absolute()}', got "
                f"{shapes}; delete both and resume (`--resume`, or the same out=)"
            )

    def _examples_of(self, label: str) -> int:
        """Of how many samples a task's cells keep examples."""
        kinds = {task["label"]: task["kind"] for task in self.run["tasks"]}
        kept = min(self.run.get("examples", 0), self.run.get("data", {}).get("samples", 0))
        return kept if kinds.get(label) in ("clean", "attack") else 0

    def _described(self, label: str, model: str) -> tuple[dict[str, Any] | None, int]:
        """The recorded settings of a task, or of one of the audit's own, and the number of its samples."""
        for task in self.run["tasks"]:
            if task["label"] == label:
                return task, self.run["data"]["samples"]
        for each in self.run["evidence_tasks"][model]:
            if EVIDENCE + each["task"]["label"] == label:
                return each["task"], min(each["samples"], len(self.run["rows"]))
        return None, len(self.run["rows"])

    def _check_cell(self, key: tuple[str, str, int], arrays: Arrays) -> None:
        model, label, _ = key
        task, count = self._described(label, model)
        if task is not None:
            bisected = self.run["mode"] == "bisect" and not label.startswith(EVIDENCE)
            bisected = bisected and label not in self.run["not_bisected"].get(model, {})
            check_cell(task, arrays, count, bisected=bisected)
        elif label == ANOTHER_CLASS:
            check_swap(arrays, count)

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
    if folder is None or not exists(folder / "run.json"):
        return None
    run = Store.read_run(folder)
    size: int | None = run.get("chunk") if measured else run.get("batch_size")
    return size
