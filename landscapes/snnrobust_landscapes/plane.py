"""Training loss and accuracy on a random plane in weight space."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from snnrobust.draws import Draws
from snnrobust.errors import InputError
from snnrobust.model import SpikingModel
from snnrobust.results import Artifact, Record, Surface
from snnrobust_landscapes.directions import filter_normalised

if TYPE_CHECKING:
    from snnrobust.data import Dataset
    from snnrobust.evaluation_data import EvaluationData
    from snnrobust.task import Task

PLANE = "filter-normalised random plane"
UNIT = "filter-normalised radius"
_RING = 16


@dataclass(frozen=True)
class Plane:
    """L(theta + a d1 + b d2) over a, b in [-radius, radius], for two random filter-normalised directions.

    The loss is the mean cross entropy of the training data, batch norm in eval mode (Li et al. 2018, arXiv 1712.09913).
    At a = 1 each filter has moved by its own norm. Both directions are random: nearly orthogonal, and
    blind to the few directions of large curvature. The loss of an SNN is piecewise constant at small scales, so that
    steps in a fine grid are its own and no artefact.

    Yields a `Surface` of "loss" and "accuracy", and the records "loss" (at theta), "loss_rise" and "loss_rise_mean":
    the largest and the mean of L(theta + radius / 2 (cos(phi) d1 + sin(phi) d2)) - L(theta) over 16 equally spaced
    angles phi, with radius / 2 as their strength.

    Attributes:
        points: Grid points along each direction; odd, so that theta itself is one.
        radius: Largest multiple of a direction.
        samples: Training samples, the first so many (all where there are fewer).
        logit_scale: What training multiplied the logits by before the cross entropy; rates end at 1, where a plain
            softmax is still undecided.

    Raises:
        InputError: For an even or small number of points, or a radius, scale or number of samples out of range.
    """

    points: int = 21
    radius: float = 1.0
    samples: int = 500
    logit_scale: float = 1.0

    def __post_init__(self) -> None:
        for name, least in (("points", 3), ("samples", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"expected {name} to be a whole number >= {least}, got {value!r}; give a count")
        if self.points % 2 == 0:
            raise InputError(f"expected an odd number of points, got {self.points}; use {self.points + 1}")
        if not (self.radius > 0 and math.isfinite(self.radius)):
            raise InputError(f"expected a finite radius > 0, got {self.radius!r}; give a multiple of the filters")
        if not (self.logit_scale > 0 and math.isfinite(self.logit_scale)):
            raise InputError(f"expected a finite logit_scale > 0, got {self.logit_scale!r}; give what training used")

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless there are training data and weights to move."""
        self._require(model, data)

    def _require(self, model: SpikingModel, data: EvaluationData) -> None:
        data.training("a loss landscape")
        if not any(p.ndim > 1 and bool(p.detach().any()) for p in model.net.parameters()):
            raise InputError(
                f"expected weights of two axes or more in model '{model.name}', got none that are not zero; "
                f"filter normalisation has nothing to move"
            )

    @torch.no_grad()
    def measure(self, model: SpikingModel, data: EvaluationData, rng: Draws) -> Iterable[Record | Artifact]:
        """The surface and the records; the net's weights are never written to."""
        self._require(model, data)
        train = data.training("a loss landscape")
        train = train.take(min(self.samples, len(train)))
        with model.session():
            here = _Plane(model, train, data.batch_size, rng, self.logit_scale)
            grid = np.linspace(-self.radius, self.radius, self.points)
            grid[self.points // 2] = 0.0
            cells = np.array([[here.at(float(a), float(b)) for a in grid] for b in grid])  # [Y, X, 2]
            angles = [2 * math.pi * k / _RING for k in range(_RING)]
            ring = [here.at(self.radius / 2 * math.cos(phi), self.radius / 2 * math.sin(phi))[0] for phi in angles]
        centre = float(cells[self.points // 2, self.points // 2, 0])
        rise = np.array(ring) - centre
        yield Surface(
            x=grid,
            y=grid,
            values={"loss": cells[..., 0], "accuracy": cells[..., 1]},
            axes=(f"first direction / {UNIT}", f"second direction / {UNIT}"),
            caption=(
                f"Mean cross entropy and accuracy of {len(train)} training samples on a random plane through the "
                f"weights, each filter's direction as long as the filter. The loss of a spiking net is piecewise "
                f"constant at small scales."
            ),
        )
        yield Record("loss", centre, count=len(train), threat=PLANE)
        for metric, value in (("loss_rise", rise.max()), ("loss_rise_mean", rise.mean())):
            yield Record(metric, float(value), count=len(train), strength=self.radius / 2, unit=UNIT, threat=PLANE)


class _Net(nn.Module):
    """Logits of a batch, as a module so that other weights can be put in its place."""

    def __init__(self, model: SpikingModel) -> None:
        super().__init__()
        self.net = model.net
        self._model = model

    def forward(self, x: Tensor, keys: Tensor, lengths: Tensor | None) -> Tensor:
        return self._model.logits(x, keys=keys, lengths=lengths)


class _Plane:
    """Loss and accuracy at points of the plane."""

    def __init__(self, model: SpikingModel, train: Dataset, batch_size: int, rng: Draws, logit_scale: float) -> None:
        self.model = model
        self.train = train
        self.logit_scale = logit_scale
        self.batches = torch.split(torch.arange(len(train)), batch_size)
        self.module = _Net(model)
        self.theta = {name: p.detach() for name, p in self.module.named_parameters()}
        self.first = filter_normalised(self.theta, rng.sub("first direction"))
        self.second = filter_normalised(self.theta, rng.sub("second direction"))

    def at(self, a: float, b: float) -> tuple[float, float]:
        """Mean loss and accuracy at theta + a d1 + b d2."""
        weights = {name: p + a * self.first[name] + b * self.second[name] for name, p in self.theta.items()}
        loss, correct = 0.0, 0
        for rows in self.batches:
            part = self.train.select(rows)
            y = part.y.to(self.model.device)
            logits = torch.func.functional_call(self.module, weights, (part.x, part.index, part.lengths))
            loss += float(functional.cross_entropy(self.logit_scale * logits, y, reduction="sum"))
            correct += int((self.model.predict(logits) == y).sum())
        return loss / len(self.train), correct / len(self.train)
