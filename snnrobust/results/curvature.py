"""What a second-order measurement found of one operator, beside how well it predicts the measured loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from snnrobust.results.records import NAN, Record

#: Rank correlation of predicted with measured loss changes under which a number says nothing about the loss.
VALID = 0.5
#: Fewest directions whose rank correlation says anything.
FEWEST = 5
#: Noise ceiling under which what was measured is mostly noise, which no operator could predict.
ROOM = 0.5
#: Measured over predicted curvature: outside [1 / SIZE, SIZE] the size is off, though directions may be in order.
SIZE = 5.0
#: Outside [1 / HOPELESS, HOPELESS], and at 0 or below, a number says nothing whatever it orders.
HOPELESS = 100.0
#: Metrics that are second-order numbers; the others of a measurement say how far to trust them.
NUMBERS = ("eigenvalue", "eigenvalue_max", "trace")
#: The directions in which predictions are held against measured losses.
DIRECTIONS = ("random", "leading")
#: What the name of an operator says that makes no claim to be symmetric.
ASYMMETRIC = "not symmetric"
#: What the name of an operator says whose eigenvalues are noise of the draws that it is estimated from.
NOISE = "eigenvalues noise of"


@dataclass(frozen=True)
class Validity:
    """How well an operator predicts the measured loss along some directions: medians over radii.

    Over the radii at which noise leaves room for a correlation of `ROOM`; over all, where it does so at none.

    Attributes:
        correlation: Spearman's, of predicted with measured curvature of the loss; NaN where none was measured.
        ceiling: The most that the noise of the measured curvature leaves room for.
        slope: Measured over predicted curvature.
        count: Directions.
    """

    correlation: float
    ceiling: float
    slope: float
    count: int

    @property
    def known(self) -> bool:
        """Whether there is a correlation, of directions enough."""
        return self.count >= FEWEST and not np.isnan(self.correlation)

    @property
    def noisy(self) -> bool:
        """Whether noise leaves too little room for any operator."""
        return self.ceiling < ROOM

    @property
    def off(self) -> float:
        """By what factor, at least 1, predictions are too small or too large; infinite for a slope of 0 or below.

        1 where no slope was measured.
        """
        if np.isnan(self.slope):
            return 1.0
        return max(self.slope, 1 / self.slope) if self.slope > 0 else float("inf")

    @property
    def predicts(self) -> bool | None:
        """Whether directions are in the order of the measured loss, and of a size that is not hopeless.

        None where that is not known, or can't be for noise.
        """
        if not self.known or self.noisy:
            return None
        return self.correlation >= VALID and self.off <= HOPELESS


@dataclass(frozen=True)
class Curvature:
    """What one measurement found of one operator, and what stands beside it.

    Attributes:
        model: The model.
        label: The measurement.
        operator: The second-order object in words, with layer and space.
        records: Its records, and those of the measurement that belong to no operator with numbers of its own.
    """

    model: str
    label: str
    operator: str
    records: tuple[Record, ...]

    def of(self, metric: str) -> list[Record]:
        """Records of one metric, or of "metric:anything"."""
        return [each for each in self.records if metric in (each.metric, each.metric.partition(":")[0])]

    @property
    def numbers(self) -> list[Record]:
        """The second-order numbers themselves."""
        return [each for metric in NUMBERS for each in self.of(metric)]

    def validity(self, directions: str) -> Validity:
        """Along "random" or "leading" directions."""
        held, room, slope = (
            self.of(f"{name}:{directions}") for name in ("validity", "validity_ceiling", "validity_slope")
        )
        count = max((each.count for each in held), default=0)
        radii = {each.strength for each in held if not np.isnan(each.value)}
        at = radii - {each.strength for each in room if each.value < ROOM} or radii
        correlation, ceiling, fit = (
            _median([each for each in of if each.strength in at]) for of in (held, room, slope)
        )
        return Validity(correlation, ceiling, fit, count)

    @property
    def held(self) -> list[Validity]:
        """What is known along random and leading directions; noisy ones only where both are."""
        known = [each for directions in DIRECTIONS if (each := self.validity(directions)).known]
        return [each for each in known if not each.noisy] or known

    @property
    def deciding(self) -> Validity:
        """The smaller of the correlations in `held`."""
        return min(self.held, key=lambda each: each.correlation, default=Validity(NAN, NAN, NAN, 0))

    @property
    def predicts(self) -> bool | None:
        """Whether it predicts the measured loss, in all of `held`; None where that is not known, or can't be."""
        known = [each.predicts for each in self.held if each.predicts is not None]
        return all(known) if known else None

    @property
    def off(self) -> float:
        """By what factor its size is off, in the worse of `held`; 1 where that is within `SIZE`."""
        worst = max((each.off for each in self.held), default=1.0)
        return worst if worst > SIZE else 1.0

    @property
    def noisy(self) -> bool:
        """Whether the measured loss is too noisy for any operator to predict it."""
        return self.deciding.known and self.deciding.noisy

    @property
    def residual(self) -> float:
        """The largest half-width of an eigenvalue's interval over the largest eigenvalue; NaN where none is known.

        In inputs, where intervals of means are over samples, that of the largest over samples.
        """
        found = self.of("eigenvalue_max" if self.operator.endswith(", inputs") else "eigenvalue")
        if not found:
            return NAN
        widths, largest = [(each.high - each.low) / 2 for each in found], max(abs(each.value) for each in found)
        widest = largest_known(widths)
        return widest / largest if largest > 0 else widest


def cure(operator: str) -> str:
    """What to do about an operator, by its name, that does not predict the measured loss."""
    if operator.startswith("Gauss-Newton"):
        return "read it at a larger radius alone, or measure the loss itself with sr.load('sharpness') or 'plane'"
    return "read it at a larger radius alone, or use operator='gauss-newton'"


def largest_known(values: list[float]) -> float:
    """The largest of some numbers; NaN where none is known."""
    return max((each for each in values if not np.isnan(each)), default=NAN)


def _median(records: list[Record]) -> float:
    values = [each.value for each in records if not np.isnan(each.value)]
    return float(np.median(values)) if values else NAN
