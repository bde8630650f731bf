"""The timings of `bench.py`: one PGD step, and the robust accuracy curve of PGD-20 over six radii.

Contenders take turns in one process, each chunk in another order, so that load on the machine affects all alike: only
ratios are meaningful.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torchattacks
from bench_cold import BATCH
from bench_nets import ResetInForward, Setting
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

import snnrobust as sr
from snnrobust.data import Dataset
from snnrobust.data.batch import Batch
from snnrobust.evaluation.settings import EvidenceLevel, Mode
from snnrobust.objectives.logits import CrossEntropy
from snnrobust.search.queries import ModelQueries
from snnrobust.spike_gradients.swap import Own

T = TypeVar("T")
Seconds = Mapping[str, list[float]]

#: Most samples between two turns of a contender.
CHUNK = 250
THEIRS, OURS = "torchattacks", "nested, eager"
#: Mode and evidence of our contenders; `evidence` includes the audit.
MODES: dict[str, tuple[Mode, EvidenceLevel]] = {
    OURS: ("nested", "none"),
    "exhaustive": ("exhaustive", "none"),
    "nested": ("nested", "none"),
    "bisect": ("bisect", "none"),
    "bisect, audited": ("bisect", "basic"),
}


@dataclass(frozen=True)
class Ratio:
    """How many times faster than the baseline: the median over the turns, the smallest and the largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, baseline: list[float], seconds: list[float]) -> Ratio:
        """From the times of each turn."""
        each = [ours / other for ours, other in zip(baseline, seconds, strict=True)]
        return cls(statistics.median(each), min(each), max(each))


def take_turns(contenders: Mapping[str, Callable[[], T]], first: int = 0) -> dict[str, tuple[float, T]]:
    """Seconds and result of each contender, the `first` of them (modulo their number) first."""
    names = list(contenders)
    start = first % len(names)
    found = {}
    for name in names[start:] + names[:start]:
        began = time.perf_counter()
        result = contenders[name]()
        found[name] = time.perf_counter() - began, result
    return {name: found[name] for name in names}


def pgd_step(setting: Setting, net: nn.Module, data: Dataset, repetitions: int) -> dict[str, Any]:
    """Times one PGD step, and the memory of the tensors saved for the backward pass."""
    part = data.take(min(BATCH, len(data)))
    models = {name: setting.wrap(net, accelerate=name == "accelerated") for name in ("eager", "accelerated")}
    contenders = {name: _step(part, ask) for name, ask in _gradients(setting, net, models, part).items()}
    with models["eager"].session(), models["accelerated"].session():  # as within an evaluation
        take_turns(contenders)  # builds the accelerated model, fills caches
        turns = [take_turns(contenders, first) for first in range(repetitions)]
        kept = {name: saved_mib(ask) for name, ask in contenders.items()}
    seconds = {name: [turn[name][0] for turn in turns] for name in contenders}
    baseline = seconds["SpikingJelly"]
    return {
        "setting": setting.name,
        "about": setting.about,
        "batch": len(part),
        "seconds": seconds,
        "ratio": {name: vars(Ratio.of(baseline, each)) for name, each in seconds.items()},
        "saved_mib": kept,
    }


def saved_mib(work: Callable[[], object]) -> float:
    """MiB of the distinct tensors that autograd saves in `work`."""
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        work()
    return sum(sizes.values()) / 2**20


