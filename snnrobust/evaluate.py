"""`evaluate` runs tasks on models and keeps every per-sample outcome."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from snnrobust.cells import Cells
from snnrobust.draws import Draws
from snnrobust.errors import InputError, InputTypeError
from snnrobust.evaluation_data import BATCH, EvaluationData, check_fit, prepare
from snnrobust.model import SpikingModel
from snnrobust.plugin import Optimiser
from snnrobust.probe import probe
from snnrobust.progress import Steps, shown
from snnrobust.report import Report
from snnrobust.results import Record
from snnrobust.spike_gradient import SpikeGradient
from snnrobust.store import FORMAT, Store
from snnrobust.task import Task, load
from snnrobust.threat import ThreatModel

Mode = Literal["nested", "exhaustive"]
Evidence = Literal["none", "basic"]

#: Fresh draws that a stochastic model is scored on.
SCORING_DRAWS = 50


def evaluate(
    model: SpikingModel | Mapping[str, SpikingModel],
    data: Any,
    tasks: Sequence[Task | str],
    *,
    seed: int = 0,
    evidence: Evidence = "basic",
    mode: Mode = "nested",
    batch_size: int | None = None,
    out: str | Path | None = None,
    progress: bool | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """Evaluates models on tasks. All inputs are checked before anything long starts.

    Args:
        model: A wrapped model, or several by name.
        data: (x, y), a Dataset, Splits, or {"test": ..., "train": ..., "validation": ...}. Curvature needs "train".
        tasks: From `load`, or plain names of tasks that need no strength. Clean accuracy is always measured.
        seed: Seed of all random numbers, which are keyed by sample.
        evidence: "basic": the model is probed and the outcomes judged. "none": numbers alone, verdict "doubtful".
        mode: "nested": a sample that broke at one radius is not attacked at larger ones, and leaves a search at its
            first success. "exhaustive": every sample is attacked at every radius with all steps, which also gives the
            last iterate.
        batch_size: Samples in flight at once; it changes speed and memory, not outcomes.
        out: Folder for results. A run that was stopped goes on where it stopped; a folder with another run is refused.
        progress: Whether to show progress; None: on a terminal.
        notes: Remarks for the report's page.

    Returns:
        The report.

    Raises:
        InputError, InputTypeError: For input that does not fit, before anything long starts.
        StoreError: If `out` holds something else.
        ViolationError: If an attack breaks its threat model; what was computed before is kept in `out`.

    Example:
        >>> import snnrobust as sr
        >>> from torch import nn
        >>> from spikingjelly.activation_based import neuron
        >>> net = nn.Sequential(nn.Linear(4, 3), neuron.LIFNode(step_mode="m"))
        >>> x, y = torch.rand(8, 4), torch.randint(3, (8,))
        >>> report = sr.evaluate(sr.wrap(net, steps=4), (x, y), [sr.load("fgsm", epsilon=[0.0, 0.1])])
        >>> report.curve("fgsm").value[0] == report.clean()["correct"].mean()
        np.True_
    """
    plan = make_plan(model, data, tasks, seed=seed, evidence=evidence, mode=mode, batch_size=batch_size, notes=notes)
    store = Store(Path(out) if out is not None else None, plan.run)
    plan.execute(store, progress=progress)
    return Report(store)


@dataclass(frozen=True)
class Plan:
    """A checked evaluation, ready to run.

    Attributes:
        models: By name.
        data: Checked data.
        tasks: Tasks, "clean" first.
        run: The content of run.json.
    """

    models: dict[str, SpikingModel]
    data: EvaluationData
    tasks: list[Task]
    run: dict[str, Any]

    def execute(self, store: Store, *, only: str | None = None, progress: bool | None = None) -> None:
        """Computes what `store` does not hold yet, for all models or for the one called `only`."""
        models = [each for name, each in self.models.items() if only in (None, name)]
        total = sum(max(1, len(task.strengths)) for task in self.tasks) * len(models)
        with shown(total, progress) as steps:
            for each in models:
                with each.session():
                    if self.run["evidence"] != "none" and store.probe_findings(each.name) is None:
                        steps.doing(f"{each.name}: probe")
                        store.save_findings(each.name, probe(each, self.data))
                    cells = Cells(
                        each,
                        self.data,
                        store,
                        seed=self.run["seed"],
                        mode=self.run["mode"],
                        scoring_draws=self.run["scoring_draws"],
                    )
                    for task in self.tasks:
                        _run_task(task, each, self.data, cells, store, steps, self.run["seed"])


def make_plan(
    model: SpikingModel | Mapping[str, SpikingModel],
    data: Any,
    tasks: Sequence[Task | str],
    *,
    seed: int = 0,
    evidence: str = "basic",
    mode: str = "nested",
    batch_size: int | None = None,
    notes: Sequence[str] = (),
) -> Plan:
    """Checks everything about an evaluation that can be checked beforehand; see `evaluate` for the arguments."""
    models = _models(model)
    listed = _tasks(tasks)
    for name, value, known in (("mode", mode, get_args(Mode)), ("evidence", evidence, get_args(Evidence))):
        if value not in known:
            raise InputError(f"expected {name} in {list(known)}, got {value!r}; name one of these")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise InputError(f"expected seed to be a whole number >= 0, got {seed!r}; give one")
    if batch_size is not None and (not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1):
        raise InputError(f"expected batch_size to be a whole number >= 1, got {batch_size!r}; leave it out for {BATCH}")
    prepared = prepare(data, batch_size or BATCH)
    for each in models.values():
        with each.session():
            check_fit(each, prepared)
            for task in listed:
                _check_task(task, each, prepared)
    run = describe(models, prepared, listed, seed=seed, mode=mode, evidence=evidence, notes=notes)
    return Plan(models, prepared, listed, run)


def describe(
    models: Mapping[str, SpikingModel],
    data: EvaluationData,
    tasks: Sequence[Task],
    *,
    seed: int,
    mode: str,
    evidence: str,
    notes: Sequence[str],
) -> dict[str, Any]:
    """The content of run.json: what is evaluated, with a fingerprint of all that decides the outcomes."""
    decisive = {
        "format": FORMAT,
        "models": {name: {**model.settings(), "fingerprint": model.fingerprint()} for name, model in models.items()},
        "data": {
            "name": data.test.name,
            "samples": len(data.test),
            "classes": int(data.test.y.max()) + 1,
            "training samples": len(data.train) if data.train is not None else 0,
            "fingerprint": data.fingerprint(),
        },
        "tasks": [task.settings() for task in tasks],
        "seed": seed,
        "mode": mode,
        "evidence": evidence,
        "scoring_draws": SCORING_DRAWS,
        # What draws from global generators is seeded by the batch, so there the batch size decides too.
        "chunk": data.batch_size if _seeded_by_batch(models, tasks) else None,
    }
    text = json.dumps(decisive, sort_keys=True, default=repr)
    return {
        **decisive,
        "fingerprint": hashlib.blake2b(text.encode(), digest_size=16).hexdigest(),
        "signature": {name: _signature(model, data) for name, model in models.items()},
        "batch_size": data.batch_size,
        "notes": list(notes),
        "environment": _environment(next(iter(models.values())).device),
    }


def _signature(model: SpikingModel, data: EvaluationData) -> list[list[float]]:
    """Logits of a few samples: they tell models apart whose settings and weights look alike (a threshold kept by hand,
    two lambdas as read-outs). Compared with a tolerance, since float rounding depends on the number of threads."""
    sample = data.test.take(min(8, len(data.test)))
    with torch.no_grad():
        return model.logits(sample.x, keys=sample.index, lengths=sample.lengths).double().cpu().tolist()


def _seeded_by_batch(models: Mapping[str, SpikingModel], tasks: Sequence[Task]) -> bool:
    foreign = any(task.kind == "attack" and not isinstance(task.plugin, Optimiser) for task in tasks)
    return foreign or any(model.foreign_randomness for model in models.values())


def _run_task(
    task: Task, model: SpikingModel, data: EvaluationData, cells: Cells, store: Store, steps: Steps, seed: int
) -> None:
    if task.kind == "measurement":
        steps.doing(f"{model.name}: {task.label}")
        if store.measurement(model.name, task.label) is None:
            start = time.perf_counter()
            found = list(task.plugin.measure(model, data, Draws(seed, task.label)))
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


def _check_task(task: Task, model: SpikingModel, data: EvaluationData) -> None:
    if task.attack is not None:
        SpikeGradient(model.net, task.attack.gradient)  # raises where there is nothing to swap
        for epsilon in task.strengths:
            threat = ThreatModel(task.attack.norm, epsilon, model.bounds, model.domain)
            if model.domain != "real" and 0 < epsilon < 1:
                raise InputError(
                    f"expected epsilon 0 or >= 1 for '{task.label}' in domain '{model.domain}', got {epsilon:g}; "
                    f"a radius below 1 allows no change ({threat.ball})"
                )
        if model.domain != "real" and task.attack.norm != "linf":
            raise InputError(
                f"expected norm 'linf' for '{task.label}' in domain '{model.domain}', got '{task.attack.norm}'; "
                f"gradient steps under other norms are cut to nothing there"
            )
    if (check := getattr(task.plugin, "check", None)) is not None:
        check(model, data, task)


def _environment(device: torch.device) -> dict[str, Any]:
    packages = {}
    for name in ("snnrobust", "torch", "spikingjelly", "numpy", "scipy", "torchattacks", "PyHessian"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "python": platform.python_version(),
        "packages": packages,
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "tf32": bool(torch.backends.cuda.matmul.allow_tf32),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
