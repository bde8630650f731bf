"""Accuracy, margin and attack success after each time step, on originals and on adversarial examples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from snnrobust.analysis.examples import AdversarialExamples
from snnrobust.common.ambient import neutral_modes
from snnrobust.common.statistics import clopper_pearson
from snnrobust.data.batch import Batch
from snnrobust.errors import InputError, InputTypeError
from snnrobust.measurements.time_steps import StepDecisions, first_lasting, step_decisions
from snnrobust.report.time_plots import attack_by_step
from snnrobust.wrapping.model import SpikingModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Samples in a batch.
BATCH = 256


@dataclass(frozen=True, eq=False)
class AttackOverTime:
    """Decisions after each time step, 1 ... T, without and with an attack.

    Attributes:
        original: Decisions on the originals.
        adversarial: Decisions on the adversarial examples, the same samples.
        label: Label of the attack.
        model: Name of the model.
        epsilon: The radius.
    """

    original: StepDecisions
    adversarial: StepDecisions
    label: str
    model: str
    epsilon: float

    @property
    def steps(self) -> np.ndarray:
        """1, 2 ... T."""
        return self.original.steps

    @property
    def original_accuracy(self) -> np.ndarray:
        """Share of the originals that are right after each step, [T]."""
        return np.asarray(self.original.correct.mean(axis=1))

    @property
    def adversarial_accuracy(self) -> np.ndarray:
        """Share of the adversarial examples that are right after each step, [T]."""
        return np.asarray(self.adversarial.correct.mean(axis=1))

    @property
    def success(self) -> np.ndarray:
        """Share of wrong adversarial examples after each step, of the samples whose original is right after it, [T].

        NaN where no original is right.
        """
        broken, right = self._broken_and_right()
        share: np.ndarray = np.divide(broken, right, out=np.full(len(right), np.nan), where=right > 0)
        return share

    @property
    def success_interval(self) -> np.ndarray:
        """Clopper-Pearson intervals of `success`, [T, 2]; NaN where no original is right."""
        unknown = (np.nan, np.nan)
        pairs = zip(*(each.tolist() for each in self._broken_and_right()), strict=True)
        return np.array([clopper_pearson(broken, right) if right else unknown for broken, right in pairs])

    @property
    def broken_from(self) -> np.ndarray:
        """First step, from 1, from which the adversarial example stays wrong, [N]; infinity where it ends right."""
        return first_lasting(~self.adversarial.correct)

    def plot(self) -> Figure:
        """Shares in percent over the time steps, and the mean margins below, with their quartiles."""
        shares = {
            "original": self.original_accuracy,
            "after the attack": self.adversarial_accuracy,
            "attack success": self.success,
        }
        margins = {"original": self.original.margin, "after the attack": self.adversarial.margin}
        title = f"{self.label}, epsilon {self.epsilon:.4g}: {self.model}"
        return attack_by_step(self.steps, shares, self.success_interval, margins, title)

    def _broken_and_right(self) -> tuple[np.ndarray, np.ndarray]:
        right = self.original.correct
        return (right & ~self.adversarial.correct).sum(axis=1), right.sum(axis=1)

    def __repr__(self) -> str:
        first, last = (f"{100 * each:.1f} %" for each in self.success[[0, -1]])
        return (
            f"AttackOverTime('{self.label}' on '{self.model}' within {self.epsilon:g}: success {first} after step 1, "
            f"{last} after step {len(self.steps)})"
        )


@neutral_modes()
def attack_over_time(
    model: SpikingModel, found: AdversarialExamples, *, lengths: Tensor | None = None, draws: int = 1
) -> AttackOverTime:
    """Decisions of a model after each time step, on the originals and on the adversarial examples.

    The attack aimed at the decision after the last step; here the read-out is applied to the first t steps of the
    outputs. Padded sequences keep their last decision when they are over.

    Args:
        model: The attacked model, or another one that takes the same inputs.
        found: Adversarial examples from `attack` or `Report.examples`.
        lengths: Valid steps of each sequence, [N]; those of `found` where left out.
        draws: Draws of a stochastic model, over whose logits the mean is taken.

    Raises:
        InputError: If the net reads out by itself, without a time axis, or `lengths` don't fit.
        InputTypeError: If `model` is not a wrapped model.

    Example:
        >>> import snnrobust as sr
        >>> from snnrobust.testing import tiny_data, tiny_model
        >>> model = tiny_model(temporal=True)
        >>> found = sr.attack(model, tiny_data(temporal=True), sr.load("flips", norm="l0", epsilon=4))
        >>> bool(attack_over_time(model, found).success[-1] == found.success.double().mean().item())
        True
    """
    if not isinstance(model, SpikingModel):
        raise InputTypeError(f"expected a SpikingModel, got {type(model).__name__}; wrap the net with sr.wrap")
    given = found.lengths if lengths is None else lengths
    if given is not None:
        _check_lengths(given, found.x)
    before, after = (step_decisions(model, _batches(model, found, x, given), draws) for x in (found.original, found.x))
    return AttackOverTime(before, after, found.label, model.name, found.epsilon)


def _batches(model: SpikingModel, found: AdversarialExamples, x: Tensor, lengths: Tensor | None) -> Iterator[Batch]:
    whole = Batch(x, found.y, found.index, lengths)
    for rows in torch.split(torch.arange(len(x)), BATCH):
        part = whole.select(rows)
        yield Batch(part.x.to(model.device), part.y.to(model.device), part.index, part.lengths)


def _check_lengths(lengths: Tensor, x: Tensor) -> None:
    fits = lengths.shape == x.shape[:1] and not lengths.is_floating_point()
    if not fits or x.ndim < 2 or int(lengths.min()) < 1 or int(lengths.max()) > x.shape[1]:
        raise InputError(
            f"expected lengths [{len(x)}] of whole numbers from 1 to the steps of x {list(x.shape)}, got "
            f"{lengths.dtype} of shape {list(lengths.shape)}; pass the valid steps of each sample"
        )
