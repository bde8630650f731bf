"""Runs a checked evaluation: for each model the probe, its tasks, and what the audit needs beside them."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, partial

from snnrobust.acceleration.model import MIN_BATCH
from snnrobust.common.batching import BatchSizer
from snnrobust.common.progress import Steps, progress_bar
from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.evaluation.bisection import bisect, why_not_bisected
from snnrobust.evaluation.cell_context import CellContext
from snnrobust.evaluation.cell_runner import CellRunner
from snnrobust.evaluation.earlier_outcomes import EarlierOutcomes
from snnrobust.evaluation.evidence_tasks import another_class
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
    total = sum(max(1, len(task.strengths)) for task in plan.tasks) * len(models)
    total += sum(len(each.task.strengths) for model in models for each in plan.evidence_tasks[model.name])
    with progress_bar(total, progress) as steps:
        if plan.examples:
            steps.note(
                f"keeping the examples of the first {plan.examples:,} samples: about "
                f"{plan.example_bytes / 2**20:,.1f} MiB before compression"
            )
        for each in models:
            with ExitStack() as sessions:
                for model in dict.fromkeys((each, *plan.sources.values())):
                    sessions.enter_context(model.session())
                _ModelRun(plan, each, store, steps).run()


class _ModelRun:
    """All that is computed of one model, in a session of it."""

    def __init__(self, plan: Plan, model: SpikingModel, store: Store, steps: Steps) -> None:
        self._plan = plan
        self._model = model
        self._store = store
        self._steps = steps

    def run(self) -> None:
        """The probe, the tasks, and the evidence for the audit."""
        plan, model, store = self._plan, self._model, self._store
        if plan.settings.evidence != "none" and store.probe_findings(model.name) is None:
            self._steps.doing(f"{model.name}: probe")
            store.save_findings(model.name, self._probed())
        cells = CellRunner(self._context)
        for task in plan.tasks:
            bisected = plan.settings.mode == "bisect" and why_not_bisected(task, model, self._context.skip) is None
            if bisected:
                bisect(task, cells, self._steps, audit=plan.settings.evidence != "none")
            elif task.kind == "measurement":
                self._measure(task)
            else:
                self._run_cells(task, cells)
        self._gather_evidence()

    @cached_property
    def _context(self) -> CellContext:
        """What all cells share; made after the probe, which may have reduced the batch size."""
        plan, model, store, test = self._plan, self._model, self._store, self._plan.data.test
        few = test.take(min(MIN_BATCH, len(test)))
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
        )

    def _run_cells(self, task: Task, cells: CellRunner) -> None:
        for position in range(max(1, len(task.strengths))):
            strength = f" {task.unit} {task.strengths[position]:g}" if task.strengths else ""
            self._steps.doing(f"{self._model.name}: {task.label}{strength}")
            cells.run(task, position)
            self._steps.advance()

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
            earlier = EarlierOutcomes(store, model.name, plan.tasks, here)
            part_context = replace(
                context,
                data=data.test,
                effort=evidence.effort,
                sizer=context.sizer.at_most(data.batch_size),
                prefix=EVIDENCE,
                clean={name: clean[name][here] for name in ("correct", "voted")},
                earlier=earlier if evidence.takes_over else None,
            )
            self._run_cells(evidence.task, CellRunner(part_context))

    def _measure(self, task: Task) -> None:
        model, store, steps = self._model, self._store, self._steps
        steps.doing(f"{model.name}: {task.label}")
        if store.measurement(model.name, task.label) is None:
            start = time.perf_counter()

            def report_progress(what: str, share: float) -> None:
                steps.doing(f"{model.name}: {task.label}, {what} {share:.0%}")

            found = self._measured(task, store.checkpoint(model.name, task.label, report_progress))
            records = [each for each in found if isinstance(each, Record)]
            artifacts = [
                replace(each, model=model.name, label=task.label) for each in found if not isinstance(each, Record)
            ]
            store.save_measurement(model.name, task.label, records, artifacts, time.perf_counter() - start)
        steps.advance()

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
