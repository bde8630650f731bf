"""How long an evaluation will take: a few timed steps of its searches, and how many samples stay robust.

A search costs its steps for the samples that it does not break, and little for the others: the robust accuracy decides.
It is estimated by a short attack on a few samples, and known as soon as an attack at that radius has finished.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from snnrobust.common.progress import Progress
from snnrobust.data.batch import Batch
from snnrobust.data.dataset import Dataset
from snnrobust.evaluation.attack_cell import AttackCell
from snnrobust.evaluation.attack_outcomes import AttackOutcomes
from snnrobust.evaluation.bisection import why_not_bisected
from snnrobust.evaluation.cell_context import CellContext
from snnrobust.evaluation.plan import Plan
from snnrobust.evaluation.settings import EACH_RADIUS, EXHAUSTIVE, Effort
from snnrobust.plugin.protocols import Optimiser
from snnrobust.plugin.task import AttackSettings, Task, uses_gradients, with_steps
from snnrobust.results.store import EVIDENCE, Store

#: Samples of the two timed batches, and of the short attack.
SMALL, LARGE, ATTACKED = 16, 128, 32
#: Steps of the two timed searches, and of the short attack.
TIMED, SHORT = (1, 4), 20
#: Seconds of a step on the smaller batch, below which the larger one is timed at full size.
QUICK = 0.01
#: Steps after which most samples are broken that a search breaks at all.
TO_SUCCESS = 8
#: All attacks of full length leave about this power of the share robust that the short attack does (measured on the
#: nets of scripts/bench/bench_evidence.py).
POWER = 2
#: Most radii that the short attack is run at.
RADII = 4
#: Largest share of the work that may go into the estimate.
SHARE = 0.03


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step of a search: `fixed` for each batch, and `each` for each sample in it."""

    fixed: float
    each: float

    def of(self, samples: float, batch: int) -> float:
        """Seconds of a step of this many samples; with less than one on average, of some of the steps."""
        return min(1.0, samples) * self.fixed * max(1.0, samples / batch) + samples * self.each


@dataclass
class Part:
    """A part of an evaluation: a task at one strength.

    Attributes:
        model: The model's name.
        label: The task's label in the store.
        task: The task.
        position: Index into `task.strengths`.
        samples: How many samples it is run on.
        effort: How much of a search is done.
        share: The share of its samples that bisection attacks.
        takes_over: Whether equal searches of the evaluation are not run again.
        seconds: What it took; None until it is finished.
    """

    model: str
    label: str
    task: Task
    position: int
    samples: int
    effort: Effort
    share: float = 1.0
    takes_over: bool = False
    seconds: float | None = None

    @property
    def searches(self) -> list[tuple[Task, AttackSettings, int]]:
        """Its searches whose number of steps is known, with that number."""
        known = [(t, attack) for t, attack in self.task.attacks if _counts_steps(t)]
        return [(t, attack, t.plugin.steps) for t, attack in known]

    @property
    def strength(self) -> float:
        """Its strength; 0 where there is none."""
        return self.task.strengths[self.position] if self.task.strengths else 0.0

    @property
    def passes(self) -> int:
        """The most steps that all its samples can take together."""
        return self.samples * sum(steps * attack.restarts for _, attack, steps in self.searches)


def parts_of(plan: Plan, store: Store, only: str | None = None) -> list[Part]:
    """The parts of an evaluation, in order; those that the store holds have taken no time.

    Args:
        plan: The evaluation.
        store: What is finished.
        only: The model that is evaluated; None: all.
    """
    found = []
    for name, model in plan.models.items():
        for task in plan.tasks if only in (None, name) else ():
            share, skip = 1.0, frozenset(plan.skipped[name])
            if plan.settings.mode == "bisect" and why_not_bisected(task, model, skip) is None:
                share = math.ceil(math.log2(len(task.strengths) + 1)) / len(task.strengths)
            for k in range(max(1, len(task.strengths))):
                samples = len(plan.data.test)
                found.append(Part(name, task.label, task, k, samples, plan.settings.effort, share))
        for evidence in plan.evidence_tasks[name] if only in (None, name) else ():
            label, task = EVIDENCE + evidence.task.label, evidence.task
            for k in range(len(task.strengths)):
                samples = len(evidence.rows(plan.evidence_rows))
                found.append(Part(name, label, task, k, samples, evidence.effort, takes_over=evidence.takes_over))
    for part in found:
        held = store.measurement if part.task.kind == "measurement" else None
        finished = held(part.model, part.label) if held else store.cell(part.model, part.label, part.position)
        part.seconds = None if finished is None else 0.0
    return found


