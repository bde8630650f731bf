"""How far membrane potentials move when weights or inputs move at random.

The derivative of a spike H(u) is zero almost everywhere. But if the weights move in random directions, the membrane
potential moves by Gaussian noise of some standard deviation s, and the mean spike is differentiable:

    d/du E[H(u + s z)] = exp(-u^2 / (2 s^2)) / (s sqrt(2 pi)),    z standard normal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.data.dataset import Dataset
from snnrobust.errors import InputError
from snnrobust.frameworks.find import LIKE_IN_EVAL, listed, unsupported_spikes
from snnrobust.kernels.derivative import Derivative
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.recording import spiking_layers
from snnrobust_landscapes.loss.inputs import InputLandscape
from snnrobust_landscapes.loss.landscape import Chunk, Landscape
from snnrobust_landscapes.loss.weights import WeightLandscape

#: Random directions in which membrane potentials are recorded, and samples.
DIRECTIONS, SAMPLES = 4, 64


@dataclass(frozen=True)
class BlurredSpike:
    """The derivative of the mean spike when the membrane potential has Gaussian noise.

    Attributes:
        deviation: Standard deviation s of the noise.

    Example:
        >>> float(BlurredSpike(1.0).backward(torch.zeros(1), {}))  # 1 / sqrt(2 pi)
        0.3989422917366028
    """

    deviation: float

    @property
    def derivative(self) -> Derivative:
        """The same, for fast kernels."""
        return Derivative(
            "gaussian", 1 / (self.deviation * math.sqrt(2)), 1 / (self.deviation * math.sqrt(2 * math.pi))
        )

    def backward(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        """The derivative at u = membrane potential minus threshold."""
        return self.derivative(u)


def membrane_noise(landscape: Landscape, radius: float, rng: Draws) -> dict[str, float]:
    """Root mean square move of each spiking node's membrane potential before the reset, by the node's name.

    Over all its neurons, valid steps, the first `SAMPLES` samples, and random filter-normalised directions of the whole
    net's weights (or of inputs) at `radius`. It includes the effect of spikes that flip in earlier layers.

    Args:
        landscape: A loss over weights or inputs.
        radius: Relative norm of the moves.
        rng: Draws, of which only the seed is used: the result is the same for each operator of a run.

    Returns:
        Without nodes whose membrane potential does not move; empty for a net that does not spike.

    Raises:
        InputError: If spikes can't be recorded, or are signed or graded.
    """
    model = landscape.model
    if not _spikes(model, landscape.samples):
        return {}
    # A layer's diagonal block belongs to the whole net's matrix, so that the whole net moves.
    few = landscape.samples.take(min(SAMPLES, len(landscape.samples)))
    whole = (WeightLandscape if landscape.space == "weights" else InputLandscape)(model, few, chunk=SAMPLES)
    (chunk,), own = whole.chunks, Draws(rng.seed, "membrane noise")
    directions = [radius * whole.direction(own.sub(k)) for k in range(DIRECTIONS)]
    before = whole.membranes(torch.zeros_like(directions[0]), chunk)
    squares = dict.fromkeys(before, 0.0)
    for direction in directions:
        for name, there in whole.membranes(direction, chunk).items():
            squares[name] += float(_valid((there - before[name]).double().square(), chunk).mean()) / DIRECTIONS
    return {name: math.sqrt(square) for name, square in squares.items() if square > 0}


def _spikes(model: SpikingModel, samples: Dataset) -> bool:
    """Whether the net spikes at all.

    Raises:
        InputError: If a layer spikes without a comparison of one membrane potential with a threshold.
    """
    few = samples.take(1)
    sites = model.find_spikes(few.x)
    if not (sites.patterns or spiking_layers(model.net, model.adapter, sites) or unsupported_spikes(model.net, sites)):
        return False
    found = model.record(few.x, keys=few.index)
    graded = {name: model.net.get_submodule(name) for name in found.spikes if name not in found.distances}
    if graded:
        online = model.adapter is not None and any(map(model.adapter.ignores_surrogate, graded.values()))
        raise InputError(
            f"expected layers that spike where one membrane potential reaches the threshold, got {listed(graded)}; "
            + (LIKE_IN_EVAL if online else "put nodes with spikes 0 and 1 in their place")
        )
    return True


def _valid(values: Tensor, chunk: Chunk) -> Tensor:
    """Values [n, T, *] at the valid steps of each sample, [..., *]."""
    if chunk.lengths is None:
        return values
    steps = torch.arange(values.shape[1], device=values.device)
    return values[steps < chunk.lengths.to(values.device)[:, None]]
