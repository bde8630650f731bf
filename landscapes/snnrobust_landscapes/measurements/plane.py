"""Training loss and accuracy on a plane in weight or input space."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.results.artifacts import Artifact, Surface
from snnrobust.results.checkpoint import MeasurementCheckpoint
from snnrobust.results.records import Record
from snnrobust.wrapping.model import SpikingModel
from snnrobust_landscapes.loss.landscape import Landscape, LossValues
from snnrobust_landscapes.measurements import section_points
from snnrobust_landscapes.measurements.loss_section import LossSection

PLANE = "filter-normalised random plane"
_RING_POINTS = 16


@dataclass(frozen=True)
class Plane(LossSection):
    """L(theta + a d1 + b d2) over a, b in [-radius, radius], for two directions of relative norm 1 (see `LossSection`).

    The loss is the mean cross entropy of the training data, batch norm in eval mode (Li et al. 2018, arXiv 1712.09913).
    At a = 1 each filter has moved by about its own norm (in input space: each input by its own norm, in its own
    direction). Random directions are nearly orthogonal to each other, and to the few directions of large curvature.
    The loss of an SNN is piecewise constant at small scales, so that steps in a fine grid are no artefact.

    Yields a `Surface` of "loss" and "accuracy", and the records "loss" (at theta), "loss_rise" and "loss_rise_mean":
    the largest and the mean of L(theta + radius / 2 (cos(phi) d1 + sin(phi) d2)) - L(theta) over 16 equally spaced
    angles phi, with radius / 2 as their strength.

    Attributes:
        first: The first direction: "random", "adversarial" or "eigenvector" (see `directions.make_direction`).
        second: The second one; orthogonal to the first unless it is random. Two eigenvectors are those of the two
            leading eigenvalues.
    """

    first: str = "random"
    second: str = "random"

    @property
    def names(self) -> tuple[str, ...]:
        """The two directions' names."""
        return self.first, self.second

    def measure(
        self, model: SpikingModel, data: EvaluationData, rng: Draws, checkpoint: MeasurementCheckpoint | None = None
    ) -> Iterable[Record | Artifact]:
        """The surface and the records; the net's weights are as before."""
        section_points.check_fits(model, data, self.space)
        checkpoint = MeasurementCheckpoint() if checkpoint is None else checkpoint
        grid = self.grid()
        angles = 2 * np.pi * np.arange(_RING_POINTS) / _RING_POINTS
        ring = self.radius / 2 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        positions = np.concatenate(
            [np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2), ring]
        )  # [Y X + 16, (a, b)]
        with model.session():
            landscape = self.landscape(model, data)
            rngs = rng.sub("first direction"), rng.sub("second direction")
            found = section_points.section_directions(self.names, landscape, rngs, self.operator, checkpoint)
            first, second = (each.along for each in found)

            def loss(k: int) -> LossValues:
                return landscape.loss(positions[k, 0] * first + positions[k, 1] * second)

            values = section_points.losses_at_points(len(positions), loss, checkpoint, len(landscape.chunks[0].y))
        yield self._surface(
            grid,
            values[:-_RING_POINTS].reshape(self.points, self.points, 2),
            landscape,
            section_points.unconverged_note(found),
        )
        middle, ring_losses = float(values[self.points**2 // 2, 0]), values[-_RING_POINTS:, 0]
        yield from self.records(middle, ring_losses, self.radius / 2, len(landscape.samples), self._threat())

    def _surface(self, grid: np.ndarray, cells: np.ndarray, landscape: Landscape, unconverged: str) -> Surface:
        unit = section_points.UNITS[self.space]
        names = [section_points.direction_in_words(each, self.operator) for each in self.names]
        return Surface(
            x=grid,
            y=grid,
            values={"loss": cells[..., 0], "accuracy": cells[..., 1]},
            axes=(f"first direction, {names[0]} / {unit}", f"second direction, {names[1]} / {unit}"),
            caption=(
                f"{section_points.caption_start(landscape)} on a plane through the {self.space}, "
                f"{section_points.LENGTH_NOTES[self.space]}{unconverged}"
            ),
        )

    def _threat(self) -> str:
        if (*self.names, self.space) == ("random", "random", "weights"):
            return PLANE
        names = " and ".join(section_points.direction_in_words(each, self.operator) for each in self.names)
        return f"plane of directions: {names}" + (", inputs" if self.space == "inputs" else "")
