"""Shared by several optimisers: checks of norms, the sparse step of L1, the checkpoints of step-size schedules."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile

import torch
from torch import Tensor

from snnrobust.errors import InputError
from snnrobust.plugin import State
from snnrobust.plugin.task import Task
from snnrobust.threat_models.threat_model import ThreatModel


def check_norm(task: Task, *norms: str) -> None:
    """Raises an `InputError` if the task's norm is not among `norms`."""
    if task.attack is not None and task.attack.norm not in norms:
        raise InputError(
            f"expected norm in {list(norms)} for '{task.label}', got '{task.attack.norm}'; "
            f"use one of these, or an optimiser that is defined for '{task.attack.norm}'"
        )


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """A number per sample, [N], in a shape that broadcasts with `like` [N, *]."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def at_least_one_event(size: Tensor, threat: ThreatModel) -> Tensor:
    """The step size, at least one event where entries are whole numbers: less would change nothing."""
    return size if threat.domain == "real" else size.clamp_min(1)


def from_original(x0: Tensor) -> State:
    """The state of a search that keeps its best iterate and that iterate's gradient, before its first evaluation."""
    none = torch.full((len(x0),), -torch.inf, dtype=x0.dtype, device=x0.device)
    return {"x": x0.clone(), "best": x0.clone(), "gradient": torch.zeros_like(x0), "loss": none}


def project_by_priority(
    x: Tensor, x0: Tensor, kept: Tensor, target: Tensor, priority: Tensor, among: Tensor, threat: ThreatModel
) -> Tensor:
    """The changes `kept` of x, and as many changes to `target` as the budgets allow, by falling priority.

    The projection keeps the changes that go furthest, so each one is written as a value beyond its own: by .45 for
    those that are kept, by .4 of its priority for others. It rounds them away.

    Args:
        x: Whole numbers, [N, *].
        x0: Originals, [N, *].
        kept: Which entries keep their value, [N, *].
        target: The other values, [N, *].
        priority: In [0, 1], [N, *].
        among: Which entries may change to their target, [N, *].
        threat: A threat model that counts changes.
    """
    held = x + 0.45 * (x - x0).sign()
    new = target + 0.4 * priority * (target - x0).sign()
    return threat.project(torch.where(kept, held, torch.where(among, new, x0)), x0)


def counts_limits(threat: ThreatModel) -> bool:
    """Whether a threat model counts changes otherwise than in all: per step, additions and deletions apart."""
    return bool(threat.limits) or threat.norm in ("l0-step", "additions", "deletions", "events")


def checkpoints(steps: int) -> list[int]:
    """The steps after which APGD and SA-PGD check their step size (Croce & Hein 2020, section 3.1).

    ceil(p_j steps) with p_0 = 0, p_1 = .22 and p_{j+1} = p_j + max(p_j - p_{j-1} - .03, .06). Counted in hundredths:
    in floats, ceil(.41 * 100) depends on how .22 + .19 was rounded.

    Example:
        >>> checkpoints(100)
        [22, 41, 57, 70, 80, 87, 93, 99]
    """

    def hundredths() -> Iterator[int]:
        at, gap = 22, 22
        while True:
            yield at
            gap = max(gap - 3, 6)
            at += gap

    exact = takewhile(lambda p: p <= 100, hundredths())
    return sorted({-(-p * steps // 100) for p in exact})  # with few steps several coincide


def sparse_step(gradient: Tensor, x: Tensor, threat: ThreatModel, length: Tensor, count: Tensor) -> Tensor:
    """A step [N, *] of L1 length `length` [N] along the signs of the `count` [N] largest entries of g [N, *].

    The steepest direction of the L1 norm is a single entry, which would need one step per pixel (Tramer & Boneh 2019,
    arXiv 1904.13000). Each entry gets length / count, but no more than leads to its bound; what is then left goes to
    the next largest. Without that, an entry that each projection moves slightly off its bound, and each step moves
    back, would use up all steps.
    """
    g, at = gradient.flatten(1), x.flatten(1)
    low, high = threat.bounds
    room = torch.where(g > 0, high - at, at - low).clamp_min(0).masked_fill(g == 0, 0)
    order = g.abs().argsort(dim=1, descending=True, stable=True)
    length = length[:, None].to(g)
    most = length / count.clamp(1, g.shape[1])[:, None]
    wanted = room.minimum(most).gather(1, order)
    left = length - (wanted.cumsum(dim=1) - wanted)
    taken = torch.where(left > 1e-5 * length, wanted.minimum(left), 0.0)  # a smaller rest is float rounding
    return (g.sign() * torch.zeros_like(g).scatter_(1, order, taken)).reshape(gradient.shape)
