"""The samples in flight of a search: one evaluation of all of them, what it says, and how they land."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snnrobust.data.padding import keep_padding
from snnrobust.errors import PluginError
from snnrobust.objectives.logits import margin
from snnrobust.plugin.protocols import Optimiser, State
from snnrobust.search.attack_context import AttackContext, SearchResult
from snnrobust.search.scoring import Score
from snnrobust.threat_models.verify import verify

#: The query whose draws choose among restarts; past any that an attack makes by itself.
SELECTION = 2**32
#: How many such queries there are.
SELECTION_QUERIES = 10


@dataclass
class Step:
    """What one evaluation of the samples in flight says, [n]: nothing of it has been carried out yet.

    Attributes:
        landed: Which samples are done.
        better: Whose iterate is the strongest so far.
        rank: How strong the strongest is.
        forwards: Forward passes.
        backwards: Backward passes.
        disagreements: Iterates that looked wrong and were right on the user's own net.
        confirmed: Iterates that the user's own net gets wrong, and that are thus scored.
        judged: Its logits for these, [n, K]; zero for the others.
        moved: The new state of those that are not done.
    """

    landed: Tensor
    better: Tensor
    rank: Tensor
    forwards: Tensor
    backwards: Tensor
    disagreements: Tensor
    confirmed: Tensor
    judged: Tensor
    moved: State


@dataclass
class ActiveBatch:
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
    def launch(cls, problem: AttackContext, optimiser: Optimiser, rows: Tensor) -> ActiveBatch:
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

    def ask(self, problem: AttackContext, optimiser: Optimiser) -> Step:
        """Evaluates all iterates and looks for the next ones where a step is left. Nothing changes before `take`:
        should memory run out on the way, the samples are where they were."""
        with problem.oracle.all_or_nothing():
            gradient, loss, logits, forwards, backwards = self._evaluate(problem, optimiser)
            right = problem.judge.correct(logits, self.y)
            rank = _rank(right, margin(logits, self.y))
            better = rank < self.best_rank
            rank = torch.minimum(rank, self.best_rank)
            landed = self.k >= optimiser.steps
            disagreements = torch.zeros_like(forwards)
            confirmed, judged = torch.zeros_like(right), torch.zeros_like(logits)
            decided = problem.stop and not problem.transfer and not problem.judge.model.stochastic
            if decided and not bool(right.all()):
                confirmed, judged = self._confirmed(problem, ~right, judged)
                wrong = (~right).cpu()
                forwards[wrong] += problem.judge.draws
                disagreements[wrong & ~confirmed.cpu()] = 1
                landed, better = landed | confirmed, better | confirmed
            moved = self._moved(problem, optimiser, ~landed, gradient, loss)
        return Step(landed, better, rank, forwards, backwards, disagreements, confirmed, judged, moved)

    def _evaluate(
        self, problem: AttackContext, optimiser: Optimiser
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor]:
        """Gradient [n, *] (None where none is needed), loss [n] and logits [n, K], with the passes of each sample."""
        x, oracle = self.state["x"], problem.oracle
        final = self.k >= optimiser.steps
        gradient = torch.zeros_like(x) if optimiser.needs == "gradient" else None
        loss, logits = x.new_zeros(len(x)), None
        forwards, backwards = torch.zeros_like(self.forwards), torch.zeros_like(self.backwards)
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
            forwards[here] = (oracle.forwards - asked[0]) // count
            backwards[here] = (oracle.backwards - asked[1]) // count
            logits = got.new_zeros(len(x), got.shape[1]) if logits is None else logits
            logits[part] = got
        if logits is None:
            raise PluginError(f"expected samples in flight of '{problem.name}', got none; report this as a bug")
        return gradient, loss, logits, forwards, backwards

    def _confirmed(self, problem: AttackContext, wrong: Tensor, judged: Tensor) -> tuple[Tensor, Tensor]:
        """Which of the iterates that look wrong are so on the user's own net, [n]; its logits in `judged`, [n, K]."""
        here = wrong.cpu()
        lengths = None if self.lengths is None else self.lengths[here]
        score = problem.judge.score(self.state["x"][wrong], self.y[wrong], self.index[here], lengths)
        confirmed, judged = wrong.clone(), judged.to(score.logits.dtype)
        confirmed[wrong], judged[wrong] = ~score.correct, score.logits
        return confirmed, judged

    def _moved(
        self, problem: AttackContext, optimiser: Optimiser, moving: Tensor, gradient: Tensor | None, loss: Tensor
    ) -> State:
        """The state of the samples `moving` [n] after a step."""
        if not moving.any():
            return {}
        before = {name: value[moving] for name, value in self.state.items()}
        stepped = optimiser.step(
            before,
            None if gradient is None else gradient[moving],
            loss[moving],
            self.x0[moving],
            self.k[moving],
            problem.threat,
            problem.rng.on(self.x0),
            self.index[moving.cpu()],
        )
        for name, value in stepped.items():
            if name not in self.state or value.shape != (int(moving.sum()), *self.state[name].shape[1:]):
                raise PluginError(
                    f"expected '{problem.name}' to keep its state's names and shapes, got '{name}' of "
                    f"{tuple(value.shape)}; create every entry in init"
                )
        return stepped

    def take(self, step: Step) -> None:
        """Carries out what `ask` found."""
        self.best_x[step.better] = self.state["x"][step.better]
        self.best_rank = step.rank
        self.forwards += step.forwards
        self.backwards += step.backwards
        self.disagreements += step.disagreements
        moving = ~step.landed
        for name, value in step.moved.items():
            self.state[name][moving] = value.to(self.state[name].dtype)
        self.k[moving] += 1
        self._mask()

    def land(self, problem: AttackContext, step: Step, landed: Tensor) -> SearchResult:
        """Verifies and scores the samples at the positions `landed` that are done; those that are scored stay so."""
        here = landed.cpu()
        x0, y, index = self.x0[landed], self.y[landed], self.index[here]
        lengths = None if self.lengths is None else self.lengths[here]
        x, last = self.best_x[landed], self.state["x"][landed]
        ids = index.tolist()
        verify(x, x0, problem.threat, ids, problem.name)
        verify(last, x0, problem.threat, ids, problem.name)
        known = step.confirmed[landed]
        score = Score(step.judged[landed], ~known, ~known)
        if not bool(known.all()):
            rest = ~known
            others = None if lengths is None else lengths[rest.cpu()]
            found = problem.judge.score(x[rest], y[rest], index[rest.cpu()], others)
            score.logits = score.logits.to(found.logits.dtype)
            score.logits[rest], score.correct[rest], score.voted[rest] = found.logits, found.correct, found.voted
        correct = score.correct
        last_correct = correct
        if not problem.stop:
            last_correct = problem.judge.score(last, y, index, lengths).correct
        size = margin(score.logits, y)
        asked = problem.oracle.forwards
        rank = selection_rank(problem, x, y, index, score)
        chosen = (problem.oracle.forwards - asked) // len(x)
        claimed = (self.best_rank[landed] < 0).cpu()
        uncertain = problem.transfer or problem.judge.model.stochastic
        missed = torch.zeros_like(claimed) if uncertain else claimed & correct.cpu()
        return SearchResult(
            rows=self.rows[here],
            x=x.cpu(),
            correct=correct.cpu(),
            voted=score.voted.cpu(),
            margin=size.cpu(),
            rank=rank.cpu(),
            last_x=last.cpu(),
            last_correct=last_correct.cpu(),
            forwards=self.forwards[here] + problem.judge.draws * ((~known).cpu().long() + (not problem.stop)) + chosen,
            backwards=self.backwards[here],
            unchanged=(last == x0).flatten(1).all(dim=1).cpu(),
            disagreements=self.disagreements[here] + missed.long(),
        )

    def join(self, other: ActiveBatch) -> ActiveBatch:
        return ActiveBatch(**{name: _cat(value, getattr(other, name)) for name, value in vars(self).items()})

    def select(self, which: Tensor) -> ActiveBatch:
        return ActiveBatch(**{name: _select(value, which) for name, value in vars(self).items()})

    def split(self, count: int) -> tuple[ActiveBatch, ActiveBatch]:
        """The first `count` samples, and the others."""
        at = torch.arange(len(self.rows))
        return self.select(at[:count]), self.select(at[count:])

    def _check(self, problem: AttackContext) -> None:
        x = self.state.get("x")
        if x is None or x.shape != self.x0.shape:
            raise PluginError(
                f"expected '{problem.name}' to put iterates of shape {tuple(self.x0.shape)} into state['x'], "
                f"got {None if x is None else tuple(x.shape)}; see Optimiser.init"
            )
        self._mask()

    def _mask(self) -> None:
        self.state["x"] = keep_padding(self.state["x"], self.x0, self.lengths)


def selection_rank(problem: AttackContext, x: Tensor, y: Tensor, index: Tensor, score: Score) -> Tensor:
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


def _select(value: Any, which: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value[which.to(value.device)]
    if isinstance(value, dict):
        return {name: each[which.to(each.device)] for name, each in value.items()}
    return None
