"""Base class of the curvature measurements: settings, checks before anything long, and the evidence for each number."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
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
from snnrobust_landscapes.loss.inputs import InputLandscape
from snnrobust_landscapes.loss.landscape import Landscape
from snnrobust_landscapes.loss.weights import WeightLandscape
from snnrobust_landscapes.measurements.setting_checks import require_counts, require_not_negative, require_positive
from snnrobust_landscapes.operators.names import operator_spec
from snnrobust_landscapes.operators.operator import Operator
from snnrobust_landscapes.validity.evidence import Evidence
from snnrobust_landscapes.validity.operator_description import OperatorDescription
from snnrobust_landscapes.validity.preliminary_checks import TRIAL_SAMPLES, require_finite_loss, trial_operator

Space = Literal["weights", "inputs"]


@dataclass(frozen=True)
class SolverOutput:
    """The numbers of one operator.

    Attributes:
        numbers: Records; the operator's description is filled in afterwards.
        artifacts: Pictures.
        note: Text to add to the operator's name, e.g. "exact spectrum".
        draw_noise: Whether eigenvalues are noise of the draws that the operator was estimated from.
    """

    numbers: Sequence[Record]
    artifacts: Sequence[Artifact] = ()
    note: str = ""
    draw_noise: bool = False


@dataclass(frozen=True)
class CurvatureMeasurement(ABC):
    """Settings of a curvature measurement, on the mean cross entropy of training data with batch norm in eval mode.

    Attributes:
        operator: The second-order object: "gauss-newton", "relaxed", "formal", "field", "fisher", "smoothed", with
            settings {"name": "smoothed", "sigma": 0.03}, or a `snnrobust_landscapes.operators.operator.Kind`.
        space: Curvature over the "weights", or over each sample's own "inputs".
        samples: Number of training samples, the first ones (all if there are fewer).
        logit_scale: Factor of the logits before the cross entropy, as in training: rates are at most 1, where a plain
            softmax is far from certain.
        chunk: Samples that go through the net together, at most the evaluation's batch size.
        memory: GiB for graphs that are stored between products.
        per_layer: Whether to measure the diagonal block of each module with parameters too, after the whole net.
        directions: Random directions in which predicted and measured curvature are compared.
        draws: Points around which curvature is measured, the same for all directions.

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
        object.__setattr__(self, "operator", operator_spec(self.operator))
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
    def solve(self, operator: Operator, rng: Draws) -> SolverOutput:
        """The numbers of an operator, which was built with `rng`."""

    @abstractmethod
    def require(self, operator: Operator) -> None:
        """Raises an `InputError` if the numbers can't be computed for this operator; takes no products."""

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises unless there are training data with a finite loss, and a product with the operator works on a few.

        Raises:
            InputError: For too few samples, a loss that is not finite, a net without parameters, or an operator or
                setting that does not fit it.
            PluginError: If the surrogate can't be differentiated as the operator requires.
        """
        with model.session():
            self._checked(model, self._training(data), min(self.chunk, data.batch_size))

    def measure(
        self, model: SpikingModel, data: EvaluationData, rng: Draws, checkpoint: MeasurementCheckpoint
    ) -> Iterable[Record | Artifact]:
        """Numbers, evidence and artifacts of the whole net, then of its layers. The net is left as it was.

        Raises:
            InputError: As from `check`.
            PluginError: As from `check`.
        """
        train, chunk = self._training(data), min(self.chunk, data.batch_size)
        with model.session():
            whole = self._checked(model, train, chunk)
            found = list(self._part(whole, None, rng, checkpoint))
            for layer in _layers(model, train) if self.per_layer else ():
                found += self._part(self._landscape(model, train, chunk, layer), layer, rng, checkpoint)
            return found

    def _checked(self, model: SpikingModel, train: Dataset, chunk: int) -> Landscape:
        """The landscape of the whole net, after checking its loss and a product on a few samples."""
        whole = self._landscape(model, train, chunk)
        require_finite_loss(whole)
        self.require(trial_operator(self.operator, whole))
        return whole

    def _part(
        self, landscape: Landscape, layer: str | None, rng: Draws, checkpoint: MeasurementCheckpoint
    ) -> Iterator[Record | Artifact]:
        """Numbers, evidence and artifacts of the whole net, or of one layer's block."""
        # Keyed by the seed alone: all measurements of an evaluation use one operator, and the same random directions.
        shared = Draws(rng.seed, "curvature").sub(self.space, "whole" if layer is None else f"layer {layer}")
        own = shared.sub("operator")
        operator = self.operator.on(landscape, self.memory, own)
        solved = self.solve(operator, own)
        description = OperatorDescription.of(operator, layer, solved.note, solved.draw_noise)
        evidence = Evidence(operator, self.operator, description, shared, self.directions, self.draws, checkpoint)
        yield from map(description.describe, solved.numbers)
        yield from solved.artifacts
        yield from evidence.measure()
        if layer is None:
            yield from evidence.plateau()

    def _training(self, data: EvaluationData) -> Dataset:
        train = data.training("curvature")
        if len(train) < 2:
            raise InputError(
                f"expected at least 2 training samples for curvature, got {len(train)}; pass more samples in "
                f"data={{'train': ...}}"
            )
        return train.take(min(self.samples, len(train)))

    def _landscape(self, model: SpikingModel, train: Dataset, chunk: int, layer: str | None = None) -> Landscape:
        if self.space == "inputs":
            return InputLandscape(model, train, chunk=chunk, logit_scale=self.logit_scale)
        chosen = None if layer is None else lambda name: _module(name) == layer
        return WeightLandscape(model, train, chunk=chunk, logit_scale=self.logit_scale, chosen=chosen)


def mean_interval(values: np.ndarray, rng: Draws) -> tuple[float, float, float]:
    """The mean of values [n] of independent samples, and its 95 % interval by a bootstrap over samples.

    Curvature over samples is skewed: it is near zero for most, and large for a few. Student's t would give intervals
    far below 0 for positive semidefinite matrices; a percentile interval stays within the values.

    Args:
        values: One for each sample.
        rng: Draws for the resampling.
    """
    mean = float(values.mean())
    # `bootstrap_mean` takes equal values of 0 or 1 for shares, which have an interval; here they have none.
    return mean, *((mean, mean) if np.ptp(values) == 0 else bootstrap_mean(values, rng.number("interval")))


def _layers(model: SpikingModel, train: Dataset) -> list[str]:
    """The modules whose own parameters the loss depends on, in the net's order."""
    landscape = WeightLandscape(model, train.take(TRIAL_SAMPLES), chunk=TRIAL_SAMPLES)
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
