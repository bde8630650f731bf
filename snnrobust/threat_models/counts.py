"""Budgets that count changes of spikes and event counts: in all, per time step, additions and deletions apart."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from snnrobust.threat_models.balls import project_whole_l1
from snnrobust.threat_models.selection import largest_mask


def project_counts(
    x: Tensor, x0: Tensor, budgets: Mapping[str, float], bounds: tuple[float, float], *, whole: bool
) -> Tensor:
    """The input nearest to `x` [N, T, *] around `x0` [N, T, *] that keeps to all budgets.

    Nearest in Euclidean distance. Exact for each budget alone, but "events" of counts above 1; for binary entries also
    for any of "l0" (or "l1"), "additions", "deletions" and "events" together, and for "l0" with "l0-step". Every other
    combination is always allowed but need not be nearest: the parts are applied one after the other, each undoes
    changes only, and an undone change breaks no other part. Of changes that save the same, those of the first entries
    are kept.

    Args:
        x: Any input.
        x0: Originals.
        budgets: By norm, what is allowed: "linf", "l1", "l0", "l0-step", "additions", "deletions", "events".
        bounds: Least and greatest value of an entry.
        whole: Whether entries are whole numbers.

    Example:
        >>> x0 = torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])
        >>> x = torch.tensor([[[0.9, 0.8], [0.1, 0.2]]])
        >>> project_counts(x, x0, {"l0": 3, "deletions": 1}, (0.0, 1.0), whole=True)
        tensor([[[1., 1.],
                 [0., 1.]]])
    """
    low, high = bounds
    most = {name: math.floor(value + 1e-6) for name, value in budgets.items()}
    binary = whole and (low, high) == (0.0, 1.0)
    nearest = 1 - x0 if binary else (x.round() if whole else x).clamp(low, high)
    if "linf" in most:
        nearest = x0 + (nearest - x0).clamp(-most["linf"], most["linf"])
    if whole and not binary:
        nearest = _events_within(x, x0, nearest, most)
    # What a change saves: (x - x0)^2 - (x - nearest)^2, factored so that far points don't cancel.
    saved = (nearest - x0).double() * (2 * x.double() - nearest - x0)  # (N, T, *)
    open_ = nearest != x0
    if "l0-step" in most:
        steps = saved.flatten(0, 1).flatten(1)  # (N T, entries of a step)
        open_ &= largest_mask(steps, most["l0-step"]).reshape(x.shape)
    if binary:
        kept = _flips_within(saved.flatten(1), open_.flatten(1), (x0 == 0).flatten(1), most)
    else:
        worth = torch.where(open_, saved, 0.0).flatten(1)
        kept = (worth > 0) & largest_mask(worth, most.get("l0", worth.shape[1]))
    result = torch.where(kept.reshape(x.shape), nearest, x0)
    if "events" in most and not binary:
        result = _total_within(x, x0, result, most["events"])
    return result


def _flips_within(saved: Tensor, open_: Tensor, added: Tensor, most: Mapping[str, int]) -> Tensor:
    """Which flips [N, D] save most within the budgets: the best k additions and the best m deletions.

    What the best k additions save is concave in k, and so for deletions: for each k, the best m is the number of
    deletions that save anything, or the nearest number that is allowed. Where the total is limited, that may be more.

    Args:
        saved: What each flip saves; may be negative.
        open_: Which entries may flip.
        added: Which flips are additions.
        most: The budgets.
    """
    count = saved.shape[1]
    masks = [open_ & added, open_ & ~added]
    scores = [torch.where(mask, saved, -torch.inf) for mask in masks]
    gains = []
    for score in scores:
        ordered = score.sort(dim=1, descending=True).values.cumsum(dim=1)
        gains.append(torch.cat([torch.zeros_like(ordered[:, :1]), ordered], dim=1))  # (N, D + 1): of the best k
    room = [
        mask.sum(dim=1, keepdim=True).clamp_max(most.get(name, count))
        for mask, name in zip(masks, ("additions", "deletions"), strict=True)
    ]
    total, spread = min(most.get("l0", count), most.get("l1", count)), most.get("events", count)
    k = torch.arange(count + 1, device=saved.device)[None]  # (1, D + 1)
    least = (k - spread).clamp_min(0)
    greatest = torch.minimum(room[1], torch.minimum(total - k, k + spread))
    m = torch.minimum((scores[1] > 0).sum(dim=1, keepdim=True).maximum(least), greatest)
    fits = (k <= room[0]) & (m >= least)
    value = gains[0] + gains[1].gather(1, m.clamp_min(0))
    additions = torch.where(fits, value, -torch.inf).argmax(dim=1)  # (N,)
    deletions = m.gather(1, additions[:, None])[:, 0]
    return largest_mask(scores[0], additions) | largest_mask(scores[1], deletions)


def _events_within(x: Tensor, x0: Tensor, nearest: Tensor, most: Mapping[str, int]) -> Tensor:
    """`nearest` with additions, deletions and their sum within the budgets, each by the nearest whole change."""
    change, room = x - x0, nearest - x0
    none = torch.zeros_like(room)
    up, down = room.clamp_min(0), (-room).clamp_min(0)
    if "additions" in most:
        up = project_whole_l1(change.clamp_min(0), none, up, most["additions"])
    if "deletions" in most:
        down = project_whole_l1((-change).clamp_min(0), none, down, most["deletions"])
    if "l1" in most:
        both = project_whole_l1(change, -down, up, most["l1"])
        return x0 + both
    return x0 + up - down


def _total_within(x: Tensor, x0: Tensor, result: Tensor, spread: int) -> Tensor:
    """`result` with the total number of events within `spread` of the original's: the changes that save least of the
    sign that prevails are undone."""
    change = result - x0
    surplus = change.flatten(1).sum(dim=1)  # (N,)
    sign = surplus.sign().reshape(-1, *[1] * (x.ndim - 1))
    along = (change * sign).clamp_min(0)
    allowed = along.flatten(1).sum(dim=1) - (surplus.abs() - spread).clamp_min(0)
    fewer = project_whole_l1(((x - x0) * sign).clamp_min(0), torch.zeros_like(along), along, allowed.double())
    return torch.where((surplus.abs() > spread).reshape(sign.shape), result + (fewer - along) * sign, result)


def count_distance(x: Tensor, x0: Tensor, norm: str) -> Tensor:
    """The distance of x [N, *] from x0 [N, *] in a norm, [N], in float64."""
    change = (x.double() - x0.double()).flatten(1)
    if norm == "linf":
        return change.abs().amax(dim=1)
    if norm == "l2":
        return change.square().sum(dim=1).sqrt()
    if norm == "l1":
        return change.abs().sum(dim=1)
    if norm == "additions":
        return change.clamp_min(0).sum(dim=1)
    if norm == "deletions":
        return (-change).clamp_min(0).sum(dim=1)
    if norm == "events":
        return change.sum(dim=1).abs()
    changed = change != 0
    if norm == "l0-step":
        return changed.reshape(x.shape).flatten(2).sum(dim=2).amax(dim=1).double()
    return changed.sum(dim=1).double()
