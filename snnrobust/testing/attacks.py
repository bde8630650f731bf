"""Checks of optimisers and perturbations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from snnrobust.common.batching import BatchSizer
from snnrobust.common.random import Draws
from snnrobust.data.dataset import Dataset
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.errors import InputError
from snnrobust.evaluation.compatibility import check_task
from snnrobust.objectives.logits import CrossEntropy
from snnrobust.plugin.protocols import Fitted, Optimiser
from snnrobust.plugin.task import AttackSettings, Task
from snnrobust.search.attack_context import AttackContext, SearchResult
from snnrobust.search.fitting import fit
from snnrobust.search.loop import perturb, search
from snnrobust.search.queries import ModelQueries
from snnrobust.search.scoring import Scorer
from snnrobust.spike_gradients.swap import Own
from snnrobust.testing.cases import cases
from snnrobust.testing.checks import check_promise, model_state, same_state
from snnrobust.threat_models.threat_model import Norm
from snnrobust.wrapping.model import SpikingModel

#: What is allowed, under norms of real inputs; of all others two changes or steps, one under L-inf.
REAL: dict[str, float] = {"linf": 0.3, "l2": 0.5, "l1": 1.0}


def check_attack(name: str, plugin: Any) -> None:
    """Allowed examples only, the model unchanged, and for optimisers equal examples for every batch size.

    Checked under each norm that the plugin names (L-inf where it names none), and on every kind of inputs that it
    accepts under one of them.
    """
    norms: tuple[Norm, ...] = getattr(plugin, "norms", ("linf",))
    accepted = [
        (case, norm)
        for case, (model, data) in enumerate(cases())
        for norm in norms
        if _accepts(name, plugin, model, data, norm)
    ]
    check_promise(name, bool(accepted), "an attack on images, sequences, frames or event lists", "none that it accepts")
    if not hasattr(plugin, "norms"):
        accepted = accepted[:1]
    seen: set[int | str] = set()
    for case, norm in accepted:
        if case not in seen or norm not in seen:
            seen |= {case, norm}
            _check_on(name, plugin, *cases()[case], norm)


def _accepts(name: str, plugin: Any, model: SpikingModel, data: Dataset, norm: Norm) -> bool:
    factors = AttackSettings(norm, CrossEntropy(), Own(), restarts=1, eot=1)
    task = Task(name, name, "attack", "", plugin, (_radius(model, norm),), factors)
    half = len(data) // 2
    splits = EvaluationData(data.take(half), data, data.select(range(half, len(data))), 4)
    try:
        check_task(task, model, splits, {})
    except InputError:
        return False
    return True


def _radius(model: SpikingModel, norm: Norm) -> float:
    if model.domain == "real" and norm in REAL:
        return REAL[norm]
    return 1.0 if norm in ("linf", "shift-linf") else 2.0


def _check_on(name: str, plugin: Any, model: SpikingModel, data: Dataset, norm: Norm) -> None:
    epsilon = _radius(model, norm)
    before = model_state(model)
    by_size = [_examples(name, plugin, model, data, norm, epsilon, size) for size in (len(data), 3)]
    check_promise(
        name, same_state(before, model_state(model)), "the model and torch's random state unchanged", "changed ones"
    )
    if isinstance(plugin, Optimiser):
        for other in by_size[1:]:
            same = bool((by_size[0] - other).abs().max() <= 1e-5)
            check_promise(
                name, same, "equal examples for every batch size", "different ones; key randomness by index, step by k"
            )
    nothing = _examples(name, plugin, model, data, norm, 0.0, len(data))
    check_promise(name, bool((nothing - data.x).abs().max() <= 1e-6), "unchanged inputs at epsilon 0", "changed ones")


def _examples(
    name: str, plugin: Any, model: SpikingModel, data: Dataset, norm: Norm, epsilon: float, size: int
) -> Tensor:
    """Last iterates [N, *] of an attack on all samples; raises if one is not allowed."""
    rng = Draws(0, name)
    queries = ModelQueries(model, CrossEntropy(), Own(), first_draw=rng.number())
    threat = model.threat_model(norm, epsilon)
    context = AttackContext(Scorer(model, 0, 1), queries, data, threat, rng, BatchSizer(size), False, name)
    examples = torch.full_like(data.x, torch.nan)

    def keep(found: SearchResult) -> None:
        examples[found.rows] = found.last_x

    with model.session():
        if isinstance(plugin, Optimiser):
            search(context, plugin, torch.arange(len(data)), keep)
        else:
            if isinstance(plugin, Fitted):
                context = replace(context, fitted=fit(context, plugin).state)
            perturb(context, plugin, torch.arange(len(data)), keep)
    return examples
