"""What the curvature measurements share: settings, checks before anything long, and the evidence beside each number."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch

from snnrobust.common.random import Draws
from snnrobust.common.statistics import bootstrap_mean
from snnrobust.data import Dataset
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.errors import InputError
from snnrobust.plugin.task import Task
from snnrobust.results.artifacts import Artifact
from snnrobust.results.checkpoint import MeasurementCheckpoint
from snnrobust.results.records import Record
from snnrobust.wrapping.model import SpikingModel
from snnrobust_landscapes.loss.inputs import Inputs
from snnrobust_landscapes.loss.landscape import Landscape
from snnrobust_landscapes.loss.weights import Weights
from snnrobust_landscapes.measurements.settings import require_counts, require_not_negative, require_positive
from snnrobust_landscapes.operators.names import kind
from snnrobust_landscapes.operators.operator import Operator
from snnrobust_landscapes.validity.evidence import Evidence
from snnrobust_landscapes.validity.trial import TRIAL, require_finite, tried

Space = Literal["weights", "inputs"]


@dataclass(frozen=True)
class Solved:
    """What a solver found of one operator.

    Attributes:
        numbers: Records; the operator's name is filled in afterwards.
        artifacts: What is to be drawn.
        note: What is to be said of the operator beside its name, e.g. "exact spectrum".
    """

    numbers: Sequence[Record]
    artifacts: Sequence[Artifact] = ()
    note: str = ""


@dataclass(frozen=True)
class Curvature(ABC):
    """Settings of a curvature measurement, on the mean cross entropy of training data with batch norm in eval mode.

    Attributes:
        operator: The second-order object: "gauss-newton", "relaxed", "formal", "field", "fisher", "smoothed", with
            settings {"name": "smoothed", "sigma": 0.03}, or a `snnrobust_landscapes.operators.operator.Kind`.
        space: Curvature over the "weights", or over each sample's own "inputs".
        samples: Training samples, the first so many (all where there are fewer).
        logit_scale: What training multiplied the logits by before the cross entropy; rates end at 1, where a plain
            softmax is still undecided.
        chunk: Samples that go through the net together, at most the evaluation's batch size.
        memory: GiB that graphs may take to be kept between products.
        per_layer: Whether to measure the diagonal block of each module with parameters too, after the whole net.
        directions: Random directions in which predicted changes of the loss are held against measured ones.
        draws: Points around each of the compared offsets that share their noise.

    Raises:
        InputError: For an unknown operator, or a setting out of range.
    """

    resumable: ClassVar[bool] = True

    operator: Any = "gauss-newton"
    space: Space = "weights"
    samples: int = 500
    logit_scale: float = 1.0
    chunk: int = 64
    memory: float = 0.5
    per_layer: bool = False
    directions: int = 64
    draws: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "operator", kind(self.operator))
        require_counts(self, samples=2, chunk=1, directions=8, draws=2)
        require_positive(self, "logit_scale")
        require_not_negative(self, "memory")
        if self.space not in get_args(Space):
            raise InputError(f"expected space 'weights' or 'inputs', got {self.space!r}; choose one")
        if not isinstance(self.per_layer, bool) or (self.per_layer and self.space == "inputs"):
            raise InputError(
                f"expected per_layer as True or False, and False in inputs, which have no layers, got "
                f"{self.per_layer!r} in {self.space}; leave it out"
            )

    @abstractmethod
    def solve(self, operator: Operator, rng: Draws) -> Solved:
        """The numbers of an operator; `rng` is what it was made with."""

    @abstractmethod
    def require(self, operator: Operator) -> None:
        """Raises an `InputError` if the numbers can't be had of this operator; takes no products."""

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises unless there are training data with a finite loss, and a product with the operator works on a few.

        Raises:
            InputError: For too few samples, a loss that is not finite, a net without parameters, or an operator or
                setting that does not fit it.
            PluginError: If the surrogate can't be differentiated as the operator asks.
        """
        with model.session():
            self._checked(model, self._training(data), min(self.chunk, data.batch_size))

    def measure(
        self, model: SpikingModel, data: EvaluationData, rng: Draws, kept: MeasurementCheckpoint
    ) -> Iterable[Record | Artifact]:
        """Numbers, evidence beside them, and artifacts: of the whole net, then of its layers. It is left as it was.

        Raises:
            InputError: As from `check`.
            PluginError: As from `check`.
        """
        train, chunk = self._training(data), min(self.chunk, data.batch_size)
        with model.session():
            whole = self._checked(model, train, chunk)
            found = list(self._part(whole, None, rng, kept))
            for layer in _layers(model, train) if self.per_layer else ():
                found += self._part(self._landscape(model, train, chunk, layer), layer, rng, kept)
            return found

    def _checked(self, model: SpikingModel, train: Dataset, chunk: int) -> Landscape:
        """The landscape of the whole net, after a look at its loss and a product on a few samples."""
        whole = self._landscape(model, train, chunk)
        require_finite(whole)
        self.require(tried(self.operator, whole))
        return whole

    def _part(
        self, landscape: Landscape, layer: str | None, rng: Draws, kept: MeasurementCheckpoint
    ) -> Iterator[Record | Artifact]:
        """What is measured of the whole net, or of one layer's block."""
        # Keyed by the seed alone: all measurements of an evaluation see one operator, and the same random directions.
        shared = Draws(rng.seed, "curvature").sub(self.space, "whole" if layer is None else f"layer {layer}")
        own = shared.sub("operator")
        operator = self.operator.on(landscape, self.memory, own)
        solved = self.solve(operator, own)
        where = "inputs" if self.space == "inputs" else "" if layer is None else f"layer {layer or 'of the net itself'}"
        words = (operator.name, solved.note, "" if operator.symmetric else "not symmetric", where)
        name = ", ".join(each for each in words if each)
        evidence = Evidence(operator, self.operator, name, shared, self.directions, self.draws, kept)
        yield from (replace(each, threat=name) for each in solved.numbers)
        yield from solved.artifacts
        yield from evidence.beside()
        if layer is None:
            yield from evidence.plateau()

    def _training(self, data: EvaluationData) -> Dataset:
        train = data.training("curvature")
        if len(train) < 2:
            raise InputError(f"expected at least 2 training samples for curvature, got {len(train)}; pass more")
        return train.take(min(self.samples, len(train)))

    def _landscape(self, model: SpikingModel, train: Dataset, chunk: int, layer: str | None = None) -> Landscape:
        if self.space == "inputs":
            return Inputs(model, train, chunk=chunk, logit_scale=self.logit_scale)
        chosen = None if layer is None else lambda name: _module(name) == layer
        return Weights(model, train, chunk=chunk, logit_scale=self.logit_scale, chosen=chosen)


