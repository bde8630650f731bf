"""Training loss and accuracy along a line in weight or input space."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.results.artifacts import Artifact, Profile
from snnrobust.results.checkpoint import MeasurementCheckpoint
from snnrobust.results.records import Record
from snnrobust.wrapping.model import SpikingModel
from snnrobust_landscapes.measurements import section_points
from snnrobust_landscapes.measurements.loss_section import LossSection


@dataclass(frozen=True)
class Line(LossSection):
    """L(theta + a d) over a in [-radius, radius], for a direction d of relative norm 1; see `LossSection` and `Plane`.

    Yields a `Profile` of "loss" and "accuracy", and the records "loss" (at theta), "loss_rise" and "loss_rise_mean":
    the larger and the mean of L(theta +- radius d) - L(theta).

    Attributes:
        direction: "random", "adversarial" or "eigenvector" (see `directions.make_direction`).
    """

    points: int = 41
    direction: str = "random"

    @property
    def names(self) -> tuple[str, ...]:
        """The direction's name."""
        return (self.direction,)

    def measure(
        self, model: SpikingModel, data: EvaluationData, rng: Draws, checkpoint: MeasurementCheckpoint | None = None
    ) -> Iterable[Record | Artifact]:
        """The profile and the records; the net's weights are as before."""
        section_points.check_fits(model, data, self.space)
        checkpoint = MeasurementCheckpoint() if checkpoint is None else checkpoint
        grid = self.grid()
        with model.session():
            landscape = self.landscape(model, data)
            found = section_points.section_directions(
                self.names, landscape, (rng.sub("direction"),), self.operator, checkpoint
            )
            along, chunk = found[0].along, len(landscape.chunks[0].y)
            values = section_points.losses_at_points(
                self.points, lambda k: landscape.loss(grid[k] * along), checkpoint, chunk
            )
        unit, name = section_points.UNITS[self.space], section_points.direction_in_words(self.direction, self.operator)
        yield Profile(
            x=grid,
            values={"loss": values[:, 0], "accuracy": values[:, 1]},
            axis=f"direction, {name} / {unit}",
            caption=(
                f"{section_points.caption_start(landscape)} on a line through the {self.space}, "
                f"{section_points.LENGTH_NOTES[self.space]}{section_points.unconverged_note(found)}"
            ),
        )
        threat = f"line of direction: {name}" + (", inputs" if self.space == "inputs" else "")
        middle, ends = float(values[self.points // 2, 0]), values[[0, -1], 0]
        yield from self.records(middle, ends, self.radius, len(landscape.samples), threat)
