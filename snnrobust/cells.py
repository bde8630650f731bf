"""One cell of an evaluation: a model, a task and a strength; computed whole, or continued where it stopped."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from snnrobust.data import Dataset
from snnrobust.draws import Draws
from snnrobust.errors import ViolationError
from snnrobust.evaluation_data import EvaluationData
from snnrobust.files import Arrays
from snnrobust.losses import margin
from snnrobust.model import SpikingModel
from snnrobust.oracle import Oracle
from snnrobust.plugin import Optimiser
from snnrobust.problem import Found, Judge, Problem, keep_padding
from snnrobust.search import perturb, search
from snnrobust.store import Store
from snnrobust.task import Attack, Task
from snnrobust.threat import ThreatModel

#: Seconds between two saves of a cell that is still running.
SAVE_EVERY = 20.0


class Cells:
    """Computes the cells of one model and keeps them in a store."""

    def __init__(
        self, model: SpikingModel, data: EvaluationData, store: Store, *, seed: int, mode: str, scoring_draws: int
    ) -> None:
        self.model = model
        self.data: Dataset = data.test
        self.batch_size = data.batch_size
        self.store = store
        self.seed = seed
        self.stop = mode == "nested"
        self.judge = Judge(model, seed, scoring_draws)
        self._lengths: dict[int, int] | None = None
        if self.data.lengths is not None:
            self._lengths = dict(zip(self.data.index.tolist(), self.data.lengths.tolist(), strict=True))

    def run(self, task: Task, position: int) -> None:
        """Computes the cell of `task` at its `position`-th strength unless the store holds it."""
        if self.store.cell(self.model.name, task.label, position) is not None:
            return
        start = time.perf_counter()
        if task.kind == "clean":
            arrays = self._clean()
        elif task.attack is None:
            arrays = self._noise(task, task.strengths[position])
        else:
            arrays = self._attack(task, task.attack, position)
        self.store.save_cell(self.model.name, task.label, position, arrays, time.perf_counter() - start)

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

    def _attack(self, task: Task, attack: Attack, position: int) -> Arrays:
        epsilon = task.strengths[position]
        name = self.model.name
        arrays = self.store.partial(name, task.label, position) or self._untouched()
        standing = self._standing(task, position)
        saved = time.monotonic()

        for restart in range(attack.restarts):

            def done(found: Found, restart: int = restart) -> None:
                nonlocal saved
                self._merge(arrays, found, restart)
                if time.monotonic() - saved > SAVE_EVERY:
                    self.store.save_partial(name, task.label, position, arrays)
                    saved = time.monotonic()

            due = standing & (arrays["restarts"] == restart)
            if self.stop and not self.model.stochastic:  # scoring draws must not steer a search
                due &= _unbroken(arrays)
            rows = torch.from_numpy(np.flatnonzero(due))
            if len(rows):
                # Not keyed by label: attacks that differ in one factor start alike, and are compared in pairs.
                rng = Draws(self.seed, "attack").sub(f"{epsilon:.12g}", restart)
                problem = self._problem(task, attack, epsilon, rng)
                try:
                    if isinstance(task.plugin, Optimiser):
                        search(problem, task.plugin, rows, done)
                    else:
                        perturb(problem, task.plugin, rows, done)
                except BaseException:
                    self.store.save_partial(name, task.label, position, arrays)
                    raise
        return {key: value for key, value in arrays.items() if key not in ("restarts", "rank")}

    def _problem(self, task: Task, attack: Attack, epsilon: float, rng: Draws) -> Problem:
        return Problem(
            judge=self.judge,
            oracle=Oracle(
                self.model, attack.objective, attack.gradient, attack.eot, rng.sub("search").number(), self._lengths
            ),
            objective=attack.objective,
            data=self.data,
            threat=ThreatModel(attack.norm, epsilon, self.model.bounds, self.model.domain),
            rng=rng,
            pool=self.batch_size,
            stop=self.stop,
            name=task.label,
        )

    def _standing(self, task: Task, position: int) -> np.ndarray:
        """Which samples are attacked: all of them when exhaustive, else those right so far by mean or by vote."""
        if not self.stop:
            return np.ones(len(self.data), dtype=bool)
        clean = self.store.cell(self.model.name, "clean", 0)
        standing = np.ones(len(self.data), dtype=bool) if clean is None else clean["correct"] | clean["voted"]
        for earlier in range(position):
            cell = self.store.cell(self.model.name, task.label, earlier)
            if cell is not None:
                standing &= _unbroken(cell)
        return standing

    def _untouched(self) -> Arrays:
        count = len(self.data)
        return {
            "correct": np.full(count, -1, dtype=np.int8),
            "voted": np.full(count, -1, dtype=np.int8),
            "margin": np.full(count, np.nan, dtype=np.float32),
            "last_correct": np.full(count, -1, dtype=np.int8),
            "unchanged": np.full(count, -1, dtype=np.int8),
            "forwards": np.zeros(count, dtype=np.int32),
            "backwards": np.zeros(count, dtype=np.int32),
            "disagreements": np.zeros(count, dtype=np.int32),
            "restarts": np.zeros(count, dtype=np.int32),
            "rank": np.full(count, np.inf, dtype=np.float32),
        }

    def _merge(self, arrays: Arrays, found: Found, restart: int) -> None:
        """Takes a sample's outcome over where this restart was stronger than the ones before."""
        rows = found.rows.numpy()
        correct, rank = found.correct.numpy(), found.rank.float().numpy()
        stronger = rank < arrays["rank"][rows]
        if restart == 0:
            stronger[:] = True
        if not self.model.stochastic:
            # A restart that broke the sample on the user's net outweighs one that only looked stronger.
            broken = arrays["correct"][rows] == 0
            stronger = (~correct & ~broken) | (stronger & ~(correct & broken))
        taken = rows[stronger]
        arrays["correct"][taken] = correct[stronger]
        arrays["voted"][taken] = found.voted.numpy()[stronger]
        arrays["margin"][taken] = found.margin.float().numpy()[stronger]
        last = found.last_correct.numpy()
        arrays["last_correct"][rows] = last if restart == 0 else np.minimum(arrays["last_correct"][rows], last)
        arrays["unchanged"][taken] = found.unchanged.numpy()[stronger]
        arrays["rank"][taken] = rank[stronger]
        arrays["forwards"][rows] += found.forwards.numpy().astype(np.int32)
        arrays["backwards"][rows] += found.backwards.numpy().astype(np.int32)
        arrays["disagreements"][rows] += found.disagreements.numpy().astype(np.int32)
        arrays["restarts"][rows] = restart + 1

    def _take(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        x = self.data.x[rows].to(device=self.model.device, dtype=self.model.dtype)
        lengths = None if self.data.lengths is None else self.data.lengths[rows]
        return x, self.data.y[rows].to(self.model.device), self.data.index[rows], lengths


def _unbroken(arrays: Arrays) -> np.ndarray:
    """Which samples an attack has not broken, or not yet tried: by mean logits or, for stochastic nets, by vote."""
    unbroken: np.ndarray = (arrays["correct"] != 0) | (arrays["voted"] != 0)
    return unbroken
