"""What an evaluation found already: evidence about an attack takes over the outcomes of equal searches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from snnrobust.common.files import Arrays
from snnrobust.plugin.task import Task
from snnrobust.results.store import Store


@dataclass(frozen=True)
class EarlierOutcomes:
    """The finished cells of an evaluation's own attacks on one model, on some of its samples.

    An attack draws its random numbers by seed, radius, restart and sample, not by label: an equal attack on the same
    sample ends the same way.

    Attributes:
        store: Keeps the cells.
        model: The model's name.
        tasks: The evaluation's own tasks.
        rows: Positions of the samples in the evaluation's data, [n].
    """

    store: Store
    model: str
    tasks: Sequence[Task]
    rows: np.ndarray

    def of(self, task: Task, epsilon: float) -> Arrays | None:
        """The outcomes of an equal attack at a radius, of the n samples; -1 where a sample was not attacked."""
        wanted = _searches(task)
        for each in self.tasks:
            if each.kind == "attack" and epsilon in each.strengths and _searches(each) == wanted:
                cell = self.store.cell(self.model, each.label, each.strengths.index(epsilon))
                if cell is not None and "assumed" not in cell:  # bisected
                    return {name: value[..., self.rows] for name, value in cell.items()}
        return None

    def robust_to_gradients(self, budget: str, epsilon: float) -> list[np.ndarray]:
        """Which of the n samples each gradient attack that is no ensemble leaves robust at a radius."""
        found = []
        for each in self.tasks:
            if each.attack is None or each.attack.budget != budget or epsilon not in each.strengths:
                continue
            up_to = each.strengths[: each.strengths.index(epsilon) + 1]
            held = [self.store.cell(self.model, each.label, k) for k in range(len(up_to))]
            cells = [cell for cell in held if cell is not None]
            if any(cell["backwards"].any() for cell in cells):
                found.append(np.logical_and.reduce([cell["correct"][self.rows] != 0 for cell in cells]))
        return found


def _searches(task: Task) -> list[Task]:
    """What decides the outcome of each of a task's attacks at a given radius."""
    return [replace(each, label="", strengths=(), tuned=None) for each, _ in task.attacks]
