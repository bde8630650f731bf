"""Who is still standing: the loop around every attack, with an active set that is refilled as samples finish.

An attack sees a batch of samples at mixed steps; a sample leaves as soon as its fate is known and another takes its
place. All randomness is keyed by sample, so outcomes do not depend on the pool size or on the order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snnrobust.errors import PluginError
from snnrobust.losses import margin
from snnrobust.plugin import Optimiser, Perturbation, State
from snnrobust.problem import Found, Problem, Score, keep_padding
from snnrobust.verify import verify

#: The query whose draws choose among restarts; past any that an attack makes by itself.
SELECTION = 2**32
#: How many such queries there are.
SELECTION_QUERIES = 10


def perturb(problem: Problem, plugin: Perturbation, rows: Tensor, done: Callable[[Found], None]) -> None:
    """Runs an attack that owns its loop over `rows`, in fixed chunks of the pool's size.

    Raises:
        ViolationError: If an example breaks the threat model or is not finite.
    """
    for chunk in torch.split(rows, problem.pool):
        x0, y, index, lengths = problem.take(chunk)
        oracle = problem.oracle
        forwards, backwards = oracle.forwards, oracle.backwards
        x = keep_padding(plugin.perturb(oracle, x0, y, problem.threat, problem.rng.on(x0), index), x0, lengths)
        verify(x, x0, problem.threat, index.tolist(), problem.name)
        score = problem.judge.score(x, y, index, lengths)
        size = margin(score.logits, y)
        rank = _selection_rank(problem, x, y, index, score)
        share = torch.ones(len(chunk), dtype=torch.long)
        done(
            Found(
                rows=chunk,
                x=x.detach().cpu(),
                correct=score.correct.cpu(),
                voted=score.voted.cpu(),
                margin=size.cpu(),
                rank=rank.cpu(),
                last_x=x.detach().cpu(),
                last_correct=score.correct.cpu(),
                forwards=share * ((oracle.forwards - forwards) // len(chunk) + problem.judge.draws),
                backwards=share * ((oracle.backwards - backwards) // len(chunk)),
                unchanged=(x == x0).flatten(1).all(dim=1).cpu(),
                disagreements=torch.zeros(len(chunk), dtype=torch.long),
            )
        )


def search(problem: Problem, optimiser: Optimiser, rows: Tensor, done: Callable[[Found], None]) -> None:
    """Runs an optimiser over `rows`; `done` receives samples as they finish.

    Each sample gets `optimiser.steps` evaluations with a gradient (or loss), and one more forward pass for the iterate
    that the last step made. The strongest iterate is the one the net gets wrong, or else the one of least margin.

    Raises:
        ViolationError: If an example breaks the threat model or is not finite.
        PluginError: If the optimiser returns a state of another shape.
    """
    waiting = list(torch.split(rows, problem.pool))
    flight: _Flight | None = None
    while waiting or flight is not None:
        room = problem.pool - (0 if flight is None else len(flight.rows))
        if waiting and room > 0:
            fresh, rest = waiting[0][:room], waiting[0][room:]
            waiting = ([rest] if len(rest) else []) + waiting[1:]
            joined = _Flight.launch(problem, optimiser, fresh)
            flight = joined if flight is None else flight.join(joined)
            continue
        if flight is None:
            break
        landed = flight.advance(problem, optimiser)
        if landed.any():
            problem.oracle.forget(flight.index[landed.cpu()])
            done(flight.land(problem, landed))
            flight = flight.keep(~landed)


@dataclass
class _Flight:
    """The samples in flight: everything is a tensor [n, ...] so that rows can leave and join."""

    rows: Tensor
    x0: Tensor
    y: Tensor
    index: Tensor
    lengths: Tensor | None
    state: State
    k: Tensor
    best_x: Tensor
    best_rank: Tensor
    forwards: Tensor
    backwards: Tensor
    disagreements: Tensor

    @classmethod
    def launch(cls, problem: Problem, optimiser: Optimiser, rows: Tensor) -> _Flight:
        x0, y, index, lengths = problem.take(rows)
        state = optimiser.init(x0, problem.threat, problem.rng.on(x0), index)
        flight = cls(
            rows=rows,
            x0=x0,
            y=y,
            index=index,
            lengths=lengths,
            state=state,
            k=torch.zeros(len(rows), dtype=torch.long, device=x0.device),
            best_x=x0.clone(),
            best_rank=torch.full((len(rows),), torch.inf, device=x0.device, dtype=x0.dtype),
            forwards=torch.zeros(len(rows), dtype=torch.long),
            backwards=torch.zeros(len(rows), dtype=torch.long),
            disagreements=torch.zeros(len(rows), dtype=torch.long),
        )
        flight._check(problem)
        return flight

    def advance(self, problem: Problem, optimiser: Optimiser) -> Tensor:
        """Evaluates all iterates and takes a step where one is left; returns which samples are done, [n]."""
        x, oracle = self.state["x"], problem.oracle
        final = self.k >= optimiser.steps
        gradient = torch.zeros_like(x) if optimiser.needs == "gradient" else None
        loss, logits = x.new_zeros(len(x)), None
        for part, evaluate_gradient in ((~final, gradient is not None), (final, False)):
            if not part.any():
                continue
            here = part.cpu()
            asked = oracle.forwards, oracle.backwards
            if evaluate_gradient and gradient is not None:
                gradient[part], loss[part], got = oracle.gradient(
                    x[part], self.y[part], self.index[here], self.k[part].cpu()
                )
            else:
                loss[part], got = oracle.value(x[part], self.y[part], self.index[here], self.k[part].cpu())
            count = int(here.sum())
            self.forwards[here] += (oracle.forwards - asked[0]) // count
            self.backwards[here] += (oracle.backwards - asked[1]) // count
            logits = got.new_zeros(len(x), got.shape[1]) if logits is None else logits
            logits[part] = got
        if logits is None:
            raise PluginError(f"expected samples in flight of '{problem.name}', got none; report this as a bug")

        right = problem.judge.correct(logits, self.y)
        rank = _rank(right, margin(logits, self.y))
        better = rank < self.best_rank
        self.best_x[better], self.best_rank[better] = x[better], rank[better]

        landed = final.clone()
        decided = problem.stop and not problem.transfer and not problem.judge.model.stochastic
        if decided and not bool(right.all()):
            landed |= self._confirm(problem, ~right)
        moving = ~landed
        if moving.any():
            here = moving.cpu()
            before = {name: value[moving] for name, value in self.state.items()}
            stepped = optimiser.step(
                before,
                None if gradient is None else gradient[moving],
                loss[moving],
                self.x0[moving],
                self.k[moving],
                problem.threat,
                problem.rng.on(self.x0),
                self.index[here],
            )
            for name, value in stepped.items():
                if name not in self.state or value.shape != before[name].shape:
                    raise PluginError(
                        f"expected '{problem.name}' to keep its state's names and shapes, got '{name}' of "
                        f"{tuple(value.shape)}; create every entry in init"
                    )
                self.state[name][moving] = value.to(self.state[name].dtype)
            self.k[moving] += 1
            self._mask()
        return landed

    def _confirm(self, problem: Problem, wrong: Tensor) -> Tensor:
        """Which of the iterates that look wrong are so on the user's own net, [n]."""
        here = wrong.cpu()
        lengths = None if self.lengths is None else self.lengths[here]
        right = problem.judge.score(self.state["x"][wrong], self.y[wrong], self.index[here], lengths).correct
        self.forwards[here] += problem.judge.draws
        self.disagreements[here] += right.cpu().long()
        confirmed = wrong.clone()
        confirmed[wrong] = ~right
        self.best_x[confirmed] = self.state["x"][confirmed]
        return confirmed

    def land(self, problem: Problem, landed: Tensor) -> Found:
        """Verifies and scores the samples that are done."""
        here = landed.cpu()
        x0, y, index = self.x0[landed], self.y[landed], self.index[here]
        lengths = None if self.lengths is None else self.lengths[here]
        x, last = self.best_x[landed], self.state["x"][landed]
        ids = index.tolist()
        verify(x, x0, problem.threat, ids, problem.name)
        verify(last, x0, problem.threat, ids, problem.name)
        score = problem.judge.score(x, y, index, lengths)
        correct = score.correct
        last_correct = correct
        if not problem.stop:
            last_correct = problem.judge.score(last, y, index, lengths).correct
        size = margin(score.logits, y)
        asked = problem.oracle.forwards
        rank = _selection_rank(problem, x, y, index, score)
        chosen = (problem.oracle.forwards - asked) // len(x)
        claimed = (self.best_rank[landed] < 0).cpu()
        uncertain = problem.transfer or problem.judge.model.stochastic
        missed = torch.zeros_like(claimed) if uncertain else claimed & correct.cpu()
        return Found(
            rows=self.rows[here],
            x=x.cpu(),
            correct=correct.cpu(),
            voted=score.voted.cpu(),
            margin=size.cpu(),
            rank=rank.cpu(),
            last_x=last.cpu(),
            last_correct=last_correct.cpu(),
            forwards=self.forwards[here] + problem.judge.draws * (1 if problem.stop else 2) + chosen,
            backwards=self.backwards[here],
            unchanged=(last == x0).flatten(1).all(dim=1).cpu(),
            disagreements=self.disagreements[here] + missed.long(),
        )

    def join(self, other: _Flight) -> _Flight:
        return _Flight(**{name: _cat(value, getattr(other, name)) for name, value in vars(self).items()})

    def keep(self, stay: Tensor) -> _Flight | None:
        if not stay.any():
            return None
        return _Flight(**{name: _select(value, stay) for name, value in vars(self).items()})

    def _check(self, problem: Problem) -> None:
        x = self.state.get("x")
        if x is None or x.shape != self.x0.shape:
            raise PluginError(
                f"expected '{problem.name}' to put iterates of shape {tuple(self.x0.shape)} into state['x'], "
                f"got {None if x is None else tuple(x.shape)}; see Optimiser.init"
            )
        self._mask()

    def _mask(self) -> None:
        self.state["x"] = keep_padding(self.state["x"], self.x0, self.lengths)


