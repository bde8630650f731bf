"""What a net decides after each time step: its read-out applied to the first steps of its outputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from snnrobust.common.validate import check_count
from snnrobust.data.batch import Batch
from snnrobust.errors import InputError
from snnrobust.objectives.logits import margin
from snnrobust.wrapping.decision import Correctness
from snnrobust.wrapping.model import SpikingModel


@dataclass(frozen=True, eq=False)
class StepDecisions:
    """Decisions of a net after each of its time steps, on the CPU.

    A padded sequence that is over keeps its last decision at all later steps, so that the last row is what the net
    decides of whole sequences, and each row counts the same samples.

    Attributes:
        correct: Whether the predicted class is the label, [T, N].
        tied: Whether several classes share the largest logit, [T, N]; so do all of a silent output.
        margin: Logit of the true class minus the largest other one, [T, N].
    """

    correct: np.ndarray
    tied: np.ndarray
    margin: np.ndarray

    @property
    def steps(self) -> np.ndarray:
        """1, 2 ... T."""
        return np.arange(1, len(self.correct) + 1)

    @property
    def settled(self) -> np.ndarray:
        """First step, from 1, from which a decision stays right to the end, [N]; infinity where it ends wrong."""
        return first_lasting(self.correct)

    @property
    def mean_margin(self) -> np.ndarray:
        """Mean over the samples whose margin is finite, [T]; NaN where there is none."""
        finite = np.isfinite(self.margin)
        count = finite.sum(axis=1)
        total = np.where(finite, self.margin, 0.0).sum(axis=1)
        mean: np.ndarray = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
        return mean


def step_decisions(model: SpikingModel, batches: Iterable[Batch], draws: int = 1) -> StepDecisions:
    """Decisions after 1, 2 ... T steps: `model.read(outputs[:, :t])`, with lengths of at most t.

    Args:
        model: A model that returns its outputs over time.
        batches: The samples.
        draws: Draws of a stochastic model, over whose logits the mean is taken; others need one.

    Raises:
        InputError: If the net reads out by itself, or has a single step; if `draws` is below 1.
    """
    check_count("draws", draws)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    with torch.no_grad(), model.session():
        for batch in batches:
            logits = _logits_by_step(model, batch, draws if model.stochastic else 1)  # [T, N, K]
            y = batch.y.to(logits.device)
            decided = [Correctness(each, y) for each in logits]
            rows = (
                torch.stack([each.correct for each in decided]),
                torch.stack([each.tied for each in decided]),
                torch.stack([margin(each, y).double() for each in logits]),
            )
            found.append((rows[0].cpu(), rows[1].cpu(), rows[2].cpu()))
    correct, tied, margins = (torch.cat(part, dim=1).numpy() for part in zip(*found, strict=True))
    return StepDecisions(correct, tied, margins)


def check_steps(model: SpikingModel, batch: Batch, what: str) -> None:
    """Raises an `InputError` for `what` unless the model returns outputs of two time steps or more."""
    with torch.no_grad(), model.session():
        _require_steps(model, model.outputs(batch.x, keys=batch.index, lengths=batch.lengths), what)


def first_lasting(held: np.ndarray) -> np.ndarray:
    """First step, from 1, from which a condition [T, N] holds to the end, [N]; infinity where it does not at the end.

    Example:
        >>> first_lasting(np.array([[1, 0, 1], [0, 1, 1], [1, 1, 0]], dtype=bool))
        array([ 3.,  2., inf])
    """
    lasting = np.logical_and.accumulate(held[::-1], axis=0).sum(axis=0)  # [N]
    return np.where(lasting > 0, len(held) - lasting + 1.0, np.inf)


def _logits_by_step(model: SpikingModel, batch: Batch, draws: int) -> Tensor:
    """The logits after each step, [T, N, K]: the mean over draws."""
    return sum((_one_draw(model, batch, draw) for draw in range(1, draws)), _one_draw(model, batch, 0)) / draws


def _one_draw(model: SpikingModel, batch: Batch, draw: int) -> Tensor:
    outputs = model.outputs(batch.x, keys=batch.index, draw=draw, lengths=batch.lengths)  # [N, T, K]
    _require_steps(model, outputs, "decisions by time step")
    ends = range(1, outputs.shape[1] + 1)
    return torch.stack([model.read(outputs[:, :t], _up_to(batch.lengths, t)) for t in ends])


def _up_to(lengths: Tensor | None, step: int) -> Tensor | None:
    return None if lengths is None else lengths.clamp_max(step)


def _require_steps(model: SpikingModel, outputs: Tensor, what: str) -> None:
    if outputs.shape[1] < 2:
        raise InputError(
            f"expected outputs [N, T, K] of two or more time steps for {what}, got T = {outputs.shape[1]} from model "
            f"'{model.name}'; let the net return its outputs over time (sr.wrap(..., readout='mean')), or leave this "
            f"out for a net with its own read-out"
        )
