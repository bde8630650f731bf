"""Evidence for curvature numbers: whether their operator predicts the measured loss, and is symmetric."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.session_cache import CacheKey
from snnrobust.results.artifacts import Artifact, Scatter
from snnrobust.results.checkpoint import MeasurementCheckpoint
from snnrobust.results.curvature import DIRECTIONS, SIZE_OFF, SIZE_WRONG, VALID_CORRELATION, CurvatureResult, remedy_for
from snnrobust.results.records import Record
from snnrobust_landscapes.loss.landscape import RADIUS_UNITS, Landscape, landscape_fingerprint
from snnrobust_landscapes.loss.weights import WeightLandscape
from snnrobust_landscapes.operators.asymmetry import asymmetry
from snnrobust_landscapes.operators.operator import Operator, OperatorSpec
from snnrobust_landscapes.operators.relaxed import Relaxed, relaxation_gap
from snnrobust_landscapes.solvers.arnoldi import arnoldi
from snnrobust_landscapes.solvers.krylov import Eigenpairs
from snnrobust_landscapes.solvers.lanczos import lanczos
from snnrobust_landscapes.validity.agreement import Agreement, in_leading_directions, in_random_directions
from snnrobust_landscapes.validity.operator_description import OperatorDescription
from snnrobust_landscapes.validity.plateau import plateau

T = TypeVar("T")
#: The `threat` of the records of plateaus, which belong to no operator.
LOSS = "loss in the hidden weights"
#: Leading directions in which predictions are compared with the loss: fewer in inputs, where each sample has its own.
LEADING = {"weights": 32, "inputs": 8}


class CurvatureWarning(UserWarning):
    """A curvature number that does not predict the measured loss, or that has not converged."""


@dataclass(frozen=True)
class Evidence:
    """Records and pictures that show how far to trust the numbers of an operator.

    Those that do not depend on the solver are computed once in a session, and are the same for all measurements.

    Attributes:
        operator: The operator.
        spec: Its name and settings.
        description: The text and fields of its records.
        rng: Draws, the same for all operators and measurements that are to be compared.
        directions: Random directions.
        draws: Points around which curvature is measured.
        checkpoint: Where finished values are stored.
    """

    operator: Operator
    spec: OperatorSpec
    description: OperatorDescription
    rng: Draws
    directions: int
    draws: int
    checkpoint: MeasurementCheckpoint

    def measure(self, vectors: Tensor | None = None) -> Iterator[Record | Artifact]:
        """Asymmetry, relaxation gap, and validity in random and leading directions.

        Warns where the operator does not predict the measured loss.

        Args:
            vectors: The operator's leading eigenvectors, [k, P] in weights or [k, N, D] in inputs, where vectors of
                zeros are left out; None: `LEADING` approximate ones are computed.
        """
        index = self._once(f"asymmetry of {self.spec}", lambda: asymmetry(self.operator, self.rng))
        yield self._record("asymmetry", index)
        if isinstance(self.spec, Relaxed):
            loss, accuracy = self._once("relaxation gap", lambda: relaxation_gap(self.operator.landscape))
            yield self._record("relaxation_gap:loss", loss, "relaxation_gap")
            yield self._record("relaxation_gap:accuracy", accuracy, "relaxation_gap")
        found = in_random_directions(
            self.operator, self.rng, directions=self.directions, draws=self.draws, checkpoint=self.checkpoint
        )
        if vectors is None:
            what = f"agreement of {self.spec} in leading directions, {self.draws} points"
            found += self._once(what, lambda: self._along(self._leading()))
        else:
            found += self._along(vectors)
        unit = RADIUS_UNITS[self.operator.landscape.space]
        records = [self.description.describe(record) for each in found for record in each.records(unit)]
        yield from records
        yield self._scatter(found)
        self._warn(records)

    def plateau(self) -> Iterator[Record]:
        """Width of the plateau around the weights, and the number of different losses on a short line.

        No records in inputs, and for a net without spikes or hidden weights.
        """
        landscape = self.operator.landscape
        if isinstance(landscape, WeightLandscape):
            found = self._once("plateau", lambda: plateau(landscape, self.rng))
            if found is not None:
                width = Record("plateau_width", found.width, found.low, found.high, found.directions)
                distinct = Record("distinct_losses", float(found.distinct), count=found.points)
                unit = RADIUS_UNITS[landscape.space]
                for each in (width, distinct):
                    yield replace(each, strength=found.reach, unit=unit, threat=LOSS, space=landscape.space)

    def _along(self, vectors: Tensor) -> list[Agreement]:
        """Predicted and measured curvature in the directions of leading eigenvectors."""
        nonzero = vectors[vectors.flatten(1).any(dim=1)]
        if not len(nonzero):
            return []
        return in_leading_directions(self.operator, nonzero, self.rng, draws=self.draws, checkpoint=self.checkpoint)

    def _leading(self) -> Tensor:
        """Approximate leading eigenvectors: predictions can be compared with the loss in any direction."""
        landscape = self.operator.landscape
        k = min(LEADING[landscape.space], landscape.size)
        solver = lanczos if self.operator.symmetric else arnoldi
        most = max(k, min(4 * k, landscape.size))
        return real_directions(solver(self.operator, k, self.rng.sub("leading"), tolerance=0.1, most=most))

    def _once(self, what: str, work: Callable[[], T]) -> T:
        """The result of `work`, cached in a session of the model."""
        return once_per_session(self.operator.landscape, (what, self.rng), work)

    def _record(self, metric: str, value: float, quantity: str = "") -> Record:
        count = len(self.operator.landscape.samples)
        return self.description.describe(Record(metric, value, count=count, quantity=quantity))

    def _scatter(self, found: Sequence[Agreement]) -> Scatter:
        landscape = self.operator.landscape
        return Scatter(
            points={f"{each.where}, {each.radius:g}": np.stack([each.predicted, each.measured], 1) for each in found},
            axes=("Predicted curvature d'Md", "Measured curvature of the loss"),
            caption=(
                f"Curvature of the training loss as predicted ({self.description.text}) and as measured, along random "
                f"directions and the leading ones at each {RADIUS_UNITS[landscape.space]}; "
                f"{len(landscape.samples)} samples, {landscape.chunks[0].rows.stop} at a time."
            ),
        )

    def _warn(self, records: Sequence[Record]) -> None:
        """Warns where predictions have the wrong order or size, by the criteria of the audit."""
        model = self.operator.landscape.model.name
        result = CurvatureResult(model, "", tuple(records))
        for where in DIRECTIONS:
            validity = result.validity(where)
            if not validity.known:
                continue
            got = f"a rank correlation of {validity.correlation:.2f}"
            remedy = remedy_for(self.description.operator)
            if validity.correlation < VALID_CORRELATION and validity.noisy:
                what, remedy = "above the noise of the measured loss", "use more samples and draws"
            elif validity.correlation < VALID_CORRELATION:
                what = "that predicts the measured loss"
            elif validity.noisy or validity.size_factor <= SIZE_OFF:
                continue
            else:
                got = f"a slope of {validity.slope:.2g} (measured over predicted)"
                what = "of the sign and size of the measured loss"
                if validity.size_factor <= SIZE_WRONG:
                    what, remedy = "of the size of the measured loss", "use only the order of directions"
            warnings.warn(
                f"expected curvature {what}, of model '{model}', got {got} in {where} directions from the "
                f"{self.description.text}; {remedy}",
                CurvatureWarning,
                stacklevel=2,
            )


def real_directions(pairs: Eigenpairs) -> Tensor:
    """Real vectors with the span of the eigenvectors: the real and the imaginary part of a conjugate pair."""
    if not pairs.vectors.is_complex():
        return pairs.vectors
    lower = (pairs.values.imag < 0).movedim(-1, 0).unsqueeze(-1)  # [k, 1], or [k, N, 1]
    return torch.where(lower, pairs.vectors.imag, pairs.vectors.real)


def once_per_session(landscape: Landscape, what: tuple[Hashable, ...], work: Callable[[], T]) -> T:
    """The result of `work`, cached by landscape and `what` in a session of the model."""
    return landscape.model.cache.get(CacheKey[T]("curvature", (*landscape_fingerprint(landscape), *what)), work)
