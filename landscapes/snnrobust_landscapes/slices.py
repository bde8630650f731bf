"""Loss and accuracy at the points of a slice, kept as they are computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from snnrobust.draws import Draws
from snnrobust.errors import InputError
from snnrobust.model import SpikingModel
from snnrobust.partial import Partial
from snnrobust_landscapes.directions import NAMES, direction, orthogonal
from snnrobust_landscapes.inputs import Inputs
from snnrobust_landscapes.landscape import Landscape, Loss
from snnrobust_landscapes.operators.names import kind
from snnrobust_landscapes.weights import Weights, moving

if TYPE_CHECKING:
    from snnrobust.evaluation_data import EvaluationData
    from snnrobust_landscapes.curvature import Space
    from snnrobust_landscapes.operators.operator import Kind

#: What a step of 1 along a direction is.
UNITS: dict[str, str] = {"weights": "filter-normalised radius", "inputs": "input-normalised radius"}
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
    kept: Partial,
) -> torch.Tensor:
    """The directions of a slice, [K, P] or [K, N, D], kept so that all points of a resumed one lie on the same.

    The k-th eigenvector among them is that of the k-th eigenvalue. One that is not random is at right angles to those
    before it.
    """
    if (held := kept.get("directions")) is not None:
        return torch.from_numpy(held)
    found: list[torch.Tensor] = []
    for number, (name, rng) in enumerate(zip(names, rngs, strict=True)):
        rank = names[: number + 1].count("eigenvector")
        each = direction(name, landscape, rng, operator, max(1, rank)).cpu()
        for before in found if name != "random" else ():
            each = orthogonal(each, before, landscape).cpu()
        found.append(each)
    together = torch.stack(found)
    kept.put("directions", together.numpy())
    return together


def walked(points: int, loss: Callable[[int], Loss], kept: Partial, chunk: int) -> np.ndarray:
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


def check_counts(settings: object, least: Mapping[str, int]) -> None:
    """Raises an `InputError` for a setting that is no whole number, or smaller than it may be."""
    for name, lowest in least.items():
        value = getattr(settings, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
            raise InputError(f"expected {name} to be a whole number >= {lowest}, got {value!r}; give a count")


def check_positive(settings: object, *names: str) -> None:
    """Raises an `InputError` for a setting that is not finite and positive."""
    for name in names:
        value = getattr(settings, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise InputError(f"expected a finite {name} > 0, got {value!r}; give a positive number")


def check_odd(points: int) -> None:
    """Raises an `InputError` for a number of points that leaves out the middle."""
    if points % 2 == 0:
        raise InputError(f"expected an odd number of points, got {points}; use {points + 1}")


def check_directions(names: Sequence[str], space: str, operator: str | Mapping[str, Any] | Kind) -> None:
    """Raises an `InputError` for an unknown direction, space or operator."""
    for name in names:
        if name not in NAMES:
            raise InputError(f"expected a direction among {', '.join(NAMES)}, got {name!r}; choose one")
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
