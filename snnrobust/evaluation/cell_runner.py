"""Runs the cells of one model: a task at one strength each, computed whole, or continued where it stopped."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from snnrobust.common.files import Arrays
from snnrobust.data.batch import Batch
from snnrobust.errors import StoreError
from snnrobust.evaluation.attack_cell import AttackCell
from snnrobust.evaluation.attack_outcomes import KeptExamples, at_smaller_radius, beyond
from snnrobust.evaluation.cell_context import CellContext
from snnrobust.evaluation.noise_cell import NoiseCell
from snnrobust.evaluation.settings import EXHAUSTIVE
from snnrobust.objectives.logits import margin
from snnrobust.plugin.task import Task
from snnrobust.search.scoring import Score
from snnrobust.wrapping.decision import Correctness


class CellRunner:
    """Computes cells and keeps them in the store.

    Args:
        context: What all cells of the model share.
    """

    def __init__(self, context: CellContext) -> None:
        self.context = context

    def run(self, task: Task, position: int) -> None:
        """Computes the cell of `task` at its `position`-th strength unless the store holds it."""
        if self.finished(task, position) is not None:
            return
        start = time.perf_counter()
        examples: Arrays | None = None
        if task.kind == "clean":
            arrays, examples = self._clean()
        elif task.kind == "noise":
            arrays = NoiseCell(self.context, task, task.strengths[position]).run()
        else:
            arrays, examples = self._attack(task, position)
        self.keep(task, position, arrays, examples, time.perf_counter() - start)

    def finished(self, task: Task, position: int) -> Arrays | None:
        """The cell of `task` at its `position`-th strength where the store holds it."""
        return self.context.store.cell(self.context.model.name, self.context.prefix + task.label, position)

    def keep(self, task: Task, position: int, arrays: Arrays, examples: Arrays | None, seconds: float) -> None:
        """Keeps a finished cell that took `seconds`, and its examples."""
        store, label = self.context.store, self.context.prefix + task.label
        store.save_cell(self.context.model.name, label, position, arrays, seconds, examples)

    def right(self) -> np.ndarray:
        """Which samples are right without an attack, by mean or by vote, [N]; all where that is not known."""
        clean = self.context.clean or self.context.store.cell(self.context.model.name, "clean", 0)
        if clean is None:
            return np.ones(len(self.context.data), dtype=bool)
        right: np.ndarray = clean["correct"] | clean["voted"]
        return right

    def _clean(self) -> tuple[Arrays, Arrays | None]:
        context = self.context
        count = len(context.data)
        arrays: Arrays = {
            "correct": np.zeros(count, dtype=bool),
            "voted": np.zeros(count, dtype=bool),
            "margin": np.zeros(count, dtype=np.float32),
            "tied": np.zeros(count, dtype=bool),
            "silent": np.zeros(count, dtype=bool),
        }
        kept = context.examples
        examples = (
            KeptExamples.none_of(kept, tuple(context.data.x.shape[1:]), context.model.input_dtype) if kept else None
        )
        for rows, score in context.sizer.over(torch.arange(count), self._score):
            at, logits, y = rows.numpy(), score.logits, context.data.y[rows].to(context.model.device)
            found = Correctness(logits, y)
            arrays["correct"][at] = found.correct.cpu().numpy()
            arrays["voted"][at] = (score.voted & found.defined).cpu().numpy()
            arrays["margin"][at] = margin(logits, y).float().cpu().numpy()
            arrays["tied"][at] = found.tied.cpu().numpy()
            arrays["silent"][at] = found.silent.cpu().numpy()
            if examples is not None:
                examples.put(at, context.data.x[rows].to(context.model.input_dtype), logits.cpu())
        if examples is None:
            return arrays, None
        first = context.data.take(kept)
        lengths = {} if first.lengths is None else {"lengths": first.lengths.numpy()}
        return arrays, examples.arrays() | {"y": first.y.numpy(), "index": first.index.numpy()} | lengths

    def _score(self, rows: Tensor) -> Score:
        return self.context.scorer.score(self._batch(rows))

    def _batch(self, rows: Tensor) -> Batch:
        model = self.context.model
        return Batch.of(self.context.data, rows, model.device, model.input_dtype)

    def _attack(self, task: Task, position: int) -> tuple[Arrays, Arrays | None]:
        last = len(task.strengths) - 1
        if getattr(task.plugin, "minimum_norm", False) and position < last:
            self.run(task, last)  # one search at the largest radius serves them all
            widest, epsilon, examples = self._cell(task, last), task.strengths[position], self._examples(task, last)
            if examples is not None:
                examples = examples.without(beyond(widest, epsilon)[: len(examples.held)])
            return at_smaller_radius(widest, epsilon), None if examples is None else examples.arrays()
        outcomes = AttackCell(self.context, task, position, self._attacked(task, position)).run()
        return outcomes.finished(), outcomes.kept_examples

    def _cell(self, task: Task, position: int) -> Arrays:
        cell = self.finished(task, position)
        if cell is None:
            raise StoreError(f"expected a finished cell of '{task.label}', got none; report this as a bug")
        return cell

    def _examples(self, task: Task, position: int) -> KeptExamples | None:
        held = self.context.store.examples(self.context.model.name, self.context.prefix + task.label, position)
        return None if held is None else KeptExamples(**held)

    def _attacked(self, task: Task, position: int) -> np.ndarray:
        """Which samples are attacked: all of them when exhaustive, else those right so far by mean or by vote."""
        effort = self.context.effort
        attacked = np.ones(len(self.context.data), dtype=bool)
        if effort == EXHAUSTIVE:
            return attacked
        attacked &= self.right()
        for earlier in range(position) if effort.carry else ():
            cell = self.finished(task, earlier)
            if cell is not None:
                attacked &= (cell["correct"] != 0) | (cell["voted"] != 0)
        return attacked
