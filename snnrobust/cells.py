"""One cell of an evaluation: a model, a task and a strength; computed whole, or continued where it stopped."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from snnrobust.attack_cell import AttackCell, Effort, at_smaller_radius
from snnrobust.data import Dataset
from snnrobust.draws import Draws
from snnrobust.errors import StoreError, ViolationError
from snnrobust.evaluation_data import EvaluationData
from snnrobust.files import Arrays
from snnrobust.losses import margin
from snnrobust.model import SpikingModel
from snnrobust.problem import Judge, keep_padding
from snnrobust.store import Store
from snnrobust.task import Task


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
        clean: Arrays | None = None,
        skip: frozenset[str] = frozenset(),
    ) -> None:
        self.model = model
        self.data: Dataset = data.test
        self.batch_size = data.batch_size
        self.store = store
        self.seed = seed
        self.effort = effort
        self.judge = Judge(model, seed, scoring_draws)
        self.sources = sources
        self.prefix = prefix
        self._known_clean = clean
        self._skip = skip

    def run(self, task: Task, position: int) -> None:
        """Computes the cell of `task` at its `position`-th strength unless the store holds it."""
        label = self.prefix + task.label
        if self.store.cell(self.model.name, label, position) is not None:
            return
        start = time.perf_counter()
        if task.kind == "clean":
            arrays = self._clean()
        elif task.kind == "noise":
            arrays = self._noise(task, task.strengths[position])
        else:
            arrays = self._attack(task, position)
        self.store.save_cell(self.model.name, label, position, arrays, time.perf_counter() - start)

    def _clean(self) -> Arrays:
        count = len(self.data)
        arrays: Arrays = {
            "correct": np.zeros(count, dtype=bool),
            "voted": np.zeros(count, dtype=bool),
            "margin": np.zeros(count, dtype=np.float32),
            "tied": np.zeros(count, dtype=bool),
            "silent": np.zeros(count, dtype=bool),
        }
        for rows in torch.split(torch.arange(count), self.batch_size):
            x, y, index, lengths = self._take(rows)
            at = rows.numpy()
            score = self.judge.score(x, y, index, lengths)
            logits = score.logits
            right = (self.model.predict(logits) == y) & torch.isfinite(logits).all(dim=1)
            arrays["correct"][at] = right.cpu().numpy()
            arrays["voted"][at] = (score.voted & torch.isfinite(logits).all(dim=1)).cpu().numpy()
            arrays["margin"][at] = margin(logits, y).float().cpu().numpy()
            arrays["tied"][at] = ((logits == logits.amax(dim=1, keepdim=True)).sum(dim=1) > 1).cpu().numpy()
            arrays["silent"][at] = (logits == 0).all(dim=1).cpu().numpy()
        return arrays

    def _noise(self, task: Task, severity: float) -> Arrays:
        """Accuracy of each sample over `draws` noisy versions; inputs are clipped to the model's bounds."""
        low, high = self.model.bounds
        fraction = np.zeros(len(self.data), dtype=np.float32)
        for rows in torch.split(torch.arange(len(self.data)), self.batch_size):
            x, y, index, lengths = self._take(rows)
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
            fraction[rows.numpy()] = (right / task.draws).numpy()
        spent = np.full(len(self.data), task.draws, dtype=np.int32)
        return {"fraction": fraction, "forwards": spent, "backwards": np.zeros_like(spent)}

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
        cell = AttackCell(
            model=self.model,
            sources=self.sources,
            data=self.data,
            standing=self._standing(task, position),
            judge=self.judge,
            store=self.store,
            label=self.prefix + task.label,
            position=position,
            seed=self.seed,
            effort=self.effort,
            pool=self.batch_size,
            skip=self._skip if task.members else frozenset(),
        )
        return cell.run(task)

    def _cell(self, task: Task, position: int) -> Arrays:
        cell = self.store.cell(self.model.name, self.prefix + task.label, position)
        if cell is None:
            raise StoreError(f"expected a finished cell of '{task.label}', got none; report this as a bug")
        return cell

    def _standing(self, task: Task, position: int) -> np.ndarray:
        """Which samples are attacked: all of them when exhaustive, else those right so far by mean or by vote."""
        standing = np.ones(len(self.data), dtype=bool)
        if not self.effort.stop:
            return standing
        clean = self._known_clean or self.store.cell(self.model.name, "clean", 0)
        if clean is not None:
            standing = clean["correct"] | clean["voted"]
        for earlier in range(position) if self.effort.carry else ():
            cell = self.store.cell(self.model.name, self.prefix + task.label, earlier)
            if cell is not None:
                standing &= (cell["correct"] != 0) | (cell["voted"] != 0)
        return standing

    def _take(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        x = self.data.x[rows].to(device=self.model.device, dtype=self.model.dtype)
        lengths = None if self.data.lengths is None else self.data.lengths[rows]
        return x, self.data.y[rows].to(self.model.device), self.data.index[rows], lengths
