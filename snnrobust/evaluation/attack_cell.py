"""One attack, or an ensemble, on one model at one strength: runs its searches one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.data.batch import Batch
from snnrobust.errors import InputError
from snnrobust.evaluation.attack_outcomes import AttackOutcomes, KeptExamples
from snnrobust.evaluation.cell_context import CellContext
from snnrobust.plugin.protocols import Fitted, Optimiser, Queries
from snnrobust.plugin.task import AttackSettings, Task, uses_gradients
from snnrobust.results.fitting import Fitting
from snnrobust.search.active_batch import SELECTION
from snnrobust.search.attack_context import AttackContext, SearchResult
from snnrobust.search.fitting import fit
from snnrobust.search.loop import perturb, search
from snnrobust.search.queries import ModelQueries
from snnrobust.threat_models.threat_model import ThreatModel

#: Seconds between two saves of a cell that is still running.
SAVE_EVERY = 20.0
#: Least number of samples that a black-box member is run on to compare it with gradient members.
AT_LEAST = 16


@dataclass(frozen=True)
class MemberRestart:
    """One search: a restart of a member of the ensemble, or of the attack itself; `number` counts all searches."""

    number: int
    member: int
    task: Task
    attack: AttackSettings
    restart: int


def searches_of(task: Task) -> list[MemberRestart]:
    """All searches of a task, in order."""
    listed = [
        (member, each, attack, restart)
        for member, (each, attack) in enumerate(task.attacks)
        for restart in range(attack.restarts)
    ]
    return [MemberRestart(number, *each) for number, each in enumerate(listed)]


@dataclass(frozen=True)
class _Nothing:
    """No perturbation: what a search for the closest example has found beyond the radius is none."""

    def perturb(self, oracle: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> Tensor:
        """The inputs x [N, *]."""
        return x


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
        if self.context.effort.compare_black_box and not self.context.model.stochastic:
            self._compare_black_box(outcomes)
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
        outcomes = AttackOutcomes.empty(len(data), len(self.task.attacks), examples)
        epsilon = self.task.strengths[self.position]
        if self.context.earlier is not None and (cell := self.context.earlier.of(self.task, epsilon)) is not None:
            outcomes.take_over(cell)
            outcomes.searches_done[outcomes.correct >= 0] = len(searches_of(self.task))
            if not self.context.model.stochastic:
                # What a member broke, later ones have not attacked; they may be due here.
                broken = outcomes.correct == 0
                after = np.cumsum([attack.restarts for _, attack in self.task.attacks])
                outcomes.searches_done[broken] = after[outcomes.member[broken]]
        return outcomes

    def extend(self, outcomes: AttackOutcomes) -> None:
        """Attacks the samples whose searches are not over yet, and merges what is found."""
        for restart in searches_of(self.task):
            if self.task.members and restart.task.label in self.context.skip:
                continue
            due = np.flatnonzero(self._due(outcomes, restart))
            before = outcomes.searches_done[self.attacked]
            outcomes.searches_done[self.attacked] = np.maximum(before, restart.number)
            self._search(outcomes, restart, due)

    def _search(self, outcomes: AttackOutcomes, restart: MemberRestart, due: np.ndarray) -> None:
        """One search of the samples at the positions `due`; saves what is found from time to time."""
        if not len(due):
            return
        context, rows = self.context, torch.from_numpy(due)
        count = len(searches_of(self.task))
        if count > 1:
            context.progress.within(f"{restart.task.label} ({restart.number + 1} of {count} searches)")
        search_context = self._attack_context(restart, rows)
        saved, merging = time.monotonic(), False

        def done(found: SearchResult) -> None:
            nonlocal saved, merging
            merging = True  # should this be interrupted, the outcomes are in between: the last save stands
            self._merge(outcomes, found, search_context.threat, restart)
            merging = False
            if time.monotonic() - saved > SAVE_EVERY:
                self.save(outcomes)
                saved = time.monotonic()

        try:
            if self._serves_all_radii(restart.task):
                self._search_closest(search_context, restart, rows, done)
            elif isinstance(restart.task.plugin, Optimiser):
                search(search_context, restart.task.plugin, rows, done)
            elif isinstance(restart.task.plugin, Fitted):
                perturb(self._fitted(search_context, restart), restart.task.plugin, rows, done)
            else:
                perturb(search_context, restart.task.plugin, rows, done)
        except BaseException:
            if not merging:
                self.save(outcomes)
            raise
        path = search_context.queries.execution.path
        context.store.save_execution_path(context.model.name, restart.task.label, path)

    def _merge(
        self, outcomes: AttackOutcomes, found: SearchResult, threat: ThreatModel, restart: MemberRestart
    ) -> None:
        """Merges what a search has found."""
        outcomes.merge(
            found,
            self._originals(found.rows),
            threat,
            member=restart.member,
            search_number=restart.number,
            stochastic=self.context.model.stochastic,
        )

    def _originals(self, rows: Tensor) -> Tensor:
        """The inputs at the positions `rows` [n] as the model sees them, [n, *]."""
        return self.context.data.x[rows].to(self.context.model.input_dtype)

    def _serves_all_radii(self, task: Task) -> bool:
        """Whether a member's one search at the largest radius serves all of the ensemble's radii."""
        return bool(self.task.members) and hasattr(task.plugin, "enough") and not self.context.model.stochastic

    def _search_closest(
        self, here: AttackContext, restart: MemberRestart, rows: Tensor, done: Callable[[SearchResult], None]
    ) -> None:
        """Searches the closest examples of the samples at `rows` at the largest radius, where that was not done yet.

        What lies beyond the radius of `here` counts as if nothing had been found: the example is the original.
        """
        context, strengths = self.context, self.task.strengths
        plugin: Any = restart.task.plugin  # a frozen dataclass, which the protocol can't express
        plugin = replace(plugin, enough=min((radius for radius in strengths if radius > 0), default=1.0))
        widest = replace(self, position=len(strengths) - 1)._attack_context(restart, rows)
        widest = replace(widest, queries=here.queries)
        key = repr((self._key[:2], restart.task.label, restart.restart, plugin, restart.attack, strengths[-1]))

        def kept(part: Tensor) -> SearchResult:
            return context.closest.get(key, context.data.index[part], part, self._originals(part))

        def within(found: SearchResult) -> None:
            # The distance is a whole number, which rounding may have moved.
            far = (here.threat.distance(found.x, self._originals(found.rows)) > here.threat.epsilon + 1e-6).cpu()
            if not far.all():
                done(found.select(~far))
            spent = {row: at for at, row in enumerate(found.rows.tolist())}

            def nothing(original: SearchResult) -> None:
                at = torch.tensor([spent[row] for row in original.rows.tolist()])
                forwards, backwards = original.forwards + found.forwards[at], original.backwards + found.backwards[at]
                done(replace(original, forwards=forwards, backwards=backwards, undefined=found.undefined[at]))

            if far.any():
                perturb(here, _Nothing(), found.rows[far], nothing)

        def keep(found: SearchResult) -> None:
            context.closest.put(key, context.data.index[found.rows], found, self._originals(found.rows))
            within(found)

        known = context.closest.known(key, context.data.index[rows])
        for _, found in context.sizer.over(rows[known], kept):
            within(found)
        if not known.all():
            perturb(widest, plugin, rows[~known], keep)

    def _compare_black_box(self, outcomes: AttackOutcomes) -> None:
        """Runs black-box members on as many samples as it takes to compare them with gradient attacks.

        The audit asks whether a black-box member breaks more samples than a gradient attack: the gradient members, or
        one of the evaluation's own. It does not, as soon as it leaves as many of those that the gradient attack broke
        robust as it broke beyond them: further samples of these can only add to the former.
        """
        withstood = [~self._broken_by_gradients(outcomes)]
        if self.context.earlier is not None:
            budget, epsilon = self.task.attacks[0][1].budget, self.task.strengths[self.position]
            withstood += self.context.earlier.robust_to_gradients(budget, epsilon)
        claimed = np.logical_or.reduce(withstood)
        for member, (each, _) in enumerate(self.task.attacks):
            if uses_gradients(each) is not False or each.label in self.context.skip:
                continue
            alone = outcomes.member_correct[member]
            self._search_member(outcomes, member, np.flatnonzero(self.attacked & claimed & (alone < 0)))
            unseen = np.flatnonzero(self.attacked & (alone < 0))
            while len(unseen):
                lead = max(int((kept & (alone == 0)).sum()) - int((~kept & (alone == 1)).sum()) for kept in withstood)
                if lead <= 0:
                    break
                now, unseen = np.split(unseen, [max(AT_LEAST, 2 * lead)])
                self._search_member(outcomes, member, now)

    def _search_member(self, outcomes: AttackOutcomes, member: int, rows: np.ndarray) -> None:
        """All searches of a member on the samples at the positions `rows`."""
        alone = outcomes.member_correct[member]
        for restart in searches_of(self.task):
            if restart.member == member:
                self._search(outcomes, restart, rows[alone[rows] != 0])

    def _broken_by_gradients(self, outcomes: AttackOutcomes) -> np.ndarray:
        """Which samples a gradient member broke, [N]."""
        members = [m for m, (each, _) in enumerate(self.task.attacks) if uses_gradients(each)]
        broken: np.ndarray = (outcomes.member_correct[members] == 0).any(axis=0)
        return broken

    def save(self, outcomes: AttackOutcomes) -> None:
        """Keeps a cell that is not finished."""
        self.context.store.save_partial(*self._key, outcomes.partial())

    @property
    def _key(self) -> tuple[str, str, int]:
        return self.context.model.name, self.context.prefix + self.task.label, self.position

    def _due(self, outcomes: AttackOutcomes, restart: MemberRestart) -> np.ndarray:
        """Which samples get this search, [N]."""
        effort = self.context.effort
        due: np.ndarray = self.attacked & (outcomes.searches_done <= restart.number)
        if self.context.model.stochastic:  # results on the scoring draws must not decide which searches run
            return due
        if effort.compare_black_box and uses_gradients(restart.task):
            withstood = ~self._broken_by_gradients(outcomes)
        elif effort.cascade:
            withstood = outcomes.correct != 0
            if not effort.stop:
                withstood |= outcomes.last_correct != 0
        elif effort.stop:
            withstood = outcomes.member_correct[restart.member] != 0
        else:
            return due
        due &= withstood
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
            threat=model.threat_model(attack.norm, epsilon, attack.limits),
            rng=rng,
            sizer=context.sizer,
            stop=context.effort.stop,
            name=restart.task.label,
            transfer=attacked.net is not model.net,
            targets=self._targets(queries, restart.restart, rows) if attack.targeted else None,
        )

    def _fitted(self, search_context: AttackContext, restart: MemberRestart) -> AttackContext:
        """The context of a search whose plugin is fitted on the held-out samples; their passes count apart."""
        context, label = self.context, restart.task.label
        if context.held_out is None:
            raise InputError(
                f"expected validation data for '{label}', got none; pass data={{'test': ..., 'validation': ...}}"
            )
        context.progress.within(f"{label}: fitting on {len(context.held_out)} samples of '{context.held_out.name}'")
        apart = replace(self, context=replace(context, data=context.held_out))
        fitting_context = apart._attack_context(restart, torch.arange(len(context.held_out)))
        found = fit(replace(fitting_context, queries=search_context.queries), restart.task.plugin)
        fitting = Fitting(context.held_out.name, found.samples, found.forwards, found.backwards)
        context.store.save_fitting(*self._key, f"{label}/{restart.restart}", fitting)
        return replace(search_context, fitted=found.state)

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
