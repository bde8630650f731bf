"""The loop around every attack: an active batch that is refilled as samples finish.

An attack sees a batch of samples at mixed steps; a sample leaves as soon as its outcome is known and another takes its
place. All randomness is keyed by sample, so outcomes do not depend on the batch size or on the order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from snnrobust.data.padding import by_length, with_padding, without_padding
from snnrobust.objectives.logits import margin
from snnrobust.plugin.protocols import Fitted, Optimiser, Perturbation
from snnrobust.search.active_batch import ActiveBatch, restart_rank
from snnrobust.search.attack_context import AttackContext, SearchResult
from snnrobust.search.batch_queries import BatchQueries
from snnrobust.threat_models.verify import verify


def perturb(
    context: AttackContext, plugin: Perturbation | Fitted, rows: Tensor, done: Callable[[SearchResult], None]
) -> None:
    """Runs an attack with its own loop (`Perturbation`) on the samples at `rows`, in batches.

    A `Fitted` one gets `context.fitted`, from `snnrobust.search.fitting.fit`.

    Raises:
        ViolationError: If an example breaks the threat model or is not finite.
        MemoryLimitError: If memory runs out with a single sample.
    """
    lengths = context.data.lengths
    for steps, at in by_length(None if lengths is None else lengths[rows], len(rows)):
        for _, result in context.sizer.over(rows[at], partial(_perturbed, context, plugin, steps)):
            done(result)


def _perturbed(context: AttackContext, plugin: Perturbation | Fitted, steps: int | None, rows: Tensor) -> SearchResult:
    """The result for samples of `steps` valid steps, without the others where given: the plugin sees no padding."""
    samples, queries = context.batch(rows), context.queries
    x0, index, before = samples.x, samples.index, queries.spent.copy()
    batch_queries = BatchQueries(queries, samples)
    try:
        valid = without_padding(x0, steps)
        rng = context.rng.on(x0)
        if isinstance(plugin, Fitted):
            fitted = {} if context.fitted is None else context.fitted
            x = plugin.perturb(batch_queries, valid, samples.y, context.threat, rng, index, fitted)
        else:
            x = plugin.perturb(batch_queries, valid, samples.y, context.threat, rng, index)
        x = with_padding(x, x0) if x.shape == valid.shape else x  # `verify` reports a wrong shape
    finally:
        queries.forget(index)
    verify(x, x0, context.threat, index.tolist(), context.name, samples.lengths)
    samples = samples.with_inputs(x)
    score = context.scorer.score(samples)
    rank = restart_rank(context, samples, score)
    spent, each = queries.spent.since(before), torch.ones(len(rows), dtype=torch.long)
    return SearchResult(
        rows=rows,
        x=x.detach().cpu(),
        logits=score.logits.cpu(),
        withstands=score.withstands.cpu(),
        voted=score.voted.cpu(),
        margin=margin(score.logits, samples.y).cpu(),
        rank=rank.cpu(),
        last_x=x.detach().cpu(),
        last_withstands=score.withstands.cpu(),
        forwards=each * (spent.forwards // len(rows) + context.scorer.draws),
        backwards=each * (spent.backwards // len(rows)),
        unchanged=(x == x0).flatten(1).all(dim=1).cpu(),
        disagreements=torch.zeros(len(rows), dtype=torch.long),
        undefined=torch.tensor([sample in batch_queries.undefined for sample in index.tolist()]),
    )


def search(context: AttackContext, optimiser: Optimiser, rows: Tensor, done: Callable[[SearchResult], None]) -> None:
    """Runs an optimiser over `rows`; `done` receives samples as they finish.

    Each sample gets `optimiser.steps` evaluations with a gradient (or loss), and one more forward pass for the iterate
    that the last step made. The strongest iterate is the one the net gets wrong, or else the one of least margin.
    Where memory runs out, the batch is reduced, and each sample's search continues from its current state.

    Raises:
        ViolationError: If an example breaks the threat model or is not finite.
        PluginError: If the optimiser returns a state of another shape.
        MemoryLimitError: If memory runs out with a single sample.
    """
    sizer = context.sizer
    active: ActiveBatch | None = None
    waiting: list[ActiveBatch] = []  # since the batch size shrank
    while len(rows) or waiting or active is not None:
        count = 0 if active is None else len(active.rows)
        if active is not None and count > sizer.size:
            active, rest = active.split(sizer.size)
            waiting.append(rest)
        elif waiting and count < sizer.size:
            back, rest = waiting.pop().split(sizer.size - count)
            waiting += [rest] if len(rest.rows) else []
            active = back if active is None else active.join(back)
        elif len(rows) and count < sizer.size:
            fresh = rows[: sizer.size - count]
            started = sizer.attempt(count + len(fresh), ActiveBatch.start, context, optimiser, fresh)
            if started is not None:
                rows = rows[len(fresh) :]
                active = started if active is None else active.join(started)
        elif active is not None:
            active = _advance(active, context, optimiser, done)


def _advance(
    active: ActiveBatch, context: AttackContext, optimiser: Optimiser, done: Callable[[SearchResult], None]
) -> ActiveBatch | None:
    """One step of the active samples; removes finished ones from the batch."""
    outcome = context.sizer.attempt(len(active.rows), active.evaluate_and_step, context, optimiser)
    if outcome is None:
        return active
    active.apply(outcome)
    if not outcome.done.any():
        return active
    for _, result in context.sizer.over(outcome.done.nonzero()[:, 0], partial(active.finish, context, outcome)):
        done(result)
    context.queries.forget(active.samples.index[outcome.done.cpu()])
    return None if outcome.done.all() else active.select(~outcome.done)
