"""What an optimiser or a perturbation promises."""

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
from snnrobust.search.oracle import Oracle
from snnrobust.search.scoring import Scorer
from snnrobust.spike_gradients.swap import Own
from snnrobust.testing.setting import equal, require, setting, state_of
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust.wrapping.model import SpikingModel


def check_attack(name: str, plugin: Any) -> None:
    """Allowed examples only, the model left alone, and for optimisers equal examples for every batch size."""
    model, data = setting(name, plugin)
    epsilon = 1.0 if model.domain != "real" else 0.3
    before = state_of(model)
    pools = [_examples(name, plugin, model, data, epsilon, pool) for pool in (len(data), 5, 1)]
    require(name, equal(before, state_of(model)), "the model and torch's random state left alone", "changed ones")
    if isinstance(plugin, Optimiser):
        for other in pools[1:]:
            same = bool((pools[0] - other).abs().max() <= 1e-5)
            require(
                name, same, "equal examples for every batch size", "different ones; key randomness by index, step by k"
            )
    nothing = _examples(name, plugin, model, data, 0.0, len(data))
    require(name, bool((nothing - data.x).abs().max() <= 1e-6), "unchanged inputs at epsilon 0", "changed ones")


def _examples(name: str, plugin: Any, model: SpikingModel, data: Dataset, epsilon: float, pool: int) -> Tensor:
    """Last iterates [N, *] of an attack on all samples; raises if one is not allowed."""
    rng = Draws(0, name)
    oracle = Oracle(model, CrossEntropy(), Own(), 1, rng.number(), None)
    threat = ThreatModel("linf", epsilon, model.bounds, model.domain)
    problem = AttackContext(Scorer(model, 0, 1), oracle, data, threat, rng, BatchSizer(pool), False, name)
    examples = torch.full_like(data.x, torch.nan)

    def keep(found: SearchResult) -> None:
        examples[found.rows] = found.last_x

    with model.session():
        if isinstance(plugin, Optimiser):
            search(problem, plugin, torch.arange(len(data)), keep)
        elif isinstance(plugin, Perturbation):
            perturb(problem, plugin, torch.arange(len(data)), keep)
    return examples
