"""What stands beside a curvature number: whether its operator predicts the measured loss and is what it claims."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.results.artifacts import Artifact, Scatter
from snnrobust.results.checkpoint import MeasurementCheckpoint
from snnrobust.results.curvature import DIRECTIONS, HOPELESS, SIZE, VALID, Curvature, cure
from snnrobust.results.records import Record
from snnrobust_landscapes.loss.landscape import RADIUS, Landscape, identity
from snnrobust_landscapes.loss.weights import Weights
from snnrobust_landscapes.operators.asymmetry import asymmetry
from snnrobust_landscapes.operators.operator import Kind, Operator
from snnrobust_landscapes.operators.relaxed import Relaxed, relaxation_gap
from snnrobust_landscapes.solvers.arnoldi import arnoldi
from snnrobust_landscapes.solvers.krylov import Eigenpairs
from snnrobust_landscapes.solvers.lanczos import lanczos
from snnrobust_landscapes.validity.agreement import Agreement, in_leading_directions, in_random_directions
from snnrobust_landscapes.validity.plateau import plateau

T = TypeVar("T")
#: What the records of plateaus are about, whatever the operator.
LOSS = "loss in the hidden weights"
#: Leading directions that predictions are held against the loss along: in inputs, where each sample has its own, fewer.
LEADING = {"weights": 32, "inputs": 8}


class CurvatureWarning(UserWarning):
    """A curvature number that does not predict the measured loss, or that has not converged."""


@dataclass(frozen=True)
class Evidence:
    """Records and pictures that say how far to trust the numbers of an operator.

    What does not depend on the solver is worked out once in a session, and is the same for all measurements.

    Attributes:
        operator: The operator.
        kind: Its name and settings.
        words: What records call it.
        rng: Draws, the same for all operators and measurements that are to be compared.
        directions: Random directions.
        draws: Points around which curvature is measured.
        kept: What an earlier attempt measured.
    """

    operator: Operator
    kind: Kind
    words: str
    rng: Draws
    directions: int
    draws: int
    kept: MeasurementCheckpoint

    def beside(self, vectors: Tensor | None = None) -> Iterator[Record | Artifact]:
        """Asymmetry, relaxation gap, and validity along random directions and the leading ones.

        Warns where the operator does not predict the measured loss.

        Args:
            vectors: The operator's leading eigenvectors, [k, P] in weights or [k, N, D] in inputs, where those of zeros
                count for nothing; None: to be found, roughly, `LEADING` of them.
        """
        index = self._once(f"asymmetry of {self.kind}", lambda: asymmetry(self.operator, self.rng))
        yield self._record("asymmetry", index)
        if isinstance(self.kind, Relaxed):
            loss, accuracy = self._once("relaxation gap", lambda: relaxation_gap(self.operator.landscape))
            yield self._record("relaxation_gap:loss", loss)
            yield self._record("relaxation_gap:accuracy", accuracy)
        found = in_random_directions(
            self.operator, self.rng, directions=self.directions, draws=self.draws, kept=self.kept
        )
        if vectors is None:
            what = f"agreement of {self.kind} in leading directions, {self.draws} points"
            found += self._once(what, lambda: self._along(self._leading()))
        else:
            found += self._along(vectors)
        unit = RADIUS[self.operator.landscape.space]
        records = [record for each in found for record in each.records(self.words, unit)]
        yield from records
        yield self._scatter(found)
        self._warn(records)

    def plateau(self) -> Iterator[Record]:
        """Width of the plateau that the weights stand on, and how many values the loss takes on a short line.

        Nothing in inputs, and for a net without spikes or hidden weights.
        """
        landscape = self.operator.landscape
        if isinstance(landscape, Weights):
            found = self._once("plateau", lambda: plateau(landscape, self.rng))
            if found is not None:
                width = Record("plateau_width", found.width, found.low, found.high, found.directions)
                distinct = Record("distinct_losses", float(found.distinct), count=found.points)
                for each in (width, distinct):
                    yield replace(each, strength=found.reach, unit=RADIUS[landscape.space], threat=LOSS)

    def _along(self, vectors: Tensor) -> list[Agreement]:
        """Predicted against measured curvature along leading eigenvectors."""
        there = vectors[vectors.flatten(1).any(dim=1)]
        if not len(there):
            return []
        return in_leading_directions(self.operator, there, self.rng, draws=self.draws, kept=self.kept)

    def _leading(self) -> Tensor:
        """Roughly the leading eigenvectors; along any directions predictions can be held against the loss."""
        landscape = self.operator.landscape
        k = min(LEADING[landscape.space], landscape.size)
        solver = lanczos if self.operator.symmetric else arnoldi
        most = max(k, min(4 * k, landscape.size))
        return real_directions(solver(self.operator, k, self.rng.sub("leading"), tolerance=0.1, most=most))

    def _once(self, what: str, work: Callable[[], T]) -> T:
        """What `work` returns, or returned before in this session of the model."""
        return once(self.operator.landscape, (what, self.rng), work)

    def _record(self, metric: str, value: float) -> Record:
        return Record(metric, value, count=len(self.operator.landscape.samples), threat=self.words)

    def _scatter(self, found: Sequence[Agreement]) -> Scatter:
        landscape = self.operator.landscape
        return Scatter(
            points={f"{each.where}, {each.radius:g}": np.stack([each.predicted, each.measured], 1) for each in found},
            axes=("Predicted curvature d'Md", "Measured curvature of the loss"),
            caption=(
                f"Curvature of the training loss as predicted ({self.words}) and as measured, along random directions "
                f"and the leading ones at each {RADIUS[landscape.space]}; {len(landscape.samples)} samples, "
                f"{landscape.chunks[0].rows.stop} at a time."
            ),
        )

    def _warn(self, records: Sequence[Record]) -> None:
        """Warns where predictions are not of the order or the size of the measured loss, as the audit judges them."""
        model = self.operator.landscape.model.name
        judged = Curvature(model, "", self.words, tuple(records))
        for where in DIRECTIONS:
            held = judged.validity(where)
            if not held.known:
                continue
            got = f"a rank correlation of {held.correlation:.2f}"
            if held.correlation < VALID and held.noisy:
                what = "whose prediction can be told from the noise of the measured loss"
                remedy = "use more samples and draws"
            elif held.correlation < VALID:
                what, remedy = "that predicts the measured loss", cure(self.words)
            elif held.noisy or held.off <= SIZE:
                continue
            else:
                what, remedy = "of the size of the measured loss", "read it as an order of directions alone"
                got = f"a slope of {held.slope:.2g} (measured over predicted)"
                if held.off > HOPELESS:
                    what, remedy = "of the sign and size of the measured loss", cure(self.words)
            warnings.warn(
                f"expected curvature {what}, of model '{model}', got {got} along {where} directions from the "
                f"{self.words}; {remedy}",
                CurvatureWarning,
                stacklevel=2,
            )


def real_directions(pairs: Eigenpairs) -> Tensor:
    """Real vectors that span what the eigenvectors span: of a conjugate pair the real and the imaginary part."""
    if not pairs.vectors.is_complex():
        return pairs.vectors
    lower = (pairs.values.imag < 0).movedim(-1, 0).unsqueeze(-1)  # [k, 1], or [k, N, 1]
    return torch.where(lower, pairs.vectors.imag, pairs.vectors.real)


def once(landscape: Landscape, what: tuple[object, ...], work: Callable[[], T]) -> T:
    """What `work` returns, or returned before for the same landscape in this session of its model."""
    kept, key = landscape.model.kept, ("curvature", *identity(landscape), *what)
    if key not in kept:
        kept[key] = work()
    found: T = kept[key]
    return found
