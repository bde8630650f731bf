"""Accuracy, margin and ties after each time step, and how many steps a decision takes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from snnrobust.common.random import Draws
from snnrobust.common.statistics import bootstrap_mean, clopper_pearson
from snnrobust.common.validate import check_count
from snnrobust.data.batch import Batch
from snnrobust.data.dataset import Dataset
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.measurements.time_steps import StepDecisions, check_steps, step_decisions
from snnrobust.plugin.task import Task
from snnrobust.results.artifacts import Artifact, Profile
from snnrobust.results.records import NAN, Record
from snnrobust.wrapping.model import SpikingModel

#: Share of the final accuracy that "t95" asks for.
ENOUGH = 0.95


@dataclass(frozen=True)
class AccuracyOverTime:
    """Accuracy, margin and ties when the read-out uses only the first t steps of the outputs, for t = 1 ... T.

    - "accuracy_at_step": share of samples whose class is right after step `strength`; "tie_share_at_step": share in
      which several classes share the largest logit, a silent output included. Clopper-Pearson intervals.
    - "margin_at_step": mean logit of the true class minus the largest other one, over the samples where it is finite,
      with a bootstrap interval. In units of the read-out: that of "sum" grows with the steps.
    - "settling_step": median over samples of the first step from which the decision stays right, of the samples that
      are right after the last step (`count`), with the interval of order statistics (NaN for few samples).
    - "t95": first step with at least 95 % of the accuracy after the last one; NaN where that is 0.
    - A `Profile` of the first three.

    A padded sequence that is over keeps its last decision at later steps, so that all steps count the same samples and
    the last one has the accuracy of the evaluation. The net itself runs through all steps, whatever the read-out uses.
    A stochastic model is measured at one draw.

    Attributes:
        samples: Number of test samples, the first ones (all if there are fewer).

    Raises:
        InputError: If `samples` is below 1.
    """

    samples: int = 1000

    def __post_init__(self) -> None:
        check_count("samples", self.samples)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` for a net with its own read-out, whose outputs have no time axis."""
        few = data.test.take(min(2, len(data.test)))
        check_steps(model, _batch(model, few, torch.arange(len(few))), "accuracy-over-time")

    def measure(self, model: SpikingModel, data: EvaluationData, rng: Draws) -> Iterator[Record | Artifact]:
        """Records of all of the above, and the profile."""
        test = data.test.take(min(self.samples, len(data.test)))
        rows = torch.split(torch.arange(len(test)), data.batch_size)
        found = step_decisions(model, (_batch(model, test, part) for part in rows))
        yield from _by_step(found, rng)
        yield from _latencies(found)
        yield Profile(
            found.steps.astype(np.float64),
            {
                "mean margin": found.mean_margin,
                "accuracy": found.correct.mean(axis=1),
                "ties": found.tied.mean(axis=1),
            },
            "Time (steps)",
            f"The read-out after the given number of time steps, on {len(test):,} samples.",
        )


def _batch(model: SpikingModel, data: Dataset, rows: torch.Tensor) -> Batch:
    return Batch.of(data, rows, model.device, model.dtype)


def _by_step(found: StepDecisions, rng: Draws) -> Iterator[Record]:
    count = found.correct.shape[1]
    for quantity, held in (("accuracy_at_step", found.correct), ("tie_share_at_step", found.tied)):
        for step, hits in zip(found.steps.tolist(), held.sum(axis=1).tolist(), strict=True):
            low, high = clopper_pearson(hits, count)
            yield Record(quantity, hits / count, low, high, count, strength=step, unit="step")
    for step, value, margins in zip(found.steps.tolist(), found.mean_margin.tolist(), found.margin, strict=True):
        finite = margins[np.isfinite(margins)]
        low, high = _interval(finite, rng.number("margin", step))
        yield Record("margin_at_step", value, low, high, len(finite), strength=step, unit="step")


def _interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    """The interval of a mean of values that are no shares; NaN without spread, which is no certainty."""
    return bootstrap_mean(values, seed) if len(values) and np.ptp(values) > 0 else (NAN, NAN)


def _latencies(found: StepDecisions) -> Iterator[Record]:
    settled = found.settled[np.isfinite(found.settled)]
    median, low, high = NAN, NAN, NAN
    if len(settled):
        median = float(np.median(settled))
        interval = stats.quantile_test(settled, q=median, p=0.5).confidence_interval(0.95)
        low, high = float(interval.low), float(interval.high)
    yield Record("settling_step", median, low, high, len(settled), threat="median of the samples right at the end")
    accuracy = found.correct.mean(axis=1)
    reached = math.nan if accuracy[-1] == 0 else float(found.steps[accuracy >= ENOUGH * accuracy[-1]][0])
    what = f"first step with {ENOUGH:.0%} of the final accuracy"
    yield Record("t95", reached, count=found.correct.shape[1], threat=what)
