"""Base class of planes and lines: settings, checks before anything long, and the records of the rise of the loss."""

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
from snnrobust_landscapes.measurements import section_points
from snnrobust_landscapes.measurements.curvature_measurement import Space
from snnrobust_landscapes.measurements.setting_checks import require_counts, require_positive
from snnrobust_landscapes.operators.operator import OperatorSpec


@dataclass(frozen=True)
class LossSection(ABC):
    """The mean cross entropy of training data on a plane or line, batch norm in eval mode.

    Attributes:
        points: Points along each direction; odd, so that theta itself is one of them.
        radius: Largest multiple of a direction.
        samples: Number of training samples, the first ones (all if there are fewer).
        logit_scale: Factor of the logits before the cross entropy, as in training: rates are at most 1, where a plain
            softmax is far from certain.
        space: "weights" or "inputs".
        operator: The operator whose eigenvectors are used.
        chunk: Samples that go through the net together, fewer where memory runs out.

    Raises:
        InputError: For an even or small number of points, another setting out of range, or an unknown name.
    """

    resumable: ClassVar[bool] = True

    points: int = 21
    radius: float = 1.0
    samples: int = 500
    logit_scale: float = 1.0
    space: Space = "weights"
    operator: str | Mapping[str, Any] | OperatorSpec = "gauss-newton"
    chunk: int = 64

    def __post_init__(self) -> None:
        require_counts(self, points=3, samples=1, chunk=1)
        section_points.check_odd(self.points)
        require_positive(self, "radius", "logit_scale")
        section_points.check_section_settings(self.names, self.space, self.operator)

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The directions by name."""

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises unless there are training data with a finite loss, weights to move, and the named directions.

        Raises:
            InputError: If something is missing, the loss is not finite, or the operator does not fit the net.
            PluginError: If the surrogate can't be differentiated as the operator requires.
        """
        section_points.check_fits(model, data, self.space)
        with model.session():
            section_points.check_landscape(self.landscape(model, data), self.names, self.operator)

    def landscape(self, model: SpikingModel, data: EvaluationData) -> Landscape:
        """The loss of the training samples."""
        return section_points.training_landscape(
            model, data, space=self.space, samples=self.samples, chunk=self.chunk, logit_scale=self.logit_scale
        )

    def grid(self) -> np.ndarray:
        """Multiples of a direction, with 0 in the middle, [points]."""
        grid = np.linspace(-self.radius, self.radius, self.points)
        grid[self.points // 2] = 0.0
        return grid

    def records(self, middle: float, around: np.ndarray, at: float, count: int, threat: str) -> Iterable[Record]:
        """The loss at theta, and its largest and mean rise to the losses `around`, at the distance `at`."""
        rise = around - middle
        yield Record("loss", middle, count=count, threat=threat, space=self.space)
        for metric, value in (("loss_rise", rise.max()), ("loss_rise_mean", rise.mean())):
            unit = section_points.UNITS[self.space]
            yield Record(metric, float(value), count=count, strength=at, unit=unit, threat=threat, space=self.space)
