"""Loss and accuracy at the points of a slice, kept as they are computed."""

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
from snnrobust_landscapes.loss.inputs import Inputs
from snnrobust_landscapes.loss.landscape import RADIUS, Landscape, Loss
from snnrobust_landscapes.loss.weights import Weights, moving
from snnrobust_landscapes.measurements.curvature import Space
from snnrobust_landscapes.measurements.directions import NAMES, Direction, direction, orthogonal, require_eigenvectors
from snnrobust_landscapes.operators.names import kind
from snnrobust_landscapes.operators.operator import Kind
from snnrobust_landscapes.validity.trial import require_finite

#: What a step of 1 along a direction is.
UNITS = RADIUS
#: How long directions are, for captions.
LENGTHS: dict[str, str] = {
    "weights": "filters moving by about their own norm at 1. The loss of a spiking net is piecewise constant at small "
    "scales.",
    "inputs": "each input along a direction of its own, by its own norm at 1. Inputs are not clipped.",
}
WHAT = "a loss landscape"


def slice_landscape(
    model: SpikingModel, data: EvaluationData, *, space: Space, samples: int, chunk: int, logit_scale: float
) -> Landscape:
    """The loss of the first so many training samples, in chunks that memory has room for.

    Raises:
        InputError: Without training data, or parameters.
    """
    train = data.training(WHAT)
    train = train.take(min(samples, len(train)))
    size = min(chunk, data.batch_size)  # which is halved where memory ran out
    kind_of = Weights if space == "weights" else Inputs
    return kind_of(model, train, chunk=size, logit_scale=logit_scale)


def directions(
    names: Sequence[str],
    landscape: Landscape,
    rngs: Sequence[Draws],
    operator: str | Mapping[str, Any] | Kind,
    kept: MeasurementCheckpoint,
) -> list[Direction]:
    """The directions of a slice, on the CPU, kept so that all points of a resumed one lie on the same.

    The k-th eigenvector among them is that of the k-th eigenvalue. One that is not random is at right angles to those
    before it.
    """
    held, unconverged = kept.get("directions"), kept.get("unconverged")
    if held is not None and unconverged is not None:
        return [Direction(torch.from_numpy(along), int(count)) for along, count in zip(held, unconverged, strict=True)]
    found: list[Direction] = []
    for number, (name, rng) in enumerate(zip(names, rngs, strict=True)):
        rank = names[: number + 1].count("eigenvector")
        each = direction(name, landscape, rng, operator, max(1, rank))
        along = each.along.cpu()
        for before in found if name != "random" else ():
            along = orthogonal(along, before.along, landscape).cpu()
        found.append(Direction(along, each.unconverged))
    kept.put("unconverged", np.array([each.unconverged for each in found]))
    kept.put("directions", torch.stack([each.along for each in found]).numpy())
    return found


def walked(points: int, loss: Callable[[int], Loss], kept: MeasurementCheckpoint, chunk: int) -> np.ndarray:
    """Mean loss and accuracy of each of `points` points, [points, 2]; those that are kept are not computed again.

    Args:
        points: How many there are.
        loss: The loss at the k-th.
        kept: Where they are kept.
        chunk: Samples that go through the net together. Sums are rounded otherwise for another chunk: points that were
            computed with another are computed again.
    """
    name = f"chunks of {chunk}"
    values = kept.get(name)
    if values is None:
        values = np.full((points, 2), np.nan)
    for k in np.flatnonzero(np.isnan(values[:, 0])):
        there = loss(int(k))
        values[k] = there.mean, there.accuracy
        kept.put(name, values)
    return values


def described(landscape: Landscape) -> str:
    """What loss and accuracy are of, for captions."""
    chunk = len(landscape.chunks[0].y)
    return f"Mean cross entropy and accuracy of {len(landscape.samples)} training samples, in chunks of {chunk},"


def about(name: str, operator: str | Mapping[str, Any] | Kind) -> str:
    """A direction in words."""
    return f"eigenvector of the {kind(operator).name}" if name == "eigenvector" else name


def doubts(found: Sequence[Direction]) -> str:
    """What captions say of eigenvectors that have not converged; nothing where all have."""
    count = sum(each.unconverged for each in found)
    return f" {count} of its eigenvectors {'has' if count == 1 else 'have'} not converged." if count else ""


def check_odd(points: int) -> None:
    """Raises an `InputError` for a number of points that leaves out the middle."""
    if points % 2 == 0:
        raise InputError(f"expected an odd number of points, got {points}; use {points + 1}")


def check_names(names: Sequence[str], space: str, operator: str | Mapping[str, Any] | Kind) -> None:
    """Raises an `InputError` for an unknown direction, space or operator, or for the same direction twice."""
    for name in names:
        if name not in NAMES:
            raise InputError(f"expected a direction among {', '.join(NAMES)}, got {name!r}; choose one")
    if names.count("adversarial") > 1:
        raise InputError(f"expected directions that span a plane, got {' and '.join(names)}; choose another for one")
    if space not in UNITS:
        raise InputError(f"expected space to be one of {', '.join(UNITS)}, got {space!r}; choose one")
    kind(operator)


def check_fits(model: SpikingModel, data: EvaluationData, space: str) -> None:
    """Raises an `InputError` unless there are training data, and weights to move where they are to be."""
    data.training(WHAT)
    large = (p for p in moving(model).values() if p.ndim > 1)
    if space == "weights" and not any(bool(p.detach().any()) for p in large):
        raise InputError(
            f"expected weights of two axes or more in model '{model.name}', got none that are not zero; "
            f"filter normalisation has nothing to move"
        )


def check_landscape(landscape: Landscape, names: Sequence[str], operator: str | Mapping[str, Any] | Kind) -> None:
    """Raises unless the loss is finite, and directions of these names can be had.

    Raises:
        InputError: For a loss or gradient that is not finite, a gradient of zeros, or an operator that is not
            symmetric, that the net does not allow or that has too few eigenvectors.
        PluginError: If the surrogate can't be differentiated as the operator asks.
    """
    require_finite(landscape)
    if "adversarial" in names:
        direction("adversarial", landscape, Draws(0, "trial"))
    if count := names.count("eigenvector"):
        require_eigenvectors(landscape, operator, count)
