"""One attack, or an ensemble of them, on one model at one strength: whose turn it is, and what is kept of each."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from snnrobust.common.batching import BatchSizer
from snnrobust.common.files import Arrays
from snnrobust.common.random import Draws
from snnrobust.data.dataset import Dataset
from snnrobust.plugin.protocols import Optimiser
from snnrobust.plugin.task import Attack, Task
from snnrobust.results.store import Store
from snnrobust.search.active_batch import SELECTION
from snnrobust.search.attack_context import AttackContext, SearchResult
from snnrobust.search.loop import perturb, search
from snnrobust.search.oracle import Oracle
from snnrobust.search.scoring import Scorer
from snnrobust.threat_models.threat_model import Norm, ThreatModel
from snnrobust.wrapping.model import SpikingModel

#: Seconds between two saves of a cell that is still running.
SAVE_EVERY = 20.0


@dataclass(frozen=True)
class Effort:
    """How much of a search is done.

    Attributes:
        stop: Whether a sample leaves a search at its first success.
        cascade: Whether a sample that one member of an ensemble broke is spared the others.
        carry: Whether a sample that broke at one radius is spared the larger ones.
    """

    stop: bool
    cascade: bool
    carry: bool


NESTED = Effort(stop=True, cascade=True, carry=True)
EXHAUSTIVE = Effort(stop=False, cascade=False, carry=False)
#: Every member alone, at every radius by itself.
FACTORIAL = Effort(stop=True, cascade=False, carry=False)


@dataclass(frozen=True)
class Turn:
    """One search that samples get: a member of the ensemble (or the attack itself) and a restart of it."""

    member: int
    task: Task
    attack: Attack
    restart: int


def turns(task: Task) -> list[Turn]:
    """All searches of a task, in order."""
    return [
        Turn(member, each, attack, restart)
        for member, (each, attack) in enumerate(task.attacks)
        for restart in range(attack.restarts)
    ]


@dataclass(frozen=True)
class AttackCell:
    """What is needed to run one cell, or to go on with it.

    Attributes:
        model: The evaluated model.
        sources: All models by name, for transfer.
        data: The samples.
        standing: Which of them are attacked, [N].
        judge: Scores on the user's net.
        store: Keeps what is finished, should the run be interrupted.
        label: Under which it is kept.
        position: Which of the task's strengths this is.
        seed: Seed of the evaluation.
        effort: How much of the search is done.
        pool: Samples in flight at once.
        skip: Labels of members that are left out.
    """

    model: SpikingModel
    sources: Mapping[str, SpikingModel]
    data: Dataset
    standing: np.ndarray
    judge: Scorer
    store: Store
    label: str
    position: int
    seed: int
    effort: Effort
    pool: BatchSizer
    skip: frozenset[str]

    def run(self, task: Task) -> Arrays:
        """Per-sample outcomes of `task`."""
        arrays = self.begun(task)
        self.extend(task, arrays)
        return outcomes(arrays)

    def begun(self, task: Task) -> Arrays:
        """What an interrupted run left of the cell, or arrays without any outcome."""
        return self.store.partial(*self._key) or _untouched(len(self.data), len(task.attacks))

    def extend(self, task: Task, arrays: Arrays) -> None:
        """Attacks the samples of `standing` whose turns are not over yet, and writes what is found into `arrays`."""
        epsilon = task.strengths[self.position]
        saved = time.monotonic()
        for number, turn in enumerate(turns(task)):
            if turn.task.label in self.skip:
                continue

            def done(found: SearchResult, turn: Turn = turn, number: int = number) -> None:
                nonlocal saved
                self._merge(arrays, found, turn, number)
                if time.monotonic() - saved > SAVE_EVERY:
                    self.save(arrays)
                    saved = time.monotonic()

            rows = torch.from_numpy(np.flatnonzero(self._due(arrays, turn, number)))
            arrays["turn"][self.standing] = np.maximum(arrays["turn"][self.standing], number)
            if len(rows):
                problem = self._problem(turn, epsilon, rows)
                try:
                    if isinstance(turn.task.plugin, Optimiser):
                        search(problem, turn.task.plugin, rows, done)
                    else:
                        perturb(problem, turn.task.plugin, rows, done)
                except BaseException:
                    self.save(arrays)
                    raise
                self.store.save_way(self.model.name, turn.task.label, problem.oracle.way)

    def save(self, arrays: Arrays) -> None:
        """Keeps a cell that is not finished."""
        self.store.save_partial(*self._key, arrays)

    @property
    def _key(self) -> tuple[str, str, int]:
        return self.model.name, self.label, self.position

    def _due(self, arrays: Arrays, turn: Turn, number: int) -> np.ndarray:
        due: np.ndarray = self.standing & (arrays["turn"] <= number)
        if self.effort.stop and not self.model.stochastic:  # scoring draws must not steer a search
            broken = arrays["correct"] if self.effort.cascade else arrays["member_correct"][turn.member]
            due &= broken != 0
        return due

    def _problem(self, turn: Turn, epsilon: float, rows: Tensor) -> AttackContext:
        attack = turn.attack
        # Not keyed by label: attacks that differ in one factor start alike, and are compared in pairs.
        rng = Draws(self.seed, "attack").sub(f"{epsilon:.12g}", turn.restart)
        first_draw = rng.sub("search").number()
        attacked = self.model if attack.source is None else self.sources[attack.source]
        lengths = None
        if self.data.lengths is not None:
            lengths = dict(zip(self.data.index.tolist(), self.data.lengths.tolist(), strict=True))
        oracle = Oracle(attacked, attack.objective, attack.gradient, attack.eot, first_draw, lengths)
        if attack.targeted:
            oracle = oracle.towards(self._targets(oracle, turn.restart, rows))
        return AttackContext(
            judge=self.judge,
            oracle=oracle,
            data=self.data,
            threat=ThreatModel(attack.norm, epsilon, self.model.bounds, self.model.domain),
            rng=rng,
            pool=self.pool,
            stop=self.effort.stop,
            transfer=attacked.net is not self.model.net,
            name=turn.task.label,
        )

    def _targets(self, oracle: Oracle, restart: int, rows: Tensor) -> dict[int, int]:
        """Sample id -> the class of the (restart + 1)-th largest other logit at the original input."""

        def at_original(chunk: Tensor) -> Tensor:
            x = self.data.x[chunk].to(device=self.model.device, dtype=self.model.dtype)
            return oracle.logits(x, self.data.index[chunk], SELECTION)  # (N, K)

        targets: dict[int, int] = {}
        for chunk, logits in self.pool.over(rows, at_original):
            index, y = self.data.index[chunk], self.data.y[chunk].to(logits.device)
            others = logits.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)
            chosen = others[:, restart % (logits.shape[1] - 1)]
            targets |= dict(zip(index.tolist(), chosen.tolist(), strict=True))
        return targets

    def _merge(self, arrays: Arrays, found: SearchResult, turn: Turn, number: int) -> None:
        """Takes a sample's outcome over where this search was stronger than the ones before."""
        rows, member = found.rows.numpy(), turn.member
        correct, rank = found.correct.numpy(), found.rank.float().numpy()
        first = arrays["correct"][rows] < 0
        stronger = first | (rank < arrays["rank"][rows])
        if not self.model.stochastic:
            # A search that broke the sample on the user's net outweighs one that only looked stronger.
            broken = arrays["correct"][rows] == 0
            stronger = (~correct & ~broken) | (stronger & ~(correct & broken))
        taken = rows[stronger]
        arrays["correct"][taken] = correct[stronger]
        arrays["voted"][taken] = found.voted.numpy()[stronger]
        arrays["margin"][taken] = found.margin.float().numpy()[stronger]
        arrays["distance"][taken] = _distance(found.x, self.data.x[found.rows], turn.attack.norm)[stronger]
        arrays["unchanged"][taken] = found.unchanged.numpy()[stronger]
        arrays["member"][taken] = member
        arrays["rank"][taken] = rank[stronger]
        last = found.last_correct.numpy()
        arrays["last_correct"][rows] = np.where(first, last, np.minimum(arrays["last_correct"][rows], last))
        alone = arrays["member_correct"][member]
        alone[rows] = np.where(alone[rows] < 0, correct, np.minimum(alone[rows], correct))
        for name, spent in (("forwards", found.forwards), ("backwards", found.backwards)):
            arrays[name][rows] += spent.numpy().astype(np.int32)
            arrays[f"member_{name}"][member][rows] += spent.numpy().astype(np.int32)
        arrays["disagreements"][rows] += found.disagreements.numpy().astype(np.int32)
        arrays["turn"][rows] = number + 1


