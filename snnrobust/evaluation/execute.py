"""Runs a checked evaluation: for each model the probe, its tasks, and what the audit needs beside them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property, partial

import numpy as np

from snnrobust.acceleration.model import COMPARED
from snnrobust.common.batching import BatchSizer
from snnrobust.common.progress import Progress, progress_of
from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.evaluation.bisection import bisect, why_not_bisected
from snnrobust.evaluation.cell_context import CellContext
from snnrobust.evaluation.cell_runner import CellRunner
from snnrobust.evaluation.duration import LARGE, DurationEstimate, parts_of
from snnrobust.evaluation.earlier_outcomes import EarlierOutcomes
from snnrobust.evaluation.evidence_tasks import another_class
from snnrobust.evaluation.held_out import fitted_labels, held_out
from snnrobust.evaluation.plan import Plan
from snnrobust.evaluation.probe import SAMPLES, probe
from snnrobust.evaluation.run_measurement import run_measurement
from snnrobust.plugin.task import Task
from snnrobust.results.artifacts import Artifact
from snnrobust.results.checkpoint import MeasurementCheckpoint
from snnrobust.results.records import Finding, Record
from snnrobust.results.store import ANOTHER_CLASS, EVIDENCE, Store
from snnrobust.search.execution import CheckInputs
from snnrobust.search.scoring import Scorer
from snnrobust.wrapping.model import SpikingModel


def execute(plan: Plan, store: Store, *, only: str | None = None, progress: bool | None = None) -> None:
    """Computes what `store` does not hold yet, for all models or for the one called `only`."""
    models = [each for name, each in plan.models.items() if only in (None, name)]
    parts = parts_of(plan, store, only)
    with progress_of(len(parts), progress) as shown:
        if plan.examples:
            shown.note(
                f"keeping the examples of the first {plan.examples:,} samples: about "
                f"{plan.example_bytes / 2**20:,.1f} MiB before compression"
            )
        duration = DurationEstimate(parts, plan.data.batch_size)
        for each in models:
            with ExitStack() as sessions:
                for model in dict.fromkeys((each, *plan.sources.values())):
                    sessions.enter_context(model.session())
                _ModelRun(plan, each, store, shown, duration if shown.visible else None).run()


class _ModelRun:
    """All that is computed of one model, in a session of it."""

    def __init__(
        self, plan: Plan, model: SpikingModel, store: Store, progress: Progress, duration: DurationEstimate | None
    ) -> None:
        self._plan = plan
        self._model = model
        self._store = store
        self._progress = progress
        self._duration = duration

    def run(self) -> None:
        """The probe, the tasks, and the evidence for the audit."""
        plan, model, store = self._plan, self._model, self._store
        if plan.settings.evidence != "none" and store.probe_findings(model.name) is None:
            self._progress.doing(f"{model.name}: probe")
            store.save_findings(model.name, self._probed())
        cells = CellRunner(self._context)
        for task in plan.tasks:
            bisected = plan.settings.mode == "bisect" and why_not_bisected(task, model, self._context.skip) is None
            if task.kind == "measurement":
                self._measure(task)
            elif bisected:
                with self._timed(task, range(len(task.strengths))):
                    bisect(task, cells, self._progress, audit=plan.settings.evidence != "none")
            else:
                self._run_cells(task, cells)
            if task.kind == "clean":
                self._estimate_duration()
        self._gather_evidence()

    def _estimate_duration(self) -> None:
        plan, model = self._plan, self._model
        clean = self._store.cell(model.name, "clean", 0)
        if self._duration is not None and clean is not None:
            self._progress.doing(f"{model.name}: timing a few steps")
            few = plan.evidence_rows[:LARGE]
            right = clean["correct"][few.numpy()]
            self._duration.measure(self._context, plan.data.test.select(few), right)
            self._progress.estimate(self._duration.seconds_left)

    @contextmanager
    def _timed(self, task: Task, positions: Iterable[int], prefix: str = "") -> Iterator[None]:
        """The cells of a task at some of its strengths are being computed inside."""
        name, label, listed = self._model.name, prefix + task.label, list(positions)
        if self._duration is None:
            yield
            return
        self._duration.start(name, label, listed)
        yield
        cells = [self._store.cell(name, label, position) for position in listed]
        self._duration.finish([cell["correct"] if cell and "correct" in cell else np.zeros(0) for cell in cells])

    @cached_property
    def _context(self) -> CellContext:
        """What all cells share; made after the probe, which may have reduced the batch size."""
        plan, model, store, test = self._plan, self._model, self._store, self._plan.data.test
        few = test.take(min(COMPARED, len(test)))
        size = min([plan.data.batch_size, *store.halved(model.name)])
        return CellContext(
            model=model,
            data=test,
            settings=plan.settings,
            effort=plan.settings.effort,
            scorer=Scorer(model, plan.settings.seed, plan.settings.scoring_draws),
            sizer=BatchSizer(size, self._halved),
            store=store,
            sources=plan.sources,
            skip=frozenset(plan.skipped[model.name]),
            check_inputs=CheckInputs(few.x, few.index),
            progress=self._progress,
            held_out=held_out(plan.data, fitted[0]) if (fitted := fitted_labels(plan.tasks)) else None,
        )

    def _run_cells(self, task: Task, cells: CellRunner) -> None:
        for position in range(max(1, len(task.strengths))):
            strength = f" {task.unit} {task.strengths[position]:g}" if task.strengths else ""
            self._progress.doing(f"{self._model.name}: {cells.context.prefix}{task.label}{strength}")
            with self._timed(task, [position], cells.context.prefix):
                cells.run(task, position)
            self._progress.advance()

    def _gather_evidence(self) -> None:
        plan, model, store, context = self._plan, self._model, self._store, self._context
        clean = store.cell(model.name, "clean", 0)
        if not plan.evidence_tasks[model.name] or clean is None:
            return
        if store.cell(model.name, ANOTHER_CLASS, 0) is None:
            start = time.perf_counter()
            rows = plan.evidence_rows
            part, right = plan.data.test.select(rows), clean["correct"][rows.numpy()]
            found = another_class(part, right, context.scorer, context.sizer)
            store.save_cell(model.name, ANOTHER_CLASS, 0, found, time.perf_counter() - start)
        for evidence in plan.evidence_tasks[model.name]:
            here = evidence.rows(plan.evidence_rows).numpy()
            data = evidence.part(plan.data, plan.evidence_rows)
            earlier = EarlierOutcomes(store, model.name, plan.tasks, here) if evidence.takes_over else None
            part_context = replace(
                context,
                data=data.test,
                effort=evidence.effort,
                sizer=context.sizer.at_most(data.batch_size),
                prefix=EVIDENCE,
                clean={name: clean[name][here] for name in ("correct", "voted")},
                earlier=earlier,
            )
            self._run_cells(evidence.task, CellRunner(part_context))

    def _measure(self, task: Task) -> None:
        model, store, progress = self._model, self._store, self._progress
        progress.doing(f"{model.name}: {task.label}")
        if store.measurement(model.name, task.label) is None:
            start = time.perf_counter()

            def report_progress(what: str, share: float) -> None:
                progress.within(f"{what} {share:.0%}")

            found = self._measured(task, store.checkpoint(model.name, task.label, report_progress))
            records = [each for each in found if isinstance(each, Record)]
            artifacts = [
                replace(each, model=model.name, label=task.label) for each in found if not isinstance(each, Record)
            ]
            store.save_measurement(model.name, task.label, records, artifacts, time.perf_counter() - start)
        progress.advance()

    def _measured(self, task: Task, checkpoint: MeasurementCheckpoint) -> list[Record | Artifact]:
        """What a measurement yields; it starts over with fewer samples at once where memory runs out."""
        plan, sizer = self._plan, self._context.sizer
        rng = Draws(plan.settings.seed, task.label)

        def attempt(size: int) -> list[Record | Artifact]:
            data: EvaluationData = replace(plan.data, batch_size=size)
            return list(run_measurement(task.plugin, self._model, data, rng, checkpoint))

        found = None
        while found is None:
            found = sizer.attempt(sizer.size, attempt, sizer.size)
        return found

    def _probed(self) -> list[Finding]:
        """What the probe finds; it starts over on fewer samples where memory runs out."""
        data = self._plan.data
        sizer = BatchSizer(min(SAMPLES, len(data.test)), self._halved)
        found = None
        while found is None:
            found = sizer.attempt(sizer.size, probe, self._model, replace(data, test=data.test.take(sizer.size)))
        return found

    @property
    def _halved(self) -> partial[None]:
        return partial(self._store.save_halving, self._model.name)
