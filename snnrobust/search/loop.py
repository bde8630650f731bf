"""Who is still standing: the loop around every attack, with an active set that is refilled as samples finish.

An attack sees a batch of samples at mixed steps; a sample leaves as soon as its fate is known and another takes its
place. All randomness is keyed by sample, so outcomes do not depend on the pool size or on the order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from snnrobust.data.padding import keep_padding
from snnrobust.objectives.logits import margin
from snnrobust.plugin.protocols import Optimiser, Perturbation
from snnrobust.search.active_batch import ActiveBatch, selection_rank
from snnrobust.search.attack_context import AttackContext, SearchResult
from snnrobust.threat_models.verify import verify


def perturb(problem: AttackContext, plugin: Perturbation, rows: Tensor, done: Callable[[SearchResult], None]) -> None:
    """Runs an attack that owns its loop over `rows`, in chunks of the pool's size.

    Raises:
        ViolationError: If an example breaks the threat model or is not finite.
        MemoryLimitError: If memory runs out with a single sample.
    """
    for _, found in problem.pool.over(rows, partial(_perturbed, problem, plugin)):
        done(found)


def _perturbed(problem: AttackContext, plugin: Perturbation, rows: Tensor) -> SearchResult:
    x0, y, index, lengths = problem.take(rows)
    oracle = problem.oracle
    forwards, backwards = oracle.forwards, oracle.backwards
    try:
        x = keep_padding(plugin.perturb(oracle, x0, y, problem.threat, problem.rng.on(x0), index), x0, lengths)
    finally:
        oracle.forget(index)
    verify(x, x0, problem.threat, index.tolist(), problem.name)
    score = problem.judge.score(x, y, index, lengths)
    share = torch.ones(len(rows), dtype=torch.long)
    return SearchResult(
        rows=rows,
        x=x.detach().cpu(),
        correct=score.correct.cpu(),
        voted=score.voted.cpu(),
        margin=margin(score.logits, y).cpu(),
        rank=selection_rank(problem, x, y, index, score).cpu(),
        last_x=x.detach().cpu(),
        last_correct=score.correct.cpu(),
        forwards=share * ((oracle.forwards - forwards) // len(rows) + problem.judge.draws),
        backwards=share * ((oracle.backwards - backwards) // len(rows)),
        unchanged=(x == x0).flatten(1).all(dim=1).cpu(),
        disagreements=torch.zeros(len(rows), dtype=torch.long),
    )


def search(problem: AttackContext, optimiser: Optimiser, rows: Tensor, done: Callable[[SearchResult], None]) -> None:
    """Runs an optimiser over `rows`; `done` receives samples as they finish.

    Each sample gets `optimiser.steps` evaluations with a gradient (or loss), and one more forward pass for the iterate
    that the last step made. The strongest iterate is the one the net gets wrong, or else the one of least margin.
    Where memory runs out, the pool shrinks and the samples go on from where they were.

    Raises:
        ViolationError: If an example breaks the threat model or is not finite.
        PluginError: If the optimiser returns a state of another shape.
        MemoryLimitError: If memory runs out with a single sample.
    """
    pool = problem.pool
    flight: ActiveBatch | None = None
    parked: list[ActiveBatch] = []  # what has to wait since the pool shrank
    while len(rows) or parked or flight is not None:
        count = 0 if flight is None else len(flight.rows)
        if flight is not None and count > pool.size:
            flight, rest = flight.split(pool.size)
            parked.append(rest)
        elif parked and count < pool.size:
            back, rest = parked.pop().split(pool.size - count)
            parked += [rest] if len(rest.rows) else []
            flight = back if flight is None else flight.join(back)
        elif len(rows) and count < pool.size:
            fresh = rows[: pool.size - count]
            joined = pool.attempt(count + len(fresh), ActiveBatch.launch, problem, optimiser, fresh)
            if joined is not None:
                rows = rows[len(fresh) :]
                flight = joined if flight is None else flight.join(joined)
        elif flight is not None:
            flight = _advance(flight, problem, optimiser, done)


def _advance(
    flight: ActiveBatch, problem: AttackContext, optimiser: Optimiser, done: Callable[[SearchResult], None]
) -> ActiveBatch | None:
    """One step of the samples in flight; those that are done leave."""
    step = problem.pool.attempt(len(flight.rows), flight.ask, problem, optimiser)
    if step is None:
        return flight
    flight.take(step)
    if not step.landed.any():
        return flight
    for _, found in problem.pool.over(step.landed.nonzero()[:, 0], partial(flight.land, problem, step)):
        done(found)
    problem.oracle.forget(flight.index[step.landed.cpu()])
    return None if step.landed.all() else flight.select(~step.landed)
