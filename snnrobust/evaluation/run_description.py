"""The content of run.json: what is evaluated, with a fingerprint by which a run is recognised and resumed."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from snnrobust.common.batching import BatchSizer
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.evaluation.evidence_tasks import quoted
from snnrobust.evaluation.held_out import describe_fitting
from snnrobust.evaluation.plan import Plan
from snnrobust.plugin.protocols import Optimiser
from snnrobust.plugin.task import Task
from snnrobust.results.store import FORMAT
from snnrobust.spike_gradients.swap import batch_dependent
from snnrobust.wrapping.model import SpikingModel

#: Samples whose logits are part of a model's signature.
SIGNED = 8


def describe(plan: Plan) -> dict[str, Any]:
    """The content of run.json: what is evaluated, with a fingerprint of all that decides the outcomes."""
    settings, data, models = plan.settings, plan.data, plan.models
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
        "tasks": [task.settings() for task in plan.tasks],
        "seed": settings.seed,
        "mode": settings.mode,
        "evidence": settings.evidence,
        "examples": plan.examples,
        "scoring_draws": settings.scoring_draws,
        "sources": {name: each.fingerprint() for name, each in plan.sources.items() if name not in models},
        "evidence_tasks": {name: [each.settings() for each in found] for name, found in plan.evidence_tasks.items()},
        "skipped": plan.skipped,
        "rows": plan.evidence_rows.tolist() if any(plan.evidence_tasks.values()) else [],
        # Code that draws from global generators is seeded by the batch, and some estimators take statistics over it:
        # there the batch size decides too.
        "chunk": data.batch_size if _decided_by_batch(models, plan.tasks) else None,
        **describe_fitting(data, plan.tasks),
    }
    text = json.dumps(decisive, sort_keys=True, default=repr)
    return {
        **decisive,
        "fingerprint": hashlib.blake2b(text.encode(), digest_size=16).hexdigest(),
        "signature": {name: _signature(model, data) for name, model in models.items()},
        "batch_size": data.batch_size,
        "steps": _steps(data),
        **({"not_bisected": plan.not_bisected} if settings.mode == "bisect" else {}),
        "quoted": [task.label for task in quoted(plan.tasks)],
        "notes": list(settings.notes),
        "example_bytes": plan.example_bytes,
        # How the batch size was chosen, where memory was measured for it.
        "environment": {**_environment(next(iter(models.values())).device), "memory": plan.memory},
    }


def _signature(model: SpikingModel, data: EvaluationData) -> list[list[float]]:
    """Logits of a few samples: they differ between models of equal settings and weights (a threshold that is no buffer,
    two lambdas as read-outs). Compared with a tolerance, since float rounding depends on the number of threads."""

    @torch.no_grad()
    def logits(rows: Tensor) -> Tensor:
        sample = data.test.select(rows)
        return model.logits(sample.x, keys=sample.index, lengths=sample.lengths).double().cpu()

    rows = torch.arange(min(SIGNED, len(data.test)))
    return [row for _, found in BatchSizer(SIGNED).over(rows, logits) for row in found.tolist()]


def _steps(data: EvaluationData) -> dict[str, list[int]]:
    """Fewest and most entries of each split's axis 1, the steps of sequences, without padding."""
    found = {}
    for name, split in (("test", data.test), ("train", data.train), ("validation", data.validation)):
        if split is not None:
            lengths = torch.tensor([split.x.shape[1]]) if split.lengths is None else split.lengths
            found[name] = [int(lengths.min()), int(lengths.max())]
    return found


def _decided_by_batch(models: Mapping[str, SpikingModel], tasks: Sequence[Task]) -> bool:
    attacks = [pair for task in tasks for pair in task.attacks]
    foreign = any(not isinstance(each.plugin, Optimiser) for each, _ in attacks)
    coupled = any(batch_dependent(attack.gradient) for _, attack in attacks)
    return foreign or coupled or any(model.foreign_randomness for model in models.values())


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
