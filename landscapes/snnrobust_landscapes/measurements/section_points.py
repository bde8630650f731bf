"""Functions of planes, lines and connectivity: the landscape, directions, losses at points, captions and checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.errors import InputError
from snnrobust.results.checkpoint import MeasurementCheckpoint
from snnrobust.wrapping.model import SpikingModel
from snnrobust_landscapes.loss.inputs import InputLandscape
from snnrobust_landscapes.loss.landscape import RADIUS_UNITS, Landscape, LossValues
from snnrobust_landscapes.loss.weights import WeightLandscape, trainable_parameters
from snnrobust_landscapes.measurements.curvature_measurement import Space
from snnrobust_landscapes.measurements.directions import (
    DIRECTION_NAMES,
    Direction,
    make_direction,
    orthogonal_direction,
    require_eigenvectors,
)
from snnrobust_landscapes.operators.names import operator_spec
from snnrobust_landscapes.operators.operator import OperatorSpec
from snnrobust_landscapes.validity.preliminary_checks import require_finite_loss

#: The unit of coordinates along a direction.
UNITS = RADIUS_UNITS
#: The length of directions, for captions.
LENGTH_NOTES: dict[str, str] = {
    "weights": "filters moving by about their own norm at 1. The loss of a spiking net is piecewise constant at small "
    "scales.",
    "inputs": "each input along a direction of its own, by its own norm at 1. Inputs are not clipped.",
}
PURPOSE = "a loss landscape"


def training_landscape(
    model: SpikingModel, data: EvaluationData, *, space: Space, samples: int, chunk: int, logit_scale: float
) -> Landscape:
    """The loss of the first `samples` training samples, in chunks that fit into memory.

    Raises:
        InputError: Without training data, or parameters.
    """
    train = data.training(PURPOSE)
    train = train.take(min(samples, len(train)))
    size = min(chunk, data.batch_size)  # which is halved where memory ran out
    landscape = WeightLandscape if space == "weights" else InputLandscape
    return landscape(model, train, chunk=size, logit_scale=logit_scale)


def section_directions(
    names: Sequence[str],
    landscape: Landscape,
    rngs: Sequence[Draws],
    operator: str | Mapping[str, Any] | OperatorSpec,
    checkpoint: MeasurementCheckpoint,
) -> list[Direction]:
    """The directions of a section, on the CPU, stored so that a resumed measurement uses the same ones.

    The k-th eigenvector among them is that of the k-th eigenvalue. A direction that is not random is orthogonal to
    those before it.
    """
    stored, unconverged = checkpoint.get("directions"), checkpoint.get("unconverged")
    if stored is not None and unconverged is not None:
        return [Direction(torch.from_numpy(d), int(count)) for d, count in zip(stored, unconverged, strict=True)]
    found: list[Direction] = []
    for number, (name, rng) in enumerate(zip(names, rngs, strict=True)):
        rank = names[: number + 1].count("eigenvector")
        each = make_direction(name, landscape, rng, operator, max(1, rank))
        along = each.along.cpu()
        for before in found if name != "random" else ():
            along = orthogonal_direction(along, before.along, landscape).cpu()
        found.append(Direction(along, each.unconverged))
    checkpoint.put("unconverged", np.array([each.unconverged for each in found]))
    checkpoint.put("directions", torch.stack([each.along for each in found]).numpy())
    return found


def losses_at_points(
    points: int, loss: Callable[[int], LossValues], checkpoint: MeasurementCheckpoint, chunk: int
) -> np.ndarray:
    """Mean loss and accuracy at each of `points` points, [points, 2]; stored ones are not computed again.

    Args:
        points: Number of points.
        loss: The loss at the k-th.
        checkpoint: Where they are stored.
        chunk: Samples that go through the net together. The rounding of sums depends on it: points that were computed
            with another chunk size are computed again.
    """
    name = f"chunks of {chunk}"
    values = checkpoint.get(name)
    if values is None:
        values = np.full((points, 2), np.nan)
    for k in np.flatnonzero(np.isnan(values[:, 0])):
        there = loss(int(k))
        values[k] = there.mean, there.accuracy
        checkpoint.put(name, values)
    return values


def caption_start(landscape: Landscape) -> str:
    """The first words of a caption: which loss and accuracy."""
    chunk = len(landscape.chunks[0].y)
    return f"Mean cross entropy and accuracy of {len(landscape.samples)} training samples, in chunks of {chunk},"


def direction_in_words(name: str, operator: str | Mapping[str, Any] | OperatorSpec) -> str:
    """A direction in words."""
    return f"eigenvector of the {operator_spec(operator).name}" if name == "eigenvector" else name


def unconverged_note(found: Sequence[Direction]) -> str:
    """A sentence for captions about eigenvectors that have not converged; empty where all have."""
    count = sum(each.unconverged for each in found)
    return f" {count} of its eigenvectors {'has' if count == 1 else 'have'} not converged." if count else ""


def check_odd(points: int) -> None:
    """Raises an `InputError` for an even number of points, which have no middle."""
    if points % 2 == 0:
        raise InputError(f"expected an odd number of points, got {points}; use {points + 1}")


def check_section_settings(names: Sequence[str], space: str, operator: str | Mapping[str, Any] | OperatorSpec) -> None:
    """Raises an `InputError` for an unknown direction, space or operator, or for the same direction twice."""
    for name in names:
        if name not in DIRECTION_NAMES:
            raise InputError(f"expected a direction among {', '.join(DIRECTION_NAMES)}, got {name!r}; choose one")
    if names.count("adversarial") > 1:
        raise InputError(f"expected directions that span a plane, got {' and '.join(names)}; choose another for one")
    if space not in UNITS:
        raise InputError(f"expected space to be one of {', '.join(UNITS)}, got {space!r}; choose one")
    operator_spec(operator)


def check_fits(model: SpikingModel, data: EvaluationData, space: str) -> None:
    """Raises an `InputError` unless there are training data, and weights to move for space "weights"."""
    data.training(PURPOSE)
    large = (p for p in trainable_parameters(model).values() if p.ndim > 1)
    if space == "weights" and not any(bool(p.detach().any()) for p in large):
        raise InputError(
            f"expected weights of two axes or more in model '{model.name}', got none that are not zero; "
            f"measure a net with such weights, which filter normalisation needs"
        )


def check_landscape(
    landscape: Landscape, names: Sequence[str], operator: str | Mapping[str, Any] | OperatorSpec
) -> None:
    """Raises unless the loss is finite, and directions of these names can be computed.

    Raises:
        InputError: For a loss or gradient that is not finite, a gradient of zeros, or an operator that is not
            symmetric, that the net does not support or that has too few eigenvectors.
        PluginError: If the surrogate can't be differentiated as the operator requires.
    """
    require_finite_loss(landscape)
    if "adversarial" in names:
        make_direction("adversarial", landscape, Draws(0, "trial"))
    if count := names.count("eigenvector"):
        require_eigenvectors(landscape, operator, count)
