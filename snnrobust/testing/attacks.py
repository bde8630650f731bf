"""Checks of optimisers and perturbations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from snnrobust.common.batching import BatchSizer
from snnrobust.common.random import Draws
from snnrobust.data.dataset import Dataset
from snnrobust.objectives.logits import CrossEntropy
from snnrobust.plugin.protocols import Optimiser, Perturbation
from snnrobust.search.attack_context import AttackContext, SearchResult
from snnrobust.search.loop import perturb, search
from snnrobust.search.queries import ModelQueries
from snnrobust.search.scoring import Scorer
from snnrobust.spike_gradients.swap import Own
from snnrobust.testing.checks import accepted_model_and_data, check_promise, model_state, same_state
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust.wrapping.model import SpikingModel


def check_attack(name: str, plugin: Any) -> None:
    """Allowed examples only, the model unchanged, and for optimisers equal examples for every batch size."""
    model, data = accepted_model_and_data(name, plugin)
    epsilon = 1.0 if model.domain != "real" else 0.3
    before = model_state(model)
    by_size = [_examples(name, plugin, model, data, epsilon, size) for size in (len(data), 5, 1)]
    check_promise(
        name, same_state(before, model_state(model)), "the model and torch's random state unchanged", "changed ones"
    )
    if isinstance(plugin, Optimiser):
        for other in by_size[1:]:
            same = bool((by_size[0] - other).abs().max() <= 1e-5)
            check_promise(
                name, same, "equal examples for every batch size", "different ones; key randomness by index, step by k"
            )
    nothing = _examples(name, plugin, model, data, 0.0, len(data))
    check_promise(name, bool((nothing - data.x).abs().max() <= 1e-6), "unchanged inputs at epsilon 0", "changed ones")


def _examples(name: str, plugin: Any, model: SpikingModel, data: Dataset, epsilon: float, size: int) -> Tensor:
    """Last iterates [N, *] of an attack on all samples; raises if one is not allowed."""
    rng = Draws(0, name)
    queries = ModelQueries(model, CrossEntropy(), Own(), first_draw=rng.number())
    threat = ThreatModel("linf", epsilon, model.bounds, model.domain)
    context = AttackContext(Scorer(model, 0, 1), queries, data, threat, rng, BatchSizer(size), False, name)
    examples = torch.full_like(data.x, torch.nan)

    def keep(found: SearchResult) -> None:
        examples[found.rows] = found.last_x

    with model.session():
        if isinstance(plugin, Optimiser):
            search(context, plugin, torch.arange(len(data)), keep)
        elif isinstance(plugin, Perturbation):
            perturb(context, plugin, torch.arange(len(data)), keep)
    return examples
