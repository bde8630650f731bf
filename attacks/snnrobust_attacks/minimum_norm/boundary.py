"""What attacks that look for the closest adversarial example have in common: decisions, distances, lines to the
boundary."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from snnrobust.errors import InputError
from snnrobust.plugin.task import Task
from snnrobust.threat_models.threat_model import Norm
from snnrobust.wrapping.model import SpikingModel

#: Inputs [N, *] -> whether the net gets each wrong, [N].
Decision = Callable[[Tensor], Tensor]


def wrong(logits: Tensor, y: Tensor) -> Tensor:
    """Whether logits [N, K] are wrong for labels y [N]: another class, or all outputs silent. NaN never is."""
    silent = (logits == 0).all(dim=1)
    return ((logits.argmax(dim=1) != y) | silent) & torch.isfinite(logits).all(dim=1)


def length(delta: Tensor, norm: Norm) -> Tensor:
    """The norm of each change delta [N, *], [N]."""
    flat = delta.flatten(1)
    if norm == "linf":
        return flat.abs().amax(dim=1)
    return flat.abs().sum(dim=1) if norm == "l1" else flat.norm(dim=1)


def like(value: Tensor, x: Tensor) -> Tensor:
    """One value per sample [N] in a shape that goes with x [N, *]."""
    return value.reshape(-1, *[1] * (x.ndim - 1))


def shorten(delta: Tensor, share: Tensor, norm: Norm) -> Tensor:
    """Changes [N, *] of `share` [N] of their length: cut off at that height under L-inf, else along the line."""
    share = like(share, delta)
    if norm != "linf":
        return delta * share
    reach = like(length(delta, norm), delta) * share
    return torch.minimum(torch.maximum(delta, -reach), reach)


def pull_in(x: Tensor, x0: Tensor, broken: Tensor, norm: Norm, decide: Decision, halvings: int) -> Tensor:
    """Moves adversarial x [N, *] towards the originals x0 as far as bisection finds them still adversarial.

    The result is a point that `decide` was asked about, closer than x by up to 2^halvings. Samples that are not
    `broken` [N] at x stay there, and are asked about all the same, so that each sample costs `halvings` queries.
    """
    inner, outer = x.new_zeros(len(x)), x.new_ones(len(x))
    best = x
    for _ in range(halvings):
        middle = (inner + outer) / 2
        candidate = x0 + shorten(x - x0, middle, norm)
        fooled = decide(candidate) & broken
        best = torch.where(like(fooled, x), candidate, best)
        inner, outer = torch.where(fooled, inner, middle), torch.where(fooled, middle, outer)
    return best


def require(model: SpikingModel, task: Task, norms: tuple[Norm, ...]) -> None:
    """Raises an `InputError` unless inputs are real and the task's norm is one of `norms`."""
    if model.domain != "real":
        raise InputError(
            f"expected inputs of domain 'real' for '{task.name}', got '{model.domain}' of model '{model.name}'; "
            f"it moves along lines through the input space, use 'flips' or 'random-search'"
        )
    if task.attack is not None and task.attack.norm not in norms:
        raise InputError(
            f"expected norm in {list(norms)} for '{task.name}', got '{task.attack.norm}'; pass one of these"
        )
