"""Checks everything about an evaluation that can be checked before anything long starts."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from snnrobust.data.evaluation_data import BATCH, EvaluationData, prepare
from snnrobust.errors import InputError, InputTypeError
from snnrobust.evaluation.bisection import not_bisected
from snnrobust.evaluation.compatibility import check_data_fits, incompatible_members
from snnrobust.evaluation.evidence_tasks import EvidenceTask, audited_rows, evidence_tasks, full_range
from snnrobust.evaluation.memory import choose_batch_size
from snnrobust.evaluation.plan import Plan
from snnrobust.evaluation.settings import EvaluationSettings
from snnrobust.plugin.task import Task, load
from snnrobust.results.store import stored_batch_size
from snnrobust.wrapping.model import SpikingModel


def make_plan(
    model: SpikingModel | Mapping[str, SpikingModel],
    data: Any,
    tasks: Sequence[Task | str],
    settings: EvaluationSettings,
    *,
    sources: Mapping[str, SpikingModel] | None = None,
    out: Path | None = None,
) -> Plan:
    """A checked evaluation; see `snnrobust.evaluate` for the arguments.

    Of the folder `out` only the batch size of the run that it may hold is read.

    Raises:
        InputError, InputTypeError: For input that does not fit.
    """
    models = _models(model)
    extra_sources = _models(sources) if sources else {}
    if shared := sorted(set(models) & set(extra_sources)):
        raise InputError(f"expected other names for sources than for models, got {shared} in both; rename them")
    all_models = {**models, **extra_sources}
    listed = _tasks(tasks)
    prepared = prepare(data, settings.batch_size or BATCH)
    for each in all_models.values():
        with each.session():
            check_data_fits(each, prepared)
    memory: Mapping[str, object] | None = None
    if settings.batch_size is None and not isinstance(data, EvaluationData):
        size = stored_batch_size(out, measured=settings.memory_budget is not None)
        if size is None:
            size, memory = choose_batch_size(
                all_models.values(), prepared.test, settings.memory_budget, settings.processes
            )
        prepared = replace(prepared, batch_size=size)
    skipped: dict[str, dict[str, str]] = {name: {} for name in models}
    for name, each in models.items():
        with each.session():
            for task in listed:
                skipped[name] |= incompatible_members(task, each, prepared, all_models)
    evidence: dict[str, list[EvidenceTask]] = {name: [] for name in models}
    if settings.evidence == "full":
        features = prepared.test.x[0].numel()
        for name, each in models.items():
            evidence[name] = evidence_tasks(listed, each, all_models, features)
            for further in evidence[name]:
                skipped[name] |= incompatible_members(further.task, each, prepared, all_models)
    _warn_of_radii(listed, models, prepared.test.x[0].numel())
    bisected = models if settings.mode == "bisect" else {}
    return Plan(
        settings=settings,
        models=models,
        sources=all_models,
        data=prepared,
        tasks=listed,
        evidence_tasks=evidence,
        evidence_rows=audited_rows(prepared.test, settings.seed),
        skipped=skipped,
        not_bisected={name: not_bisected(listed, each, frozenset(skipped[name])) for name, each in bisected.items()},
        memory=memory,
    )


def _warn_of_radii(tasks: Iterable[Task], models: Mapping[str, SpikingModel], features: int) -> None:
    """A radius beyond the range of the inputs is a mistake: 8 where 8 / 255 was meant."""
    for task in tasks:
        for model in models.values() if task.kind == "attack" else ():
            norm, (low, high) = task.attacks[0][1].norm, model.bounds
            if norm in ("linf", "l2", "l1") and task.strengths[-1] > full_range(norm, (low, high), features):
                warnings.warn(
                    f"epsilon {task.strengths[-1]:g} of '{task.label}' allows every input of model '{model.name}' in "
                    f"[{low:g}, {high:g}] ({norm}); epsilon is in input units, e.g. 8 / 255 for 8 of 255 levels",
                    RuntimeWarning,
                    stacklevel=4,
                )


def _models(model: Any) -> dict[str, SpikingModel]:
    models = {model.name: model} if isinstance(model, SpikingModel) else model
    if not isinstance(models, Mapping) or not all(isinstance(each, SpikingModel) for each in models.values()):
        raise InputTypeError(
            f"expected a SpikingModel or a mapping of them, got {type(model).__name__}; wrap each net with sr.wrap"
        )
    if not models:
        raise InputError("expected at least one model, got none; wrap a net with sr.wrap")
    return {str(name): each.renamed(str(name)) for name, each in models.items()}


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