class DurationEstimate:
    """Seconds left of an evaluation, from its parts that are finished, being done, and left.

    Args:
        parts: All parts, in order.
        batch: Samples that are active at once.
    """

    def __init__(self, parts: Sequence[Part], batch: int) -> None:
        self._parts = list(parts)
        self._batch = batch
        self._times: dict[str, StepTime] = {}
        self._forward = 0.0
        self._robust: dict[tuple[str, float], float] = {}
        self._right = 1.0
        self._current: list[Part] = []
        self._since = 0.0

    def measure(self, context: CellContext, few: Dataset, right: np.ndarray) -> None:
        """Times a few steps of each kind of search, and runs a short attack; nothing of it is kept.

        Args:
            context: What all cells of the model share.
            few: Random samples.
            right: Which of them the model gets right without an attack.
        """
        mine = [each for each in self._parts if each.model == context.model.name and each.seconds is None]
        searches = [(part, each, attack) for part in mine for each, attack, _ in part.searches]
        kinds = {
            _kind(each, attack): replace(each, strengths=_timed_at(each), attack=replace(attack, restarts=1))
            for _, each, attack in searches
            if each.label not in context.skip
        }
        timed = len(kinds) * (TIMED[0] + sum(TIMED)) * (SMALL + LARGE)
        if not kinds or not right.any() or timed > SHARE * sum(part.passes for part in mine):
            return
        for kind, task in kinds.items():
            self._times[kind] = _step_time(context, task, few)
        start = time.perf_counter()
        context.scorer.score(Batch.of(few, torch.arange(len(few)), context.model.device, context.model.input_dtype))
        self._forward = (time.perf_counter() - start) / len(few) / context.scorer.draws
        gradient = [(each, attack) for _, each, attack in searches if uses_gradients(each) and attack.source is None]
        for budget, task in {attack.budget: each for each, attack in reversed(gradient)}.items():
            here = [part for part in mine for _, attack, _ in part.searches if attack.budget == budget]
            radii = {part.strength for part in here} - {0.0}
            self._robust |= _short_attack(context, replace(task, strengths=_some(radii)), few, right)

    def start(self, model: str, label: str, positions: Sequence[int]) -> None:
        """The parts that start now."""
        key = {(model, label, position) for position in positions}
        self._current = [part for part in self._parts if (part.model, part.label, part.position) in key]
        self._since = time.monotonic()

    def finish(self, correct: Sequence[np.ndarray]) -> None:
        """The current parts are finished.

        Args:
            correct: Outcomes [N] of each one's samples: of an attack 1, 0 and -1 where a sample was not attacked, of
                clean accuracy True and False; empty for others.
        """
        for part in self._current:
            part.seconds = (time.monotonic() - self._since) / len(self._current)
        for part, found in zip(self._current, correct, strict=False):
            if part.task.kind == "clean":
                self._right = float(found.mean())
            if part.task.kind == "attack":
                share = min(1.0, float((found == 1).sum()) / max(1.0, self._right * len(found)))
                key = part.task.attacks[0][1].budget, part.strength
                # Of an attack alone, the weaker one says less about an ensemble.
                self._robust[key] = share if part.task.members else min(share, self._robust.get(key, 1.0))
        self._current = []

    def seconds_left(self) -> float | None:
        """Seconds left; None where nothing is known."""
        if not self._times:
            return None
        current, since = list(self._current), self._since
        finished = [each for each in self._parts if each.seconds]
        expected, took = sum(map(self.expected, finished)), sum(each.seconds or 0.0 for each in finished)
        left = sum(self.expected(each) for each in self._parts if each.seconds is None and each not in current)
        here = sum(map(self.expected, current))
        # What has taken longer than expected so far will go on so; a tenth of all counts as having gone as expected.
        prior = 0.1 * (expected + left + here)
        correction = (took + prior) / (expected + prior) if prior else 1.0
        elapsed = time.monotonic() - since if current else 0.0
        return left * correction + max(0.0, here * correction - elapsed)

    def expected(self, part: Part) -> float:
        """Seconds that a part should take: of a measurement, what it took on other models; 0 where nothing is known."""
        if part.task.kind == "measurement":
            took = [each.seconds for each in self._parts if each.label == part.label and each.seconds]
            return sum(took) / len(took) if took else 0.0
        if part.task.kind in ("clean", "noise"):
            return part.samples * part.task.draws * self._forward
        robust = 1.0 if part.strength == 0 or part.effort == EXHAUSTIVE else self._share(part)
        attacked = part.samples * part.share * (1.0 if part.effort == EXHAUSTIVE else self._right)
        if part.takes_over:  # what was broken at a smaller radius, which this one breaks soon
            before = self._share(replace(part, position=part.position - 1)) if part.position else 1.0
            attacked, robust = attacked * (1 - before), 0.0
        total, first = 0.0, True
        for each, attack, steps in part.searches:
            if (step := self._times.get(_kind(each, attack))) is None:
                continue
            total += steps * attack.restarts * step.of(robust * attacked, self._batch)
            if first or not part.effort.cascade:
                length = min(TO_SUCCESS, steps) if part.effort.stop else steps
                total += length * step.of((1 - robust) * attacked, self._batch)
            first = False
        return total

    def _share(self, part: Part) -> float:
        """The share of samples that stay robust at a radius, between the radii at which it is known."""
        budget = part.task.attacks[0][1].budget if part.task.attacks else ""
        known = sorted((r, share) for (other, r), share in self._robust.items() if other == budget)
        if not known:
            return 0.5
        radii, shares = zip(*known, strict=True)
        return float(np.interp(part.strength, radii, shares))


