"""A checked evaluation, ready to run: all input is looked at before anything long starts."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor

from snnrobust.acceleration.model import FIRST, ROWS
from snnrobust.common.batching import BatchSizer
from snnrobust.common.files import Arrays
from snnrobust.common.progress import Steps, shown
from snnrobust.common.random import Draws
from snnrobust.common.validate import check_count
from snnrobust.data.evaluation_data import BATCH, EvaluationData, prepare
from snnrobust.errors import InputError, InputTypeError
from snnrobust.evaluation.attack_cell import EXHAUSTIVE, NESTED, Effort
from snnrobust.evaluation.bisection import bisect, kept_nested, why_nested
from snnrobust.evaluation.cell_runner import Cells
from snnrobust.evaluation.compatibility import check_data_fits, incompatible_members
from snnrobust.evaluation.evidence_tasks import EvidenceTask, another_class, audited_rows
from snnrobust.evaluation.evidence_tasks import exhibits as gather
from snnrobust.evaluation.memory import check_budget, choose_batch_size
from snnrobust.evaluation.probe import SAMPLES, probe
from snnrobust.evaluation.run_description import SCORING_DRAWS, describe
from snnrobust.evaluation.run_measurement import run_measurement
from snnrobust.plugin.task import Task, load
from snnrobust.results.artifacts import Artifact
from snnrobust.results.checkpoint import MeasurementCheckpoint
from snnrobust.results.records import Finding, Record
from snnrobust.results.store import ANOTHER_CLASS, EVIDENCE, Store, held_batch_size
from snnrobust.search.scoring import Scorer
from snnrobust.wrapping.model import SpikingModel

Mode = Literal["nested", "exhaustive", "bisect"]
Evidence = Literal["none", "basic", "full"]


@dataclass(frozen=True)
class Plan:
    """A checked evaluation, ready to run.

    Attributes:
        models: By name.
        data: Checked data.
        tasks: Tasks, "clean" first.
        sources: All models by name, those that only lend their examples included.
        exhibits: What the audit of each model needs beside the tasks, by model.
        rows: Positions of the samples that the exhibits are run on.
        run: The content of run.json.
    """

    models: dict[str, SpikingModel]
    data: EvaluationData
    tasks: list[Task]
    sources: dict[str, SpikingModel]
    exhibits: dict[str, list[EvidenceTask]]
    rows: Tensor
    run: dict[str, Any]

    def execute(self, store: Store, *, only: str | None = None, progress: bool | None = None) -> None:
        """Computes what `store` does not hold yet, for all models or for the one called `only`."""
        models = [each for name, each in self.models.items() if only in (None, name)]
        total = sum(max(1, len(task.strengths)) for task in self.tasks) * len(models)
        total += sum(len(each.task.strengths) for model in models for each in self.exhibits[model.name])
        with shown(total, progress) as steps:
            for each in models:
                with ExitStack() as sessions:
                    for model in dict.fromkeys((each, *self.sources.values())):
                        sessions.enter_context(model.session())
                        few = self.data.test.take(min(ROWS, len(self.data.test)))
                        model.kept[FIRST] = few.x, few.index
                    self._execute(each, store, steps)

    def _execute(self, model: SpikingModel, store: Store, steps: Steps) -> None:
        if self.run["evidence"] != "none" and store.probe_findings(model.name) is None:
            steps.doing(f"{model.name}: probe")
            store.save_findings(model.name, _probed(model, self.data, store))
        size = min([self.data.batch_size, *store.halved(model.name)])
        pool = BatchSizer(size, partial(store.save_halving, model.name))
        effort = EXHAUSTIVE if self.run["mode"] == "exhaustive" else NESTED
        cells = self._cells(model, self.data, store, effort, pool)
        for task in self.tasks:
            if self.run["mode"] == "bisect" and why_nested(task, model, self._skipped(model)) is None:
                bisect(task, cells, steps, audit=self.run["evidence"] != "none")
            else:
                _run_task(task, model, self.data, cells, store, steps, self.run["seed"])
        clean = store.cell(model.name, "clean", 0)
        if not self.exhibits[model.name] or clean is None:
            return
        if store.cell(model.name, ANOTHER_CLASS, 0) is None:
            start = time.perf_counter()
            part, right = self.data.test.select(self.rows), clean["correct"][self.rows.numpy()]
            found = another_class(part, right, Scorer(model, self.run["seed"], SCORING_DRAWS), pool)
            store.save_cell(model.name, ANOTHER_CLASS, 0, found, time.perf_counter() - start)
        for exhibit in self.exhibits[model.name]:
            here = exhibit.rows(self.rows).numpy()
            known = {name: clean[name][here] for name in ("correct", "voted")}
            part_data = exhibit.part(self.data, self.rows)
            fewer = pool.at_most(part_data.batch_size)
            cells = self._cells(model, part_data, store, exhibit.effort, fewer, EVIDENCE, known)
            _run_task(exhibit.task, model, part_data, cells, store, steps, self.run["seed"])

    def _cells(
        self,
        model: SpikingModel,
        data: EvaluationData,
        store: Store,
        effort: Effort,
        pool: BatchSizer,
        prefix: str = "",
        clean: Arrays | None = None,
    ) -> Cells:
        return Cells(
            model,
            data,
            store,
            seed=self.run["seed"],
            effort=effort,
            scoring_draws=SCORING_DRAWS,
            sources=self.sources,
            prefix=prefix,
            pool=pool,
            clean=clean,
            skip=self._skipped(model),
        )

    def _skipped(self, model: SpikingModel) -> frozenset[str]:
        """Labels of members of ensembles that the model does not allow."""
        return frozenset(self.run["skipped"][model.name])


def make_plan(
    model: SpikingModel | Mapping[str, SpikingModel],
    data: Any,
    tasks: Sequence[Task | str],
    *,
    seed: int = 0,
    evidence: str = "basic",
    mode: str = "nested",
    batch_size: int | None = None,
    memory_budget: float | None = None,
    out: Path | None = None,
    processes: int = 1,
    notes: Sequence[str] = (),
    sources: Mapping[str, SpikingModel] | None = None,
) -> Plan:
    """Checks everything about an evaluation that can be checked beforehand; see `evaluate` for the arguments.

    Of the folder `out` the batch size of the run that it may hold is read; `processes` is how many share the memory.
    """
    models = _models(model)
    lenders = _models(sources) if sources else {}
    if shared := sorted(set(models) & set(lenders)):
        raise InputError(f"expected other names for sources than for models, got {shared} in both; rename them")
    everyone = {**models, **lenders}
    listed = _tasks(tasks)
    for name, value, known in (("mode", mode, get_args(Mode)), ("evidence", evidence, get_args(Evidence))):
        if value not in known:
            raise InputError(f"expected {name} in {list(known)}, got {value!r}; name one of these")
    check_count("seed", seed, 0, "give one")
    if batch_size is not None:
        check_count("batch_size", batch_size, 1, "leave it out")
    check_budget(memory_budget, batch_size)
    prepared = prepare(data, batch_size or BATCH)
    for each in everyone.values():
        with each.session():
            check_data_fits(each, prepared)
    memory: dict[str, object] | None = None
    if batch_size is None and not isinstance(data, EvaluationData):
        size = held_batch_size(out, measured=memory_budget is not None)
        if size is None:
            size, memory = choose_batch_size(everyone.values(), prepared.test, memory_budget, processes)
        prepared = replace(prepared, batch_size=size)
    skipped: dict[str, dict[str, str]] = {name: {} for name in models}
    for name, each in models.items():
        with each.session():
            for task in listed:
                skipped[name] |= incompatible_members(task, each, prepared, everyone)
    exhibits: dict[str, list[EvidenceTask]] = {name: [] for name in models}
    if evidence == "full":
        features = prepared.test.x[0].numel()
        for name, each in models.items():
            exhibits[name] = gather(listed, each, everyone, features)
            for exhibit in exhibits[name]:
                skipped[name] |= incompatible_members(exhibit.task, each, prepared, everyone)
    rows = audited_rows(prepared.test, seed)
    bisected = models if mode == "bisect" else {}
    unbisected = {name: kept_nested(listed, each, frozenset(skipped[name])) for name, each in bisected.items()}
    run = describe(
        models,
        prepared,
        listed,
        seed=seed,
        mode=mode,
        evidence=evidence,
        notes=notes,
        sources=everyone,
        exhibits=exhibits,
        rows=rows,
        skipped=skipped,
        kept_nested=unbisected,
        memory=memory,
    )
    return Plan(models, prepared, listed, everyone, exhibits, rows, run)


def _run_task(
    task: Task, model: SpikingModel, data: EvaluationData, cells: Cells, store: Store, steps: Steps, seed: int
) -> None:
    if task.kind == "measurement":
        steps.doing(f"{model.name}: {task.label}")
        if store.measurement(model.name, task.label) is None:
            start = time.perf_counter()

            def heard(what: str, share: float) -> None:
                steps.doing(f"{model.name}: {task.label}, {what} {share:.0%}")

            kept = store.kept(model.name, task.label, heard)
            found = _measured(task, model, data, cells.pool, seed, kept)
            records = [each for each in found if isinstance(each, Record)]
            surfaces = [
                replace(each, model=model.name, label=task.label) for each in found if not isinstance(each, Record)
            ]
            store.save_measurement(model.name, task.label, records, surfaces, time.perf_counter() - start)
        steps.advance()
        return
    for position in range(max(1, len(task.strengths))):
        strength = f" {task.unit} {task.strengths[position]:g}" if task.strengths else ""
        steps.doing(f"{model.name}: {task.label}{strength}")
        cells.run(task, position)
        steps.advance()


def _probed(model: SpikingModel, data: EvaluationData, store: Store) -> list[Finding]:
    """What the probe finds; it starts over on fewer samples where memory runs out."""
    pool = BatchSizer(min(SAMPLES, len(data.test)), partial(store.save_halving, model.name))
    found = None
    while found is None:
        found = pool.attempt(pool.size, probe, model, replace(data, test=data.test.take(pool.size)))
    return found


def _measured(
    task: Task, model: SpikingModel, data: EvaluationData, pool: BatchSizer, seed: int, kept: MeasurementCheckpoint
) -> list[Record | Artifact]:
    """What a measurement yields; it starts over with fewer samples at once where memory runs out."""

    def attempt(size: int) -> list[Record | Artifact]:
        return list(run_measurement(task.plugin, model, replace(data, batch_size=size), Draws(seed, task.label), kept))

    found = None
    while found is None:
        found = pool.attempt(pool.size, attempt, pool.size)
    return found


def _models(model: Any) -> dict[str, SpikingModel]:
    models = {model.name: model} if isinstance(model, SpikingModel) else model
    if not isinstance(models, Mapping) or not all(isinstance(each, SpikingModel) for each in models.values()):
        raise InputTypeError(
            f"expected a SpikingModel or a mapping of them, got {type(model).__name__}; wrap the net with sr.wrap first"
        )
    if not models:
        raise InputError("expected at least one model, got none; wrap a net with sr.wrap")
    renamed = {}
    for name, each in models.items():
        renamed[str(name)] = each.renamed(str(name))
    return renamed


def _tasks(tasks: Sequence[Task | str]) -> list[Task]:
    if isinstance(tasks, Task | str):
        tasks = [tasks]
    if not isinstance(tasks, Iterable):
        raise InputTypeError(f"expected a list of tasks, got {type(tasks).__name__}; use sr.load")
    listed = []
    for task in tasks:
        if not isinstance(task, Task | str):
            raise InputTypeError(f"expected tasks from sr.load or names, got {type(task).__name__}; use sr.load")
        listed.append(load(task) if isinstance(task, str) else task)
    if not any(task.kind == "clean" for task in listed):
        listed.insert(0, load("clean"))
    listed.sort(key=lambda task: task.kind != "clean")  # everything else builds on the clean outcome
    labels = [task.label for task in listed]
    if repeated := sorted({label for label in labels if labels.count(label) > 1}):
        raise InputError(f"expected each label once, got {repeated} repeatedly; pass label= to sr.load")
    return listed
