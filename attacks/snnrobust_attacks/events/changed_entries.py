"""Shared by attacks on sets of changed entries: what an entry changes to, candidates measured one by one, reduction."""

from __future__ import annotations

import torch
from torch import Tensor

from snnrobust.errors import InputError
from snnrobust.objectives.logits import margin
from snnrobust.plugin.protocols import Queries
from snnrobust.plugin.task import Task
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.minimum_norm.shared import wrong
from snnrobust_attacks.optimisers.shared import per_sample

#: Changed inputs of one sample that are measured in one query.
AT_ONCE = 256
#: First query number of the reduction; larger than that of any step before it.
REDUCTION = 2**24


def check_whole_numbers(model: SpikingModel, task: Task) -> None:
    """Raises an `InputError` unless inputs are spikes or event counts and the task's norm counts changed entries."""
    norm = "l0" if task.attack is None else task.attack.norm
    known = {"integer": ("l0",), "binary": ("l0", "l1", "linf")}.get(model.domain)
    if known is None:
        raise InputError(
            f"expected inputs of domain 'binary' or 'integer' for '{task.label}', got '{model.domain}' of model "
            f"'{model.name}'; wrap spikes with domain='binary', or use 'flips'"
        )
    if norm not in known:
        raise InputError(
            f"expected norm in {list(known)} for '{task.label}' in domain '{model.domain}', got '{norm}'; "
            f"it searches sets of changed entries"
        )


def most_changes(threat: ThreatModel, count: int) -> int:
    """How many of `count` entries may change; under L-inf, an epsilon of 1 lets every spike flip."""
    if threat.norm == "linf":
        return count if threat.whole >= 1 else 0
    return min(threat.whole, count)


def allowed(x: Tensor, x0: Tensor, threat: ThreatModel) -> Tensor:
    """Which of the inputs x [N, *] the threat model allows around x0 [N, *], [N]."""
    return (threat.project(x, x0) == x).flatten(1).all(dim=1)


def target(x: Tensor, gradient: Tensor, threat: ThreatModel) -> Tensor:
    """What each entry of x [N, *] changes to: the bound that the gradient points to; for spikes, the flip.

    The other bound where the entry is there already, the further one where the gradient is zero. Without an upper
    bound, one more.
    """
    low, high = threat.bounds
    top = high if high < float("inf") else x + 1
    up = gradient > 0
    zero = gradient == 0
    if bool(zero.any()):
        up |= zero & (top - x >= x - low)
    up |= x <= low
    up &= x < high
    return torch.where(up, top, low).to(x.dtype)


def lead(logits: Tensor, y: Tensor) -> Tensor:
    """The true logit less the best other, [N]; NaN is the weakest attack."""
    return margin(logits, y).nan_to_num(nan=torch.inf)


def measure(
    oracle: Queries, x: Tensor, y: Tensor, index: Tensor, at: Tensor, values: Tensor, query: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Measures a sample with one entry changed, for each of several entries.

    A query has candidates of one sample only, so no result depends on the rest of its batch.

    Args:
        oracle: The model's queries.
        x: The input, [1, *].
        y: Its label, [1].
        index: Its id, [1].
        at: The entries, positions in the flat input, [M].
        values: What each is changed to, [M].
        query: Number of the query; all candidates get the same draws of a stochastic model.

    Returns:
        The objective, the true logit less the best other, and whether the net is wrong, [M] each.
    """
    found = []
    for part, new in zip(torch.split(at, AT_ONCE), torch.split(values, AT_ONCE), strict=True):
        changed = x.flatten(1).repeat(len(part), 1)  # [m, D]
        changed[torch.arange(len(part), device=x.device), part] = new
        labels = y.expand(len(part))
        objective, logits = oracle.value(changed.reshape(-1, *x.shape[1:]), labels, index.repeat(len(part)), query)
        found.append((objective, lead(logits, labels), wrong(logits, labels)))
    objectives, leads, fooled = zip(*found, strict=True)
    return torch.cat(objectives), torch.cat(leads), torch.cat(fooled)


def take_back(
    oracle: Queries, x: Tensor, x0: Tensor, y: Tensor, index: Tensor, harm: Tensor, query: int
) -> tuple[Tensor, int]:
    """Takes back as many changes as leave the net wrong, least `harm` [N, D] first; by binary search.

    Success need not be monotone in the number taken back, so the number found need not be the largest; but where the
    first change alone can be taken back, at least one is.

    Returns:
        The inputs [N, *], each the given x or one that the net was wrong at; and the number of the next query.
    """
    changed = (x != x0).flatten(1)  # [N, D]
    order = harm.masked_fill(~changed, torch.inf).argsort(dim=1, stable=True)
    places = torch.arange(order.shape[1], device=x.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places).reshape(x.shape)
    least, most, best = torch.zeros_like(y), changed.sum(dim=1), x.clone()
    while bool((searched := least < most).any()):
        rows = searched.nonzero()[:, 0]
        count = (least[rows] + most[rows] + 1) // 2
        fewer = torch.where(rank[rows] < per_sample(count, x), x0[rows], x[rows])
        broken = wrong(oracle.logits(fewer, index[rows.to(index.device)], query), y[rows])
        best[rows[broken]] = fewer[broken]
        least[rows[broken]], most[rows[~broken]] = count[broken], count[~broken] - 1
        query += 1
    return best, query


def reduced(oracle: Queries, x: Tensor, x0: Tensor, y: Tensor, index: Tensor, query: int = REDUCTION) -> Tensor:
    """Fewer changes that still leave the net wrong, for examples x [N, *] that it is wrong at.

    Takes back changes by `take_back`, those that the gradient values least first, until none is taken back. Then
    measures what it costs to take back each change alone, takes back as many as can be in that order, and repeats,
    until no change can be taken back alone.
    """
    x = x.clone()
    for row in range(len(x)):
        at, origin, label, sample, asked = x[[row]], x0[[row]], y[[row]], index[[row]], query
        while True:
            gradient = oracle.gradient(at, label, sample, asked)[0]
            fewer, asked = take_back(
                oracle, at, origin, label, sample, ((at - origin) * gradient).flatten(1), asked + 1
            )
            if torch.equal(fewer, at):
                break
            at = fewer
        among = None  # those worth measuring: all, or those that could be taken back alone in the last round
        while bool((at != origin).any()):
            entries = (at != origin).flatten().nonzero()[:, 0] if among is None else among
            _, leads, fooled = measure(oracle, at, label, sample, entries, origin.flatten()[entries], asked)
            asked += 1
            if not bool(fooled.any()):
                if among is None:
                    break
                among = None
                continue
            # A tie may be wrong or right: those that leave the net wrong come first, then those of least margin.
            by_lead = leads.argsort(stable=True)
            by_success = by_lead[(~fooled[by_lead]).long().argsort(stable=True)]
            harm = torch.full_like(at, at.numel()).flatten(1)
            harm[0, entries[by_success]] = torch.arange(len(entries)).to(harm)
            fewer, asked = take_back(oracle, at, origin, label, sample, harm, asked)
            if torch.equal(fewer, at):  # of a stochastic net: another draw disagrees
                break
            at = fewer
            left = entries[fooled & (at != origin).flatten()[entries]]
            among = left if len(left) else None
        x[row] = at[0]
    return x