def curves(setting: Setting, net: nn.Module, data: Dataset, steps: int) -> dict[str, Any]:
    """Times the curve of PGD over the radii, chunk by chunk, and compares the results sample by sample."""
    size = min(CHUNK, max(8, -(-len(data) // 2)))
    chunks = [data.select(torch.arange(at, min(at + size, len(data)))) for at in range(0, len(data), size)]
    _curve(setting, net, "nested", chunks[0].take(1), steps)  # the kernel is loaded
    turns = []
    for number, chunk in enumerate(chunks):
        contenders = {
            name: lambda name=name, chunk=chunk: _curve(setting, net, name, chunk, steps) for name in (THEIRS, *MODES)
        }
        turns.append(take_turns(contenders, number))
    seconds = {name: [turn[name][0] for turn in turns] for name in turns[0]}
    robust = {
        name: np.concatenate([turn[name][1].robust for turn in turns], axis=1) for name in turns[0]
    }  # [strength, sample]
    shares = {name: each.mean(axis=1).tolist() for name, each in robust.items()}
    ours = [name for name in robust if name != THEIRS]
    broken = ~np.logical_and.accumulate(robust[THEIRS], axis=0)  # a smaller radius is inside a larger one
    return {
        "setting": setting.name,
        "about": setting.about,
        "samples": len(data),
        "chunk": size,
        "steps": steps,
        "epsilons": list(setting.epsilons),
        "seconds": seconds,
        "ratio": {name: vars(Ratio.of(seconds[THEIRS], each)) for name, each in seconds.items()},
        "passes": {name: sum(turn[name][1].passes for turn in turns) for name in robust},
        "disagreements": {name: sum(turn[name][1].disagreements for turn in turns) for name in ours},
        "robust": shares,
        "pairs": robust["nested"].size,
        "above_torchattacks": {
            name: sum(mine > other for mine, other in zip(shares[name], shares[THEIRS], strict=True)) for name in ours
        },
        "missed": {name: int((robust[name] & broken).sum()) for name in ours},
        "pairs_off": {
            "exhaustive": int((robust["nested"] != robust["exhaustive"]).sum()),
            "bisect": int((robust["nested"] != robust["bisect"]).sum()),
            "eager": int((robust["nested"] != robust[OURS]).sum()),
        },
    }


@dataclass(frozen=True)
class Outcome:
    """The result of a contender: robust samples at each radius, [strength, sample], and the passes it took."""

    robust: np.ndarray
    passes: int
    disagreements: int = 0


def _curve(setting: Setting, net: nn.Module, name: str, data: Dataset, steps: int) -> Outcome:
    if name == THEIRS:
        return _theirs(setting, net, data, steps)
    task = sr.load("pgd", epsilon=list(setting.epsilons), steps=steps, random_start=False)
    mode, evidence = MODES[name]
    model = setting.wrap(net, accelerate=name != OURS)
    report = sr.evaluate(model, data, [task], mode=mode, evidence=evidence, progress=False)
    cells = [report.cell(setting.name, "pgd", k) for k in range(len(setting.epsilons))]
    passes = sum(int(cell["forwards"].sum() + cell["backwards"].sum()) for cell in cells)
    return Outcome(report.robust("pgd"), passes, sum(int(cell["disagreements"].sum()) for cell in cells))


def _theirs(setting: Setting, net: nn.Module, data: Dataset, steps: int) -> Outcome:
    """torchattacks' PGD at each radius, with our step size and start, scored on its last iterate."""
    module, robust = ResetInForward(net, setting), []
    for epsilon in setting.epsilons:
        attack = torchattacks.PGD(module, eps=epsilon, alpha=2.5 * epsilon / steps, steps=steps, random_start=False)
        right = []
        for x, y in zip(torch.split(data.x, BATCH), torch.split(data.y, BATCH), strict=True):
            with torch.enable_grad():
                adversarial = attack(x, y)
            with torch.no_grad():
                right.append(module(adversarial).argmax(1) == y)
        robust.append(torch.cat(right).numpy())
    return Outcome(np.stack(robust), len(data) * len(setting.epsilons) * (2 * steps + 1))


def _gradients(
    setting: Setting, net: nn.Module, models: Mapping[str, sr.SpikingModel], data: Dataset
) -> dict[str, Callable[[Tensor], Tensor]]:
    """The gradient of the loss to the input, as each contender computes it."""
    theirs = ResetInForward(net, setting)

    def spikingjelly(x: Tensor) -> Tensor:
        at = x.clone().requires_grad_()
        return torch.autograd.grad(functional.cross_entropy(theirs(at), data.y), at)[0]

    def frozen(x: Tensor) -> Tensor:
        net.requires_grad_(False)
        try:
            return spikingjelly(x)
        finally:
            net.requires_grad_(True)

    all_queries = {name: ModelQueries(model, CrossEntropy(), Own()) for name, model in models.items()}
    ours = {
        name: lambda x, queries=queries: queries.gradient(Batch(x, data.y, data.index))[0]
        for name, queries in all_queries.items()
    }
    return {"SpikingJelly": spikingjelly, "SpikingJelly, frozen weights": frozen, **ours}


def _step(data: Dataset, gradient: Callable[[Tensor], Tensor], epsilon: float = 0.1) -> Callable[[], Tensor]:
    """One projected step from the data."""

    def step() -> Tensor:
        moved = data.x + 0.25 * epsilon * gradient(data.x).sign()
        return torch.minimum(torch.maximum(moved, data.x - epsilon), data.x + epsilon).clamp(0, 1)

    return step


def cold(setting: Setting, weights: Path, quick: bool) -> dict[str, Any]:
    """Seconds of a first step in new processes: with the kernel to build, and with the kernel in the cache."""
    script = Path(__file__).with_name("bench_cold.py")
    command = [sys.executable, str(script), setting.name, str(weights), *(["--quick"] if quick else [])]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o700)
        environment = os.environ | {"XDG_CACHE_HOME": folder}
        first, second = (
            json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)
            for _ in range(2)
        )
    return {"setting": setting.name, "batch": BATCH, "empty_cache": first, "filled_cache": second}
