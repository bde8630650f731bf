"""Shared by the minimum-norm attacks: decisions, distances, bisection towards the original."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from snnrobust.errors import InputError
from snnrobust.plugin.task import Task
from snnrobust.threat_models.threat_model import Norm
from snnrobust.wrapping.decision import Correctness
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.optimisers.shared import per_sample

#: Inputs [N, *] -> whether the net gets each wrong, [N].
Decision = Callable[[Tensor], Tensor]


def wrong(logits: Tensor, y: Tensor) -> Tensor:
    """Whether logits [N, K] are wrong for labels y [N]: another class, or all zero. False at NaN or infinity."""
    return ~Correctness(logits, y).withstands


def length(delta: Tensor, norm: Norm) -> Tensor:
    """The norm of each change delta [N, *], [N]."""
    flat = delta.flatten(1)
    if norm == "linf":
        return flat.abs().amax(dim=1)
    return flat.abs().sum(dim=1) if norm == "l1" else flat.norm(dim=1)


def shorten(delta: Tensor, share: Tensor, norm: Norm) -> Tensor:
    """Changes [N, *] shortened to `share` [N] of their length: clipped under L-inf, else scaled."""
    share = per_sample(share, delta)
    if norm != "linf":
        return delta * share
    reach = per_sample(length(delta, norm), delta) * share
    return torch.minimum(torch.maximum(delta, -reach), reach)


def bisect_to_boundary(x: Tensor, x0: Tensor, broken: Tensor, norm: Norm, decide: Decision, bisections: int) -> Tensor:
    """Moves adversarial x [N, *] towards the originals x0 as far as bisection finds them still adversarial.

    The result is x or a point that `decide` has evaluated, closer by a factor of up to 2^bisections. Samples that are
    not `broken` [N] at x stay there, but are evaluated too: each sample costs `bisections` queries.
    """
    inner, outer = x.new_zeros(len(x)), x.new_ones(len(x))
    best = x
    for _ in range(bisections):
        middle = (inner + outer) / 2
        candidate = x0 + shorten(x - x0, middle, norm)
        fooled = decide(candidate) & broken
        best = torch.where(per_sample(fooled, x), candidate, best)
        inner, outer = torch.where(fooled, inner, middle), torch.where(fooled, middle, outer)
    return best


def check_inputs_and_norm(model: SpikingModel, task: Task, norms: tuple[Norm, ...]) -> None:
    """Raises an `InputError` unless inputs are real and the task's norm is one of `norms`."""
    if model.domain != "real":
        raise InputError(
            f"expected inputs of domain 'real' for '{task.label}', got '{model.domain}' of model '{model.name}'; "
            f"it moves along lines through the input space, use 'flips' or 'random-search'"
        )
    if task.attack is not None and task.attack.norm not in norms:
        raise InputError(
            f"expected norm in {list(norms)} for '{task.label}', got '{task.attack.norm}'; pass norm= one of these"
        )