def outcomes(arrays: Arrays) -> Arrays:
    """What is kept of a finished cell: all but how far its searches were."""
    return {name: value for name, value in arrays.items() if name not in ("turn", "rank")}


def at_smaller_radius(arrays: Arrays, epsilon: float) -> Arrays:
    """What a minimum-norm attack, run at a larger radius, says about `epsilon`: its examples hold from their distance
    on."""
    within = arrays["distance"] <= epsilon * (1 + 1e-6)
    derived = {name: value.copy() for name, value in arrays.items()}
    lost = (arrays["correct"] == 0) & ~within
    for name in ("correct", "voted", "last_correct", "member_correct"):
        derived[name][..., lost] = 1
    derived["margin"][lost] = np.nan
    for name in ("forwards", "backwards", "member_forwards", "member_backwards"):
        derived[name][:] = 0  # all of it was spent at the largest radius
    return derived


def _untouched(count: int, members: int) -> Arrays:
    return {
        "correct": np.full(count, -1, dtype=np.int8),
        "voted": np.full(count, -1, dtype=np.int8),
        "margin": np.full(count, np.nan, dtype=np.float32),
        "distance": np.full(count, np.nan, dtype=np.float32),
        "last_correct": np.full(count, -1, dtype=np.int8),
        "unchanged": np.full(count, -1, dtype=np.int8),
        "forwards": np.zeros(count, dtype=np.int32),
        "backwards": np.zeros(count, dtype=np.int32),
        "disagreements": np.zeros(count, dtype=np.int32),
        "member": np.full(count, -1, dtype=np.int16),
        "member_correct": np.full((members, count), -1, dtype=np.int8),
        "member_forwards": np.zeros((members, count), dtype=np.int32),
        "member_backwards": np.zeros((members, count), dtype=np.int32),
        "turn": np.zeros(count, dtype=np.int32),
        "rank": np.full(count, np.inf, dtype=np.float32),
    }


def _distance(x: Tensor, x0: Tensor, norm: Norm) -> np.ndarray:
    """Distance of each example [N, *] from its original, [N]."""
    change = (x.double() - x0.double()).flatten(1).abs().numpy()
    size: np.ndarray = {
        "linf": change.max(axis=1),
        "l2": np.sqrt((change**2).sum(axis=1)),
        "l1": change.sum(axis=1),
        "l0": (change > 0).sum(axis=1),
    }[norm]
    return size.astype(np.float32)
