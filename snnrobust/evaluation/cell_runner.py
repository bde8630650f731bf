"""One cell of an evaluation: a model, a task and a strength; computed whole, or continued where it stopped."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor

from snnrobust.common.batching import BatchSizer
from snnrobust.common.files import Arrays
from snnrobust.common.random import Draws
from snnrobust.data.dataset import Dataset
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.data.padding import keep_padding
from snnrobust.errors import StoreError, ViolationError
from snnrobust.evaluation.attack_cell import AttackCell, Effort, at_smaller_radius
from snnrobust.objectives.logits import margin
from snnrobust.plugin.task import Task
from snnrobust.results.store import Store
from snnrobust.search.scoring import Score, Scorer, taken
from snnrobust.wrapping.model import SpikingModel


class Cells:
    """Computes the cells of one model and keeps them in a store.

    Args:
        model: The model.
        data: The samples.
        store: Where cells are kept.
        seed: Seed of the evaluation.
        effort: How much of each search is done.
        scoring_draws: Draws that a stochastic model is scored on.
        sources: All models by name, for attacks that transfer from one to another.
        prefix: What goes before a task's label in the store.
        pool: How many samples are in flight at once; None: the batch size of `data`.
        clean: Clean outcomes of the samples, where the store does not hold them for just these.
        skip: Labels of members of ensembles that the model does not allow.
    """

    def __init__(
        self,
        model: SpikingModel,
        data: EvaluationData,
        store: Store,
        *,
        seed: int,
        effort: Effort,
        scoring_draws: int,
        sources: Mapping[str, SpikingModel],
        prefix: str = "",
        pool: BatchSizer | None = None,
        clean: Arrays | None = None,
        skip: frozenset[str] = frozenset(),
    ) -> None:
        self.model = model
        self.data: Dataset = data.test
        self.pool = pool or BatchSizer(data.batch_size)
        self.store = store
        self.seed = seed
        self.effort = effort
        self.judge = Scorer(model, seed, scoring_draws)
        self.sources = sources
        self.prefix = prefix
        self._known_clean = clean
        self._skip = skip

    def run(self, task: Task, position: int) -> None:
        """Computes the cell of `task` at its `position`-th strength unless the store holds it."""
        if self.finished(task, position) is not None:
            return
        start = time.perf_counter()
        if task.kind == "clean":
            arrays = self._clean()
        elif task.kind == "noise":
            arrays = self._noise(task, task.strengths[position])
        else:
            arrays = self._attack(task, position)
        self.keep(task, position, arrays, time.perf_counter() - start)

    def finished(self, task: Task, position: int) -> Arrays | None:
        """The cell of `task` at its `position`-th strength where the store holds it."""
        return self.store.cell(self.model.name, self.prefix + task.label, position)

    def keep(self, task: Task, position: int, arrays: Arrays, seconds: float) -> None:
        """Keeps a finished cell that took `seconds`."""
        self.store.save_cell(self.model.name, self.prefix + task.label, position, arrays, seconds)

    def _clean(self) -> Arrays:
        count = len(self.data)
        arrays: Arrays = {
            "correct": np.zeros(count, dtype=bool),
            "voted": np.zeros(count, dtype=bool),
            "margin": np.zeros(count, dtype=np.float32),
            "tied": np.zeros(count, dtype=bool),
            "silent": np.zeros(count, dtype=bool),
        }
        for rows, score in self.pool.over(torch.arange(count), self._score):
            at, logits, y = rows.numpy(), score.logits, self.data.y[rows].to(self.model.device)
            right = (self.model.predict(logits) == y) & torch.isfinite(logits).all(dim=1)
            arrays["correct"][at] = right.cpu().numpy()
            arrays["voted"][at] = (score.voted & torch.isfinite(logits).all(dim=1)).cpu().numpy()
            arrays["margin"][at] = margin(logits, y).float().cpu().numpy()
            arrays["tied"][at] = ((logits == logits.amax(dim=1, keepdim=True)).sum(dim=1) > 1).cpu().numpy()
            arrays["silent"][at] = (logits == 0).all(dim=1).cpu().numpy()
        return arrays

    def _score(self, rows: Tensor) -> Score:
        return self.judge.score(*taken(self.model, self.data, rows))

    def _noise(self, task: Task, severity: float) -> Arrays:
        """Accuracy of each sample over `draws` noisy versions."""
        fraction = np.zeros(len(self.data), dtype=np.float32)
        for rows, right in self.pool.over(torch.arange(len(self.data)), partial(self._right_in_noise, task, severity)):
            fraction[rows.numpy()] = (right / task.draws).numpy()
        spent = np.full(len(self.data), task.draws, dtype=np.int32)
        return {"fraction": fraction, "forwards": spent, "backwards": np.zeros_like(spent)}

    def _right_in_noise(self, task: Task, severity: float, rows: Tensor) -> Tensor:
        """How many noisy versions of each sample the net gets right, [n]; they are clipped to the model's bounds."""
        low, high = self.model.bounds
        x, y, index, lengths = taken(self.model, self.data, rows)
        right = torch.zeros(len(rows))
        for draw in range(task.draws):
            rng = Draws(self.seed, task.label).sub(f"{severity:.12g}", draw).on(x)
            noisy = keep_padding(task.plugin.apply(x, severity, rng, index).clamp(low, high), x, lengths)
            self._check_noise(noisy, x, task, index)
            with torch.no_grad():
                # One draw of a stochastic net for each draw of the noise: both are averaged over.
                first = Draws(self.seed, "scoring").number() + draw
                logits = self.model.logits(noisy, keys=index, draw=first, lengths=lengths)
            right += ((self.model.predict(logits) == y) & torch.isfinite(logits).all(dim=1)).cpu()
        return right

    def _check_noise(self, noisy: Tensor, x: Tensor, task: Task, index: Tensor) -> None:
        wrong = None
        if noisy.shape != x.shape:
            wrong = f"shape {tuple(noisy.shape)} for inputs {tuple(x.shape)}"
        elif not torch.isfinite(noisy).all():
            wrong = f"NaN for sample {int(index[~torch.isfinite(noisy).flatten(1).all(dim=1).cpu()][0])}"
        elif self.model.domain != "real" and bool((noisy != noisy.round()).any()):
            wrong = f"fractions in domain '{self.model.domain}'"
        if wrong is not None:
            raise ViolationError(f"expected finite inputs of the model's domain from '{task.label}', got {wrong}")

    def _attack(self, task: Task, position: int) -> Arrays:
        if getattr(task.plugin, "minimum_norm", False) and position < len(task.strengths) - 1:
            self.run(task, len(task.strengths) - 1)  # one search at the largest radius serves them all
            return at_smaller_radius(self._cell(task, len(task.strengths) - 1), task.strengths[position])
        return self.attack_cell(task, position, self._standing(task, position)).run(task)

    def attack_cell(self, task: Task, position: int, standing: np.ndarray) -> AttackCell:
        """The cell of `task` at its `position`-th strength, to be run on the samples `standing` [N]."""
        return AttackCell(
            model=self.model,
            sources=self.sources,
            data=self.data,
            standing=standing,
            judge=self.judge,
            store=self.store,
            label=self.prefix + task.label,
            position=position,
            seed=self.seed,
            effort=self.effort,
            pool=self.pool,
            skip=self._skip if task.members else frozenset(),
        )

    def _cell(self, task: Task, position: int) -> Arrays:
        cell = self.finished(task, position)
        if cell is None:
            raise StoreError(f"expected a finished cell of '{task.label}', got none; report this as a bug")
        return cell

    def _standing(self, task: Task, position: int) -> np.ndarray:
        """Which samples are attacked: all of them when exhaustive, else those right so far by mean or by vote."""
        standing = np.ones(len(self.data), dtype=bool)
        if not self.effort.stop:
            return standing
        standing &= self.right()
        for earlier in range(position) if self.effort.carry else ():
            cell = self.finished(task, earlier)
            if cell is not None:
                standing &= (cell["correct"] != 0) | (cell["voted"] != 0)
        return standing

    def right(self) -> np.ndarray:
        """Which samples are right without an attack, by mean or by vote, [N]; all where that is not known."""
        clean = self._known_clean or self.store.cell(self.model.name, "clean", 0)
        if clean is None:
            return np.ones(len(self.data), dtype=bool)
        right: np.ndarray = clean["correct"] | clean["voted"]
        return right
