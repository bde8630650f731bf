"""One attack, or an ensemble, on one model at one strength: runs its searches one after the other."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.data.batch import Batch
from snnrobust.evaluation.attack_outcomes import AttackOutcomes, KeptExamples
from snnrobust.evaluation.cell_context import CellContext
from snnrobust.plugin.protocols import Optimiser
from snnrobust.plugin.task import AttackSettings, Task
from snnrobust.search.active_batch import SELECTION
from snnrobust.search.attack_context import AttackContext, SearchResult
from snnrobust.search.loop import perturb, search
from snnrobust.search.queries import ModelQueries
from snnrobust.threat_models.threat_model import ThreatModel

#: Seconds between two saves of a cell that is still running.
SAVE_EVERY = 20.0


@dataclass(frozen=True)
class MemberRestart:
    """One search: a restart of a member of the ensemble, or of the attack itself."""

    member: int
    task: Task
    attack: AttackSettings
    restart: int


def searches_of(task: Task) -> list[MemberRestart]:
    """All searches of a task, in order."""
    return [
        MemberRestart(member, each, attack, restart)
        for member, (each, attack) in enumerate(task.attacks)
        for restart in range(attack.restarts)
    ]


@dataclass(frozen=True)
class AttackCell:
    """One attack at one strength, to be run or resumed.

    Attributes:
        context: What all cells of the model share.
        task: The attack.
        position: Index into `task.strengths`.
        attacked: Which samples are attacked, [N].
    """

    context: CellContext
    task: Task
    position: int
    attacked: np.ndarray

    def run(self) -> AttackOutcomes:
        """Outcomes of all samples."""
        outcomes = self.resumed()
        self.extend(outcomes)
        return outcomes

    def resumed(self) -> AttackOutcomes:
        """What an interrupted run left of the cell, or outcomes without any attempt."""
        held = self.context.store.partial(*self._key)
        if held is not None:
            return AttackOutcomes.from_partial(held)
        data, count = self.context.data, self.context.examples
        examples = (
            KeptExamples.none_of(count, tuple(data.x.shape[1:]), self.context.model.input_dtype) if count else None
        )
        return AttackOutcomes.empty(len(data), len(self.task.attacks), examples)

    def extend(self, outcomes: AttackOutcomes) -> None:
        """Attacks the samples whose searches are not over yet, and merges what is found."""
        context, saved, merging = self.context, time.monotonic(), False
        for number, restart in enumerate(searches_of(self.task)):
            if self.task.members and restart.task.label in context.skip:
                continue

            def done(found: SearchResult, restart: MemberRestart = restart, number: int = number) -> None:
                nonlocal saved, merging
                merging = True  # should this be interrupted, the outcomes are in between: the last save stands
                outcomes.merge(
                    found,
                    context.data.x[found.rows].to(context.model.input_dtype),  # as the model sees them
                    restart.attack.norm,
                    member=restart.member,
                    search_number=number,
                    stochastic=context.model.stochastic,
                )
                merging = False
                if time.monotonic() - saved > SAVE_EVERY:
                    self.save(outcomes)
                    saved = time.monotonic()

            rows = torch.from_numpy(np.flatnonzero(self._due(outcomes, restart, number)))
            outcomes.searches_done[self.attacked] = np.maximum(outcomes.searches_done[self.attacked], number)
            if len(rows):
                search_context = self._attack_context(restart, rows)
                try:
                    if isinstance(restart.task.plugin, Optimiser):
                        search(search_context, restart.task.plugin, rows, done)
                    else:
                        perturb(search_context, restart.task.plugin, rows, done)
                except BaseException:
                    if not merging:
                        self.save(outcomes)
                    raise
                path = search_context.queries.execution.path
                context.store.save_execution_path(context.model.name, restart.task.label, path)

    def save(self, outcomes: AttackOutcomes) -> None:
        """Keeps a cell that is not finished."""
        self.context.store.save_partial(*self._key, outcomes.partial())

    @property
    def _key(self) -> tuple[str, str, int]:
        return self.context.model.name, self.context.prefix + self.task.label, self.position

    def _due(self, outcomes: AttackOutcomes, restart: MemberRestart, number: int) -> np.ndarray:
        """Which samples get this search, [N]."""
        effort = self.context.effort
        due: np.ndarray = self.attacked & (outcomes.searches_done <= number)
        if (
            effort.stop and not self.context.model.stochastic
        ):  # results on the scoring draws must not decide which searches run
            correct = outcomes.correct if effort.cascade else outcomes.member_correct[restart.member]
            due &= correct != 0
        return due

    def _attack_context(self, restart: MemberRestart, rows: Tensor) -> AttackContext:
        context, attack, epsilon = self.context, restart.attack, self.task.strengths[self.position]
        # Not keyed by label: attacks that differ in one factor use the same random starts, so outcomes are paired.
        rng = Draws(context.settings.seed, "attack").sub(f"{epsilon:.12g}", restart.restart)
        model = context.model
        attacked = model if attack.source is None else context.sources[attack.source]
        queries = ModelQueries(
            attacked,
            attack.objective,
            attack.gradient,
            eot=attack.eot,
            first_draw=rng.sub("search").number(),
            check_inputs=context.check_inputs,
        )
        return AttackContext(
            scorer=context.scorer,
            queries=queries,
            data=context.data,
            threat=ThreatModel(attack.norm, epsilon, model.bounds, model.domain),
            rng=rng,
            sizer=context.sizer,
            stop=context.effort.stop,
            name=restart.task.label,
            transfer=attacked.net is not model.net,
            targets=self._targets(queries, restart.restart, rows) if attack.targeted else None,
        )

    def _targets(self, queries: ModelQueries, restart: int, rows: Tensor) -> Tensor:
        """Target class of each sample at `rows`, [N]: that of the (restart + 1)-th largest other logit at the original
        input; -1 for all others."""
        context = self.context
        model, targets = context.model, torch.full((len(context.data),), -1)

        def at_original(chunk: Tensor) -> Tensor:
            samples = Batch.of(context.data, chunk, model.device, model.input_dtype)
            return queries.logits(samples, SELECTION)  # (n, K)

        for chunk, logits in context.sizer.over(rows, at_original):
            y = context.data.y[chunk].to(logits.device)
            others = logits.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)
            targets[chunk] = others[:, restart % (logits.shape[1] - 1)].cpu()
        return targets
