"""The active samples of a search: one evaluation of all of them, and what follows for each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from snnrobust.data.batch import Batch
from snnrobust.data.padding import by_length, keep_padding, without_padding
from snnrobust.errors import PluginError
from snnrobust.objectives.logits import margin
from snnrobust.plugin.protocols import Optimiser, State
from snnrobust.search.attack_context import AttackContext, SearchResult
from snnrobust.search.padded_state import Shapes, initial_state, joined_state, part_of, within
from snnrobust.search.scoring import Score
from snnrobust.threat_models.verify import verify
from snnrobust.wrapping.decision import Correctness

#: First query number of the draws that compare restarts; larger than any step number.
SELECTION = 2**32
#: Number of queries, from `SELECTION` on, that are averaged to compare restarts.
SELECTION_QUERIES = 10


@dataclass
class StepOutcome:
    """What one evaluation of the active samples found, [n]; `ActiveBatch.apply` applies it.

    Attributes:
        done: Which samples are done.
        better: Whether the iterate is its sample's strongest so far.
        rank: How strong the strongest is.
        forwards: Forward passes.
        backwards: Backward passes.
        disagreements: Iterates misclassified by the search's model but not by the user's net.
        confirmed: Iterates that the user's net misclassifies, too, so their score is known.
        confirmed_logits: Its logits for these, [n, K]; zero for the others.
        undefined: Whose gradient is NaN or infinite, which ends the search of that sample.
        next_state: The new state of those that are not done.
    """

    done: Tensor
    better: Tensor
    rank: Tensor
    forwards: Tensor
    backwards: Tensor
    disagreements: Tensor
    confirmed: Tensor
    confirmed_logits: Tensor
    undefined: Tensor
    next_state: State


@dataclass
class ActiveBatch:
    """The active samples: each field has a row for each, so that samples can leave and join.

    Attributes:
        rows: Positions in the data set, [n].
        samples: Original inputs, with labels, ids, lengths and targets.
        state: The optimiser's state; "x" is the iterate to be evaluated next. Optimisers see no padding: where samples
            differ in length, smaller entries are filled up with zeros here, and "x" with the original's padding.
        k: Steps taken, [n].
        best_x: The strongest iterate so far, [n, *].
        best_rank: How strong it is, [n].
        forwards: Forward passes, [n].
        backwards: Backward passes, [n].
        disagreements: Iterates misclassified by the search's model but not by the user's net, [n].
        undefined: Whether the search ended at a gradient of NaN or infinity, [n].
        shapes: By length and name: the shape of an entry of the optimiser's state, for one sample.
    """

    rows: Tensor
    samples: Batch
    state: State
    k: Tensor
    best_x: Tensor
    best_rank: Tensor
    forwards: Tensor
    backwards: Tensor
    disagreements: Tensor
    undefined: Tensor
    shapes: Shapes = field(default_factory=dict)

    @classmethod
    def start(cls, context: AttackContext, optimiser: Optimiser, rows: Tensor) -> ActiveBatch:
        """The samples at the positions `rows`, before their first evaluation."""
        samples = context.batch(rows)
        x0 = samples.x
        state, shapes = initial_state(context, optimiser, samples)
        return cls(
            rows=rows,
            samples=samples,
            state=state,
            k=torch.zeros(len(rows), dtype=torch.long, device=x0.device),
            best_x=x0.clone(),
            best_rank=torch.full((len(rows),), torch.inf, device=x0.device, dtype=x0.dtype),
            forwards=torch.zeros(len(rows), dtype=torch.long),
            backwards=torch.zeros(len(rows), dtype=torch.long),
            disagreements=torch.zeros(len(rows), dtype=torch.long),
            undefined=torch.zeros(len(rows), dtype=torch.bool),
            shapes=shapes,
        )

    def evaluate_and_step(self, context: AttackContext, optimiser: Optimiser) -> StepOutcome:
        """Evaluates all iterates and takes the optimiser's step where one is left. Nothing changes before `apply`, so
        it can be repeated after running out of memory."""
        y = self.samples.y
        with context.queries.all_or_nothing():
            gradient, loss, logits, forwards, backwards = self._query(context, optimiser)
            withstands = Correctness(logits, y).withstands
            rank = _rank(withstands, margin(logits, y))
            better = rank < self.best_rank
            rank = torch.minimum(rank, self.best_rank)
            done = self.k >= optimiser.steps
            disagreements = torch.zeros_like(forwards)
            confirmed, confirmed_logits = torch.zeros_like(withstands), torch.zeros_like(logits)
            if context.stop and not context.scored_in_the_end and not bool(withstands.all()):
                confirmed, confirmed_logits = self._confirmed(context, ~withstands, confirmed_logits)
                wrong = (~withstands).cpu()
                forwards[wrong] += context.scorer.draws
                disagreements[wrong & ~confirmed.cpu()] = 1
                done, better = done | confirmed, better | confirmed
            undefined = torch.zeros_like(done) if gradient is None else ~done & ~_finite(gradient)
            done = done | undefined
            next_state = self._stepped(context, optimiser, ~done, gradient, loss)
        return StepOutcome(
            done=done,
            better=better,
            rank=rank,
            forwards=forwards,
            backwards=backwards,
            disagreements=disagreements,
            confirmed=confirmed,
            confirmed_logits=confirmed_logits,
            undefined=undefined,
            next_state=next_state,
        )

    def apply(self, outcome: StepOutcome) -> None:
        """Applies what `evaluate_and_step` found."""
        self.best_x[outcome.better] = self.state["x"][outcome.better]
        self.best_rank = outcome.rank
        self.forwards += outcome.forwards
        self.backwards += outcome.backwards
        self.disagreements += outcome.disagreements
        self.undefined |= outcome.undefined.cpu()
        moving = ~outcome.done
        for name, value in outcome.next_state.items():
            self.state[name][moving] = value.to(self.state[name].dtype)
        self.k[moving] += 1

    def finish(self, context: AttackContext, outcome: StepOutcome, at: Tensor) -> SearchResult:
        """Verifies and scores the samples at the positions `at`, which are done; confirmed ones are scored already."""
        here, scorer, spent = at.cpu(), context.scorer, context.queries.spent
        samples, x, last = self.samples.select(at), self.best_x[at], self.state["x"][at]
        ids = samples.index.tolist()
        verify(x, samples.x, context.threat, ids, context.name, samples.lengths)
        verify(last, samples.x, context.threat, ids, context.name, samples.lengths)
        known = outcome.confirmed[at]
        score = Score(outcome.confirmed_logits[at], ~known, ~known)
        if not bool(known.all()):
            rest = ~known
            found = scorer.score(samples.with_inputs(x).select(rest))
            score.logits = score.logits.to(found.logits.dtype)
            score.logits[rest], score.withstands[rest], score.voted[rest] = found.logits, found.withstands, found.voted
        last_withstands = score.withstands
        if not context.stop:
            last_withstands = scorer.score(samples.with_inputs(last)).withstands
        before = spent.copy()
        rank = restart_rank(context, samples.with_inputs(x), score)
        for_selection = spent.since(before).forwards // len(x)
        claimed = (self.best_rank[at] < 0).cpu()
        missed = torch.zeros_like(claimed) if context.scored_in_the_end else claimed & score.withstands.cpu()
        scorings = (~known).cpu().long() + (not context.stop)
        return SearchResult(
            rows=self.rows[here],
            x=x.cpu(),
            logits=score.logits.cpu(),
            withstands=score.withstands.cpu(),
            voted=score.voted.cpu(),
            margin=margin(score.logits, samples.y).cpu(),
            rank=rank.cpu(),
            last_x=last.cpu(),
            last_withstands=last_withstands.cpu(),
            forwards=self.forwards[here] + scorer.draws * scorings + for_selection,
            backwards=self.backwards[here],
            unchanged=(last == samples.x).flatten(1).all(dim=1).cpu(),
            disagreements=self.disagreements[here] + missed.long(),
            undefined=self.undefined[here],
        )

    def join(self, other: ActiveBatch) -> ActiveBatch:
        """These samples and those of another active batch."""
        return ActiveBatch(**{name: _joined(self, other, name) for name in vars(self)})

    def select(self, which: Tensor) -> ActiveBatch:
        """Some of the samples: positions or a mask [n]."""
        rows = {name: _selected(value, which) for name, value in vars(self).items() if name != "shapes"}
        return ActiveBatch(**rows, shapes=self.shapes)

    def split(self, count: int) -> tuple[ActiveBatch, ActiveBatch]:
        """The first `count` samples, and the others."""
        at = torch.arange(len(self.rows))
        return self.select(at[:count]), self.select(at[count:])

    def _query(
        self, context: AttackContext, optimiser: Optimiser
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor]:
        """Gradient [n, *] (None where none is needed), loss [n] and logits [n, K], with the passes of each sample."""
        iterates, queries = self.samples.with_inputs(self.state["x"]), context.queries
        x = iterates.x
        final = self.k >= optimiser.steps
        gradient = torch.zeros_like(x) if optimiser.needs == "gradient" else None
        loss, logits = x.new_zeros(len(x)), None
        forwards, backwards = torch.zeros_like(self.forwards), torch.zeros_like(self.backwards)
        for part, with_gradient in ((~final, gradient is not None), (final, False)):
            if not part.any():
                continue
            here, before = part.cpu(), queries.spent.copy()
            samples, query = iterates.select(part), self.k[part].cpu()
            if with_gradient and gradient is not None:
                gradient[part], objective, got = queries.gradient(samples, query)
            else:
                objective, got = queries.value(samples, query)
            loss[part] = objective.to(loss.dtype)
            spent = queries.spent.since(before)
            forwards[here] = spent.forwards // len(samples)
            backwards[here] = spent.backwards // len(samples)
            logits = got.new_zeros(len(x), got.shape[1]) if logits is None else logits
            logits[part] = got
        if logits is None:
            raise PluginError(f"expected active samples of '{context.name}', got none; report this as a bug")
        if gradient is not None and self.samples.lengths is not None:
            gradient = keep_padding(gradient, torch.zeros_like(gradient), self.samples.lengths)
        return gradient, loss, logits, forwards, backwards

    def _confirmed(self, context: AttackContext, wrong: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Which of the iterates `wrong` [n] the user's net misclassifies, too, [n]; its logits for them, [n, K]."""
        score = context.scorer.score(self.samples.with_inputs(self.state["x"]).select(wrong))
        confirmed, logits = wrong.clone(), logits.to(score.logits.dtype)
        confirmed[wrong], logits[wrong] = ~score.withstands, score.logits
        return confirmed, logits

    def _stepped(
        self, context: AttackContext, optimiser: Optimiser, moving: Tensor, gradient: Tensor | None, loss: Tensor
    ) -> State:
        """The state of the samples `moving` [n] after a step; the optimiser sees no padding."""
        if not moving.any():
            return {}
        rows = moving.nonzero()[:, 0]
        lengths = None if self.samples.lengths is None else self.samples.lengths[rows.cpu()]
        groups = by_length(lengths, len(rows))
        stepped: State = {}
        for steps, at in groups:
            here = rows if steps is None else rows[at.to(rows.device)]
            shapes = self.shapes[steps]
            found = optimiser.step(
                {name: part_of(value[here], shapes[name]) for name, value in self.state.items()},
                None if gradient is None else without_padding(gradient[here], steps),
                loss[here],
                without_padding(self.samples.x[here], steps),
                self.k[here],
                context.threat,
                context.rng.on(self.samples.x),
                self.samples.index[here.cpu()],
            )
            for name, value in found.items():
                if name not in shapes or value.shape != (len(here), *shapes[name]):
                    raise PluginError(
                        f"expected '{context.name}' to keep its state's names and shapes, got '{name}' of "
                        f"{tuple(value.shape)}; create every entry in init"
                    )
                if steps is None:
                    stepped[name] = value
                    continue
                if name not in stepped:
                    stepped[name] = self.state[name][rows]  # a copy
                place = at.to(rows.device)
                whole = stepped[name][place]
                whole[within(shapes[name])] = value.to(whole.dtype)
                stepped[name][place] = whole
        return stepped