def _selection_rank(problem: Problem, x: Tensor, y: Tensor, index: Tensor, score: Score) -> Tensor:
    """By what searches of one sample are compared, [N]: smaller is stronger.

    For a deterministic net it is what the judge saw. For a stochastic one it is the margin over fresh draws of the
    search's own, never over those that score; the least margin that a search met on its way would only be the luckiest.
    """
    if not (problem.judge.model.stochastic or problem.oracle.stochastic):
        return _rank(score.correct, margin(score.logits, y))
    seen = torch.stack([problem.oracle.logits(x, index, SELECTION + k) for k in range(SELECTION_QUERIES)])
    logits = seen.mean(dim=0)
    return _rank(problem.judge.correct(logits, y), margin(logits, y))


def _rank(right: Tensor, size: Tensor) -> Tensor:
    """Wrong before right, then by margin: a tie that the net loses has margin 0 and still beats margin 0 won."""
    size = size.nan_to_num(nan=torch.inf)
    return torch.where(right, size.clamp_min(0), size.clamp_max(0) - 1)


def _cat(a: Any, b: Any) -> Any:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.cat([a, b])
    if isinstance(a, dict) and isinstance(b, dict):
        return {name: torch.cat([value, b[name]]) for name, value in a.items()}
    return None


def _select(value: Any, stay: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value[stay.to(value.device)]
    if isinstance(value, dict):
        return {name: each[stay.to(each.device)] for name, each in value.items()}
    return None
