"""Bisection over the radii of an attack: few searches a sample, and an audit of the assumption that they rest on.

A sample that broke at one radius is broken at all larger ones, by the same example. That a sample which withstood the
search at one radius withstands those at all smaller ones is an assumption: a smaller ball holds fewer examples, but a
search may find one there that it misses in a larger ball. Outcomes that rest on it are marked, and those of a random
part of the samples are checked by an attack. A robust accuracy by bisection is thus never below that of
`mode="nested"`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

import numpy as np

from snnrobust.common.progress import Progress
from snnrobust.common.random import Draws
from snnrobust.evaluation.attack_cell import AttackCell
from snnrobust.evaluation.attack_outcomes import AttackOutcomes
from snnrobust.evaluation.cell_runner import CellRunner
from snnrobust.plugin.protocols import Optimiser
from snnrobust.plugin.task import AttackSettings, Task
from snnrobust.wrapping.model import SpikingModel

#: Samples whose assumed outcomes are checked by an attack, where there are as many.
AUDITED = 100
#: With fewer radii bisection saves no search.
RADII = 3


def why_not_bisected(task: Task, model: SpikingModel, skipped: frozenset[str] = frozenset()) -> str | None:
    """Why the strengths of a task are not bisected on a model; None where they are.

    An ensemble is bisected as a whole. Single-step members are allowed, but at least one multi-step attack on the model
    itself is required.

    Args:
        task: The task.
        model: The model.
        skipped: Labels of members of ensembles that the model does not allow.
    """
    if task.kind != "attack":
        return "it is no search"
    if len(task.strengths) < RADII:
        return f"it has fewer than {RADII} radii"
    if model.stochastic:
        return "the model is stochastic: outcomes at one radius do not bound those at another"
    if getattr(task.plugin, "minimum_norm", False):
        return "one search serves all its radii"
    attacks = [(each, attack) for each, attack in task.attacks if not task.members or each.label not in skipped]
    if any(
        not isinstance(each.plugin, Optimiser) and not getattr(each.plugin, "bisectable", False) for each, _ in attacks
    ):
        return "it owns its loop, so nothing is known about how radii differ"
    if not any(_is_multi_step(each, attack) for each, attack in attacks):
        return "it has no search of several steps on the model itself: single steps may do worse at larger radii"
    return None


def not_bisected(tasks: Iterable[Task], model: SpikingModel, skipped: frozenset[str]) -> dict[str, str]:
    """Labels of the tasks with strengths that are not bisected on a model, with the reason."""
    reasons = {task.label: why_not_bisected(task, model, skipped) for task in tasks if task.strengths}
    return {label: why for label, why in reasons.items() if why is not None}


def bisect(task: Task, cells: CellRunner, progress: Progress, *, audit: bool) -> None:
    """Computes the cells of `task` at all its strengths, unless the store holds them.

    Each sample is first attacked in the middle of its radii, then in the middle of the half that is left, and so on:
    at most ceil(log2(m + 1)) of m radii. Beside what every attack keeps, a cell has two entries [N]: "assumed", right
    here since it withstood a larger radius; and "audited", the same, but checked by an attack.

    Args:
        task: An attack for which `why_not_bisected` is None.
        cells: Runs attacks at single radii; their effort should stop at the first success.
        progress: Advances by as many parts as there are strengths.
        audit: Whether the assumed outcomes of up to `AUDITED` samples are checked by an attack.
    """
    grid, count = _Grid(task, cells), len(task.strengths)
    rounds = math.ceil(math.log2(count + 1))
    samples, name = len(cells.context.data), cells.context.model.name
    low = np.full(samples, -1)  # the largest radius that a sample withstood, by position
    high = np.where(cells.right(), count, 0)  # the smallest at which it broke; (N,)
    tried = np.zeros((count, samples), dtype=bool)
    for number in range(rounds):
        # The upper middle: there samples break more often, and those take fewer steps than survivors.
        middle = (low + high + 1) // 2
        for position in np.unique(middle[high - low > 1]).tolist():
            here = (high - low > 1) & (middle == position)
            progress.doing(f"{name}: {task.label} bisection {number + 1}/{rounds}, {_at(task, position)}")
            right = grid.attack(position, here)
            tried[position] |= here
            low, high = np.where(here & right, position, low), np.where(here & ~right, position, high)
        progress.advance(count / (rounds + 1))
    assumed = (np.arange(count)[:, None] < low) & ~tried  # (m, N)
    audited = assumed & _drawn(assumed, cells) if audit else np.zeros_like(assumed)
    for position in np.flatnonzero(audited.any(axis=1)).tolist():
        progress.doing(f"{name}: {task.label} audit, {_at(task, position)}")
        grid.attack(position, audited[position])
    grid.finish(assumed & ~audited, audited)
    progress.advance(count / (rounds + 1))


class _Grid:
    """Outcomes of a task at each of its radii, saved after every search, so that a killed run can be resumed."""

    def __init__(self, task: Task, cells: CellRunner) -> None:
        self._task = task
        self._cells = cells
        nothing = np.zeros(len(cells.context.data), dtype=bool)
        self._finished = [cells.finished(task, k) for k in range(len(task.strengths))]
        self._outcomes: dict[int, AttackOutcomes] = {
            k: AttackCell(cells.context, task, k, nothing).resumed()
            for k, held in enumerate(self._finished)
            if held is None
        }
        self._seconds = [0.0] * len(task.strengths)

    def attack(self, position: int, rows: np.ndarray) -> np.ndarray:
        """Which samples are right at a radius, [N], after those of `rows` [N] were attacked there."""
        if (held := self._finished[position]) is not None:
            right: np.ndarray = held["correct"] != 0
            return right
        start, outcomes = time.perf_counter(), self._outcomes[position]
        cell = AttackCell(self._cells.context, self._task, position, rows)
        cell.extend(outcomes)
        cell.save(outcomes)
        self._seconds[position] += time.perf_counter() - start
        right = outcomes.correct != 0
        return right

    def finish(self, assumed: np.ndarray, audited: np.ndarray) -> None:
        """Keeps all cells, with what was assumed and audited in them, [strength, sample] each."""
        for k, outcomes in self._outcomes.items():
            marked = outcomes.finished() | {"assumed": assumed[k], "audited": audited[k]}
            self._cells.keep(self._task, k, marked, outcomes.kept_examples, self._seconds[k])


def _drawn(assumed: np.ndarray, cells: CellRunner) -> np.ndarray:
    """Which samples are audited, [N]: of those with anything assumed, [strength, N], a keyed random part."""
    among: np.ndarray = np.logical_or.reduce(assumed)
    rng = Draws(cells.context.settings.seed, "bisection audit")
    order = rng.uniform(cells.context.data.index, (1,))[:, 0].argsort(stable=True).numpy()
    drawn = np.zeros(len(among), dtype=bool)
    drawn[order[among[order]][:AUDITED]] = True
    return drawn


def _is_multi_step(task: Task, attack: AttackSettings) -> bool:
    """Whether an attack takes several steps on the evaluated model itself."""
    several = task.plugin.steps > 1 if isinstance(task.plugin, Optimiser) else getattr(task.plugin, "bisectable", False)
    return several and attack.source is None


def _at(task: Task, position: int) -> str:
    return f"{task.unit} {task.strengths[position]:g}"
