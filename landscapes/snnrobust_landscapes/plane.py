"""Training loss and accuracy on a plane in weight or input space."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from snnrobust.draws import Draws
from snnrobust.model import SpikingModel
from snnrobust.partial import Partial
from snnrobust.results import Artifact, Record, Surface
from snnrobust_landscapes import slices
from snnrobust_landscapes.landscape import Landscape, Loss
from snnrobust_landscapes.settings import require_counts, require_positive

if TYPE_CHECKING:
    from snnrobust.evaluation_data import EvaluationData
    from snnrobust.task import Task
    from snnrobust_landscapes.curvature import Space
    from snnrobust_landscapes.operators.operator import Kind

PLANE = "filter-normalised random plane"
_RING = 16


@dataclass(frozen=True)
class Plane:
    """L(theta + a d1 + b d2) over a, b in [-radius, radius], for two directions of relative norm 1.

    The loss is the mean cross entropy of the training data, batch norm in eval mode (Li et al. 2018, arXiv 1712.09913).
    At a = 1 each filter has moved by about its own norm (in input space: each input by its own norm, along a direction
    of its own). Random directions are nearly orthogonal, and blind to the few directions of large curvature. The loss
    of an SNN is piecewise constant at small scales, so that steps in a fine grid are its own and no artefact.

    Yields a `Surface` of "loss" and "accuracy", and the records "loss" (at theta), "loss_rise" and "loss_rise_mean":
    the largest and the mean of L(theta + radius / 2 (cos(phi) d1 + sin(phi) d2)) - L(theta) over 16 equally spaced
    angles phi, with radius / 2 as their strength.

    Attributes:
        points: Grid points along each direction; odd, so that theta itself is one.
        radius: Largest multiple of a direction.
        samples: Training samples, the first so many (all where there are fewer).
        logit_scale: What training multiplied the logits by before the cross entropy; rates end at 1, where a plain
            softmax is still undecided.
        first: The first direction: "random", "adversarial" or "eigenvector" (see `directions.direction`).
        second: The second one; at right angles to the first unless it is random. Two eigenvectors are those of the two
            leading eigenvalues.
        space: "weights" or "inputs".
        operator: For eigenvectors: of what.
        chunk: Samples that go through the net together, where memory has room for so many.

    Raises:
        InputError: For an even or small number of points, another setting out of range, or an unknown name.
    """

    points: int = 21
    radius: float = 1.0
    samples: int = 500
    logit_scale: float = 1.0
    first: str = "random"
    second: str = "random"
    space: Space = "weights"
    operator: str | Mapping[str, Any] | Kind = "gauss-newton"
    chunk: int = 64

    resumable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_counts(self, points=3, samples=1, chunk=1)
        slices.check_odd(self.points)
        require_positive(self, "radius", "logit_scale")
        slices.check_names(self._names, self.space, self.operator)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises unless there are training data with a finite loss, weights to move, and the directions asked for.

        Raises:
            InputError: For what is missing, a loss that is not finite, or an operator that does not fit the net.
            PluginError: If the surrogate can't be differentiated as the operator asks.
        """
        slices.check_fits(model, data, self.space)
        with model.session():
            slices.check_landscape(self._landscape(model, data), self._names, self.operator)

    def measure(
        self, model: SpikingModel, data: EvaluationData, rng: Draws, kept: Partial | None = None
    ) -> Iterable[Record | Artifact]:
        """The surface and the records; the net's weights are as before."""
        slices.check_fits(model, data, self.space)
        kept = Partial() if kept is None else kept
        grid = np.linspace(-self.radius, self.radius, self.points)
        grid[self.points // 2] = 0.0
        angles = 2 * np.pi * np.arange(_RING) / _RING
        ring = self.radius / 2 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        where = np.concatenate([np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2), ring])  # [Y X + 16, (a, b)]
        with model.session():
            landscape = self._landscape(model, data)
            rngs = rng.sub("first direction"), rng.sub("second direction")
            found = slices.directions(self._names, landscape, rngs, self.operator, kept)
            first, second = (each.along for each in found)

            def loss(k: int) -> Loss:
                return landscape.loss(where[k, 0] * first + where[k, 1] * second)

            values = slices.walked(len(where), loss, kept, len(landscape.chunks[0].y))
        yield self._surface(grid, values[:-_RING].reshape(self.points, self.points, 2), landscape, slices.doubts(found))
        yield from self._records(values, len(landscape.samples))

    @property
    def _names(self) -> tuple[str, str]:
        return self.first, self.second

    def _landscape(self, model: SpikingModel, data: EvaluationData) -> Landscape:
        return slices.slice_landscape(
            model, data, space=self.space, samples=self.samples, chunk=self.chunk, logit_scale=self.logit_scale
        )

    def _surface(self, grid: np.ndarray, cells: np.ndarray, landscape: Landscape, doubts: str) -> Surface:
        unit = slices.UNITS[self.space]
        names = [slices.about(each, self.operator) for each in self._names]
        return Surface(
            x=grid,
            y=grid,
            values={"loss": cells[..., 0], "accuracy": cells[..., 1]},
            axes=(f"first direction, {names[0]} / {unit}", f"second direction, {names[1]} / {unit}"),
            caption=(
                f"{slices.described(landscape)} on a plane through the {self.space}, {slices.LENGTHS[self.space]}"
                f"{doubts}"
            ),
        )

    def _records(self, values: np.ndarray, count: int) -> Iterable[Record]:
        middle = float(values[self.points**2 // 2, 0])
        rise = values[-_RING:, 0] - middle
        plane = self._name()
        yield Record("loss", middle, count=count, threat=plane)
        for metric, value in (("loss_rise", rise.max()), ("loss_rise_mean", rise.mean())):
            unit = slices.UNITS[self.space]
            yield Record(metric, float(value), count=count, strength=self.radius / 2, unit=unit, threat=plane)

    def _name(self) -> str:
        if (*self._names, self.space) == ("random", "random", "weights"):
            return PLANE
        names = " and ".join(slices.about(each, self.operator) for each in self._names)
        return f"plane of directions: {names}" + (", inputs" if self.space == "inputs" else "")