def _counts_steps(task: Task) -> bool:
    """Whether a search takes as long as its number of steps says."""
    return isinstance(task.plugin, Optimiser) or getattr(task.plugin, "bisectable", False)


def _timed_at(task: Task) -> tuple[float, ...]:
    """The radius that a step is timed at: the largest; the smallest where samples that are broken leave a search."""
    if isinstance(task.plugin, Optimiser):
        return task.strengths[-1:]
    return tuple(radius for radius in task.strengths if radius > 0)[:1] or task.strengths[:1]


def _kind(task: Task, attack: AttackSettings) -> str:
    """Searches of one kind take about the same time for a step."""
    how = repr(attack.gradient) if uses_gradients(task) else task.name
    return f"{how} {getattr(attack.objective, 'of', 'logits')} {attack.eot} {attack.source}"


def _some(radii: set[float]) -> tuple[float, ...]:
    """At most `RADII` of some radii, ascending."""
    ascending = sorted(radii)
    chosen = np.linspace(0, len(ascending) - 1, min(RADII, len(ascending))).round().astype(int)
    return tuple(ascending[k] for k in chosen)


def _step_time(context: CellContext, task: Task, few: Dataset) -> StepTime:
    """The time of a step, from steps on two numbers of samples."""
    small = min(SMALL, len(few))
    few_seconds = _seconds(context, task, few.take(small))
    # Where a step is slow, the part that does not grow with the samples is small, and more samples would take long.
    large = min(LARGE if few_seconds < QUICK else 3 * SMALL, len(few))
    each = max(0.0, _seconds(context, task, few.take(large)) - few_seconds) / max(1, large - small)
    return StepTime(max(0.0, few_seconds - each * small), each)


def _seconds(context: CellContext, task: Task, few: Dataset) -> float:
    """The time of a step: by how much longer a search of more steps takes. The first one is not timed."""
    took, everything = [], np.ones(len(few), dtype=bool)
    for steps in (TIMED[0], *TIMED):
        start = time.perf_counter()
        _attacked(replace(context, data=few, effort=EXHAUSTIVE), with_steps(task, steps, steps), 0, everything)
        took.append(time.perf_counter() - start)
    return max(0.0, took[2] - took[1]) / (TIMED[1] - TIMED[0])


def _short_attack(context: CellContext, task: Task, few: Dataset, right: np.ndarray) -> dict[tuple[str, float], float]:
    """The share of a few right samples that a short attack does not break, at each radius."""
    few, robust = few.take(min(ATTACKED, len(few))), right[:ATTACKED].copy()
    count, found = max(1, int(robust.sum())), {}
    part, short = replace(context, data=few, effort=EACH_RADIUS), with_steps(task, SHORT)
    for position, radius in enumerate(short.strengths):
        if robust.any():
            robust &= _attacked(part, short, position, robust).correct != 0
        share = float(robust.sum()) / count
        # With the rule of succession: none of a few does not mean none.
        found[short.attacks[0][1].budget, radius] = (share**POWER * count + 1) / (count + 2)
    return found


def _attacked(context: CellContext, task: Task, position: int, attacked: np.ndarray) -> AttackOutcomes:
    """The outcomes of an attack that are not kept."""
    apart = replace(context, store=Store(None, context.store.run), earlier=None, progress=Progress(0))
    return AttackCell(apart, task, position, attacked).run()