def mean_interval(values: np.ndarray, rng: Draws) -> tuple[float, float, float]:
    """The mean of values [n] of independent samples, and its 95 % interval by a bootstrap over samples.

    Curvature over samples is skewed: most have next to none and a few nearly all. Student's t would have intervals of
    positive semidefinite matrices reach far below 0; a percentile interval stays within the values.

    Args:
        values: One for each sample.
        rng: Draws of the samples that are drawn again.
    """
    mean = float(values.mean())
    # Equal values have no spread; those of 0 or 1 are no shares either.
    return mean, *((mean, mean) if np.ptp(values) == 0 else bootstrap_mean(values, rng.number("interval")))


def _layers(model: SpikingModel, train: Dataset) -> list[str]:
    """The modules whose own parameters the loss depends on, in the net's order."""
    landscape = Weights(model, train.take(TRIAL), chunk=TRIAL)
    (chunk,) = landscape.chunks
    with torch.enable_grad():
        leaves = landscape.leaves(chunk)
        loss = landscape.losses(landscape.logits(leaves, chunk), chunk).sum()
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    model.reset()  # the nodes' state holds the graph
    used = (name for name, each in zip(landscape.names, gradients, strict=True) if each is not None)
    return list(dict.fromkeys(map(_module, used)))


def _module(parameter: str) -> str:
    """The module that a parameter belongs to."""
    return parameter.rpartition(".")[0]
