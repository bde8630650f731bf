"""One cell of noise: how often each sample is right over noisy versions of it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from snnrobust.common.files import Arrays
from snnrobust.common.random import Draws
from snnrobust.data.batch import Batch
from snnrobust.data.padding import by_length, without_padding
from snnrobust.errors import ViolationError
from snnrobust.evaluation.cell_context import CellContext
from snnrobust.plugin.task import Task
from snnrobust.threat_models.selection import absent
from snnrobust.wrapping.decision import Correctness


class NoiseCell:
    """Noise of one severity on all samples.

    Args:
        context: What all cells of the model share.
        task: The corruption.
        severity: Its severity.
    """

    def __init__(self, context: CellContext, task: Task, severity: float) -> None:
        self._context = context
        self._task = task
        self._severity = severity
        count = len(context.data)
        self._right = np.zeros(count, dtype=np.float32)
        self._outside = np.zeros(count, dtype=np.float32)
        self._steps = np.zeros(count, dtype=np.int32)
        steady = getattr(task.plugin, "deterministic", False) and not context.model.stochastic
        self._draws = 1 if steady else task.draws  # without random numbers, all draws are alike

    def run(self) -> Arrays:
        """The cell's arrays, [sample].

        Returns:
            fraction: Share of the noisy versions that the net gets right.
            outside: Share of entries that the corruption left outside of the model's bounds, or with a fraction in a
                domain of whole numbers, before they were clipped and rounded; the mean over draws.
            steps: Steps of the noisy sequence, without padding; 0 for static data.
            forwards, backwards: Passes.
        """
        for rows, _ in self._context.sizer.over(torch.arange(len(self._right)), self._run):
            self._right[rows.numpy()] /= self._draws
            self._outside[rows.numpy()] /= self._draws
        spent = np.full(len(self._right), self._draws, dtype=np.int32)
        return {
            "fraction": self._right,
            "outside": self._outside,
            "steps": self._steps,
            "forwards": spent,
            "backwards": np.zeros_like(spent),
        }

    def _run(self, rows: Tensor) -> Tensor:
        """Sums over the draws of the samples at the positions `rows` [n]."""
        model, scorer, task = self._context.model, self._context.scorer, self._task
        samples, at = Batch.of(self._context.data, rows, model.device, model.input_dtype), rows.numpy()
        self._right[at] = self._outside[at] = 0  # memory may have run out in the middle
        for draw in range(self._draws):
            rng = Draws(self._context.settings.seed, task.label).sub(f"{self._severity:.12g}", draw).on(samples.x)
            noisy, outside = self._noisy(rng, samples)
            with torch.no_grad(), self._inside(rng, samples):
                # One draw of a stochastic net for each draw of the noise: both are averaged over.
                logits = model.logits(noisy.x, keys=samples.index, draw=scorer.first_draw + draw, lengths=noisy.lengths)
            self._right[at] += Correctness(logits, samples.y).correct.cpu().numpy()
            self._outside[at] += outside.numpy()
            if not model.static:
                self._steps[at] = noisy.x.shape[1] if noisy.lengths is None else noisy.lengths.numpy()
        return rows

    def _inside(self, rng: Draws, samples: Batch) -> AbstractContextManager[object]:
        """The noise within the net, of a corruption with `on`."""
        on = getattr(self._task.plugin, "on", None)
        if on is None:
            return nullcontext()
        found: AbstractContextManager[object] = on(self._context.model, self._severity, rng, samples.index)
        return found

    def _noisy(self, rng: Draws, samples: Batch) -> tuple[Batch, Tensor]:
        """The samples [n, *] with noise, which sees no padding, and which share of each one's entries left the domain.

        They are clipped to the model's bounds, and rounded in a domain of whole numbers.
        """
        parts, outside = [], torch.zeros(len(samples))
        for steps, at in by_length(samples.lengths, len(samples)):
            part = samples if steps is None else samples.select(at)
            part = part.with_inputs(without_padding(part.x, steps))
            noisy: Tensor = self._task.plugin.apply(part.x, self._severity, rng, part.index)
            inside = self._in_domain(noisy, part.x)
            self._check(inside, part)
            outside[at] = (inside != noisy).flatten(1).float().mean(dim=1).cpu()
            parts.append((at, inside))
        if samples.lengths is None:
            return samples.with_inputs(parts[0][1]), outside
        return _padded(samples, parts), outside

    def _in_domain(self, noisy: Tensor, x: Tensor) -> Tensor:
        model = self._context.model
        clipped = noisy.clamp(*model.bounds)
        if model.silent is not None and noisy.shape == x.shape and not getattr(self._task.plugin, "adds_spikes", False):
            clipped = torch.where(absent(x, model.silent), x, clipped)
        return clipped if model.domain == "real" else clipped.round()

    def _check(self, noisy: Tensor, samples: Batch) -> None:
        wrong, expected, shape = None, samples.x.shape, noisy.shape
        if getattr(self._task.plugin, "changes_steps", False) and len(shape) == len(expected) and shape[1] > 0:
            expected = torch.Size([expected[0], shape[1], *expected[2:]])
        if shape != expected:
            wrong = f"shape {tuple(shape)} for inputs {tuple(samples.x.shape)}"
        elif not torch.isfinite(noisy).all():
            finite = torch.isfinite(noisy).flatten(1).all(dim=1).cpu()
            wrong = f"NaN for sample {int(samples.index[~finite][0])}"
        if wrong is not None:
            raise ViolationError(f"expected finite inputs of the same shape from '{self._task.label}', got {wrong}")


def _padded(samples: Batch, parts: list[tuple[Tensor, Tensor]]) -> Batch:
    """Sequences [n, T, *] by length as one batch; where their steps changed, padded with zeros to the longest."""
    lengths = torch.zeros(len(samples), dtype=torch.int64)
    for at, part in parts:
        lengths[at] = part.shape[1]
    if samples.lengths is not None and bool((lengths == samples.lengths).all()):
        whole = samples.x.clone()
    else:
        whole = samples.x.new_zeros(len(samples), int(lengths.max()), *samples.x.shape[2:])
    for at, part in parts:
        whole[at.to(whole.device), : part.shape[1]] = part.to(whole.dtype)
    return replace(samples, x=whole, lengths=lengths)