def restart_rank(context: AttackContext, samples: Batch, score: Score) -> Tensor:
    """Rank by which the searches of one sample are compared, [N]: smaller is stronger.

    For a deterministic net it follows from the score. For a stochastic one it is the margin over further draws, used
    neither for scoring nor in the search: the smallest margin seen in a search is biased low.
    """
    if not (context.scorer.model.stochastic or context.queries.stochastic):
        return _rank(score.withstands, margin(score.logits, samples.y))
    seen = [context.queries.logits(samples, SELECTION + k) for k in range(SELECTION_QUERIES)]
    logits = torch.stack(seen).mean(dim=0)
    return _rank(Correctness(logits, samples.y).withstands, margin(logits, samples.y))


def _rank(withstands: Tensor, size: Tensor) -> Tensor:
    """Broken samples rank at -1 or below, others at 0 or above; within each by margin; NaN is the weakest."""
    size = size.nan_to_num(nan=torch.inf)
    return torch.where(withstands, size.clamp_min(0), size.clamp_max(0) - 1)


def _finite(gradient: Tensor) -> Tensor:
    """Whether the gradient of each sample [n, *] is finite, [n]."""
    return torch.isfinite(gradient).flatten(1).all(dim=1)


def _joined(a: ActiveBatch, b: ActiveBatch, name: str) -> Any:
    mine, others = getattr(a, name), getattr(b, name)
    if name == "samples":
        return Batch.concatenate([mine, others])
    if name == "state":
        return joined_state(mine, others)
    if name == "shapes":
        return {**mine, **others}
    return torch.cat([mine, others])


def _selected(value: Any, which: Tensor) -> Any:
    if isinstance(value, Batch):
        return value.select(which)
    if isinstance(value, dict):
        return {name: each[which.to(each.device)] for name, each in value.items()}
    return value[which.to(value.device)]
