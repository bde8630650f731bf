"""What slices through a loss landscape share: settings, checks before anything long, and the records of their rise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.plugin.task import Task
from snnrobust.results.records import Record
from snnrobust.wrapping.model import SpikingModel
from snnrobust_landscapes.loss.landscape import Landscape
from snnrobust_landscapes.measurements import slices
from snnrobust_landscapes.measurements.curvature import Space
from snnrobust_landscapes.measurements.settings import require_counts, require_positive
from snnrobust_landscapes.operators.operator import Kind


@dataclass(frozen=True)
class Slice(ABC):
    """A slice through the mean cross entropy of training data, batch norm in eval mode.

    Attributes:
        points: Points along each direction; odd, so that theta itself is one.
        radius: Largest multiple of a direction.
        samples: Training samples, the first so many (all where there are fewer).
        logit_scale: What training multiplied the logits by before the cross entropy; rates end at 1, where a plain
            softmax is still undecided.
        space: "weights" or "inputs".
        operator: For eigenvectors: of what.
        chunk: Samples that go through the net together, where memory has room for so many.

    Raises:
        InputError: For an even or small number of points, another setting out of range, or an unknown name.
    """

    resumable: ClassVar[bool] = True

    points: int = 21
    radius: float = 1.0
    samples: int = 500
    logit_scale: float = 1.0
    space: Space = "weights"
    operator: str | Mapping[str, Any] | Kind = "gauss-newton"
    chunk: int = 64

    def __post_init__(self) -> None:
        require_counts(self, points=3, samples=1, chunk=1)
        slices.check_odd(self.points)
        require_positive(self, "radius", "logit_scale")
        slices.check_names(self.names, self.space, self.operator)

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The directions by name."""

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises unless there are training data with a finite loss, weights to move, and the directions asked for.

        Raises:
            InputError: For what is missing, a loss that is not finite, or an operator that does not fit the net.
            PluginError: If the surrogate can't be differentiated as the operator asks.
        """
        slices.check_fits(model, data, self.space)
        with model.session():
            slices.check_landscape(self.landscape(model, data), self.names, self.operator)

    def landscape(self, model: SpikingModel, data: EvaluationData) -> Landscape:
        """The loss that is sliced."""
        return slices.slice_landscape(
            model, data, space=self.space, samples=self.samples, chunk=self.chunk, logit_scale=self.logit_scale
        )

    def grid(self) -> np.ndarray:
        """Multiples of a direction, with 0 in the middle, [points]."""
        grid = np.linspace(-self.radius, self.radius, self.points)
        grid[self.points // 2] = 0.0
        return grid

    def records(self, middle: float, around: np.ndarray, at: float, count: int, threat: str) -> Iterable[Record]:
        """The loss at theta, and its largest and its mean rise to the losses `around`, `at` so far away."""
        rise = around - middle
        yield Record("loss", middle, count=count, threat=threat)
        for metric, value in (("loss_rise", rise.max()), ("loss_rise_mean", rise.mean())):
            unit = slices.UNITS[self.space]
            yield Record(metric, float(value), count=count, strength=at, unit=unit, threat=threat)
