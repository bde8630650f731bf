"""Training loss and accuracy along a line in weight or input space."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from snnrobust.draws import Draws
from snnrobust.model import SpikingModel
from snnrobust.partial import Partial
from snnrobust.results import Artifact, Profile, Record
from snnrobust_landscapes import slices
from snnrobust_landscapes.landscape import Landscape
from snnrobust_landscapes.settings import require_counts, require_positive

if TYPE_CHECKING:
    from snnrobust.evaluation_data import EvaluationData
    from snnrobust.task import Task
    from snnrobust_landscapes.curvature import Space
    from snnrobust_landscapes.operators.operator import Kind


@dataclass(frozen=True)
class Line:
    """L(theta + a d) over a in [-radius, radius], for a direction d of relative norm 1; see `Plane`.

    Yields a `Profile` of "loss" and "accuracy", and the records "loss" (at theta), "loss_rise" and "loss_rise_mean":
    the larger and the mean of L(theta +- radius d) - L(theta).

    Attributes:
        points: Points of the line; odd, so that theta itself is one.
        radius: Largest multiple of the direction.
        samples: Training samples, the first so many (all where there are fewer).
        logit_scale: What training multiplied the logits by before the cross entropy.
        direction: "random", "adversarial" or "eigenvector" (see `directions.direction`).
        space: "weights" or "inputs".
        operator: For an eigenvector: of what.
        chunk: Samples that go through the net together, where memory has room for so many.

    Raises:
        InputError: For an even or small number of points, another setting out of range, or an unknown name.
    """

    points: int = 41
    radius: float = 1.0
    samples: int = 500
    logit_scale: float = 1.0
    direction: str = "random"
    space: Space = "weights"
    operator: str | Mapping[str, Any] | Kind = "gauss-newton"
    chunk: int = 64

    resumable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_counts(self, points=3, samples=1, chunk=1)
        slices.check_odd(self.points)
        require_positive(self, "radius", "logit_scale")
        slices.check_names((self.direction,), self.space, self.operator)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises unless there are training data with a finite loss, weights to move, and the direction asked for.

        Raises:
            InputError: For what is missing, a loss that is not finite, or an operator that does not fit the net.
            PluginError: If the surrogate can't be differentiated as the operator asks.
        """
        slices.check_fits(model, data, self.space)
        with model.session():
            slices.check_landscape(self._landscape(model, data), (self.direction,), self.operator)

    def measure(
        self, model: SpikingModel, data: EvaluationData, rng: Draws, kept: Partial | None = None
    ) -> Iterable[Record | Artifact]:
        """The profile and the records; the net's weights are as before."""
        slices.check_fits(model, data, self.space)
        kept = Partial() if kept is None else kept
        grid = np.linspace(-self.radius, self.radius, self.points)
        grid[self.points // 2] = 0.0
        with model.session():
            landscape = self._landscape(model, data)
            found = slices.directions((self.direction,), landscape, (rng.sub("direction"),), self.operator, kept)
            along, chunk = found[0].along, len(landscape.chunks[0].y)
            values = slices.walked(self.points, lambda k: landscape.loss(grid[k] * along), kept, chunk)
        unit, name = slices.UNITS[self.space], slices.about(self.direction, self.operator)
        count = len(landscape.samples)
        yield Profile(
            x=grid,
            values={"loss": values[:, 0], "accuracy": values[:, 1]},
            axis=f"direction, {name} / {unit}",
            caption=(
                f"{slices.described(landscape)} on a line through the {self.space}, {slices.LENGTHS[self.space]}"
                f"{slices.doubts(found)}"
            ),
        )
        threat = f"line of direction: {name}" + (", inputs" if self.space == "inputs" else "")
        middle = float(values[self.points // 2, 0])
        rise = values[[0, -1], 0] - middle
        yield Record("loss", middle, count=count, threat=threat)
        for metric, value in (("loss_rise", rise.max()), ("loss_rise_mean", rise.mean())):
            yield Record(metric, float(value), count=count, strength=self.radius, unit=unit, threat=threat)

    def _landscape(self, model: SpikingModel, data: EvaluationData) -> Landscape:
        return slices.slice_landscape(
            model, data, space=self.space, samples=self.samples, chunk=self.chunk, logit_scale=self.logit_scale
        )
