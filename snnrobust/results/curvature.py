"""The curvature numbers of one operator, and how well the operator predicts the measured loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from snnrobust.results.records import NAN, Record

#: Rank correlation of predicted with measured curvature below which an operator does not predict the loss.
VALID_CORRELATION = 0.5
#: Fewest directions for which a rank correlation is used.
MIN_DIRECTIONS = 5
#: Noise ceiling below which the measured curvature is mostly noise, which no operator could predict.
MIN_CEILING = 0.5
#: Measured over predicted curvature: beyond this factor the size is off, though the order of directions may be right.
SIZE_OFF = 5.0
#: Beyond this factor, or at 0 and below, an operator does not predict the loss, whatever its correlation.
SIZE_WRONG = 100.0
#: Quantities that are curvature numbers; the other quantities of a measurement tell how far to trust them.
NUMBERS = ("eigenvalue", "eigenvalue_max", "trace")
#: The directions in which predicted and measured curvature are compared.
DIRECTIONS = ("random", "leading")
#: The operator that is recommended where another one does not predict the loss.
GAUSS_NEWTON = "Gauss-Newton matrix"


@dataclass(frozen=True)
class Validity:
    """How well an operator predicts the measured loss in some directions: medians over radii.

    Over the radii whose noise ceiling is at least `MIN_CEILING`; over all radii where there is none.

    Attributes:
        correlation: Spearman's, of predicted with measured curvature of the loss; NaN where none was measured.
        ceiling: Noise ceiling: the correlation that a perfect prediction would reach.
        slope: Measured over predicted curvature.
        count: Directions.
    """

    correlation: float
    ceiling: float
    slope: float
    count: int

    @property
    def known(self) -> bool:
        """Whether there is a correlation over enough directions."""
        return self.count >= MIN_DIRECTIONS and not np.isnan(self.correlation)

    @property
    def noisy(self) -> bool:
        """Whether the noise ceiling is too low for any operator."""
        return self.ceiling < MIN_CEILING

    @property
    def size_factor(self) -> float:
        """The factor, at least 1, by which predictions are too small or too large; infinite for a slope of 0 or below.

        1 where no slope was measured.
        """
        if np.isnan(self.slope):
            return 1.0
        return max(self.slope, 1 / self.slope) if self.slope > 0 else float("inf")

    @property
    def predicts(self) -> bool | None:
        """Whether the order of directions is that of the measured loss, and the size within `SIZE_WRONG`.

        None where that is not known, or can't be known because of noise.
        """
        if not self.known or self.noisy:
            return None
        return self.correlation >= VALID_CORRELATION and self.size_factor <= SIZE_WRONG


@dataclass(frozen=True)
class CurvatureResult:
    """The records of one operator from one measurement.

    Attributes:
        model: The model.
        label: The measurement.
        records: The operator's records first, then those that belong to no operator, e.g. a plateau's width.
    """

    model: str
    label: str
    records: tuple[Record, ...]

    @property
    def text(self) -> str:
        """The operator in words, with variant, space and layer."""
        return self.records[0].threat

    @property
    def operator(self) -> str:
        """The operator without its variant, e.g. "Gauss-Newton matrix"."""
        return self.records[0].operator or self.text

    @property
    def operator_and_variant(self) -> str:
        """The operator in words, without space and layer."""
        return ", ".join(each for each in (self.operator, self.records[0].variant) if each)

    @property
    def layer(self) -> str:
        """The layer whose diagonal block it is; empty for the whole net."""
        return self.records[0].layer

    @property
    def space(self) -> str:
        """ "weights" or "inputs"."""
        return self.records[0].space

    @property
    def symmetric(self) -> bool:
        """Whether the operator is symmetric by construction."""
        return self.records[0].symmetric is not False

    @property
    def draw_noise(self) -> bool:
        """Whether its eigenvalues are noise: the operator was estimated from fewer draws than it has rows."""
        return self.records[0].draw_noise

    def of(self, quantity: str, directions: str = "") -> list[Record]:
        """Records of one quantity, in these directions."""
        return [each for each in self.records if (each.quantity, each.directions) == (quantity, directions)]

    @property
    def numbers(self) -> list[Record]:
        """The curvature numbers themselves."""
        return [each for quantity in NUMBERS for each in self.of(quantity)]

    def validity(self, directions: str) -> Validity:
        """In "random" or "leading" directions."""
        correlations, ceilings, slopes = (
            self.of(quantity, directions) for quantity in ("validity", "validity_ceiling", "validity_slope")
        )
        count = max((each.count for each in correlations), default=0)
        radii = {each.strength for each in correlations if not np.isnan(each.value)}
        used = radii - {each.strength for each in ceilings if each.value < MIN_CEILING} or radii
        correlation, ceiling, slope = (
            _median([each for each in found if each.strength in used]) for found in (correlations, ceilings, slopes)
        )
        return Validity(correlation, ceiling, slope, count)

    @property
    def known_validities(self) -> list[Validity]:
        """Those in random and leading directions that are known; noisy ones only where all are noisy."""
        known = [each for directions in DIRECTIONS if (each := self.validity(directions)).known]
        return [each for each in known if not each.noisy] or known

    @property
    def lowest_validity(self) -> Validity:
        """The one of `known_validities` with the lowest correlation."""
        return min(self.known_validities, key=lambda each: each.correlation, default=Validity(NAN, NAN, NAN, 0))

    @property
    def predicts(self) -> bool | None:
        """Whether the operator predicts the measured loss in all of `known_validities`; None where none can tell."""
        known = [each.predicts for each in self.known_validities if each.predicts is not None]
        return all(known) if known else None

    @property
    def size_factor(self) -> float:
        """The largest factor by which predictions are too small or too large; 1 where that is within `SIZE_OFF`."""
        worst = max((each.size_factor for each in self.known_validities), default=1.0)
        return worst if worst > SIZE_OFF else 1.0

    @property
    def noisy(self) -> bool:
        """Whether the measured curvature is too noisy for any operator to predict it."""
        return self.lowest_validity.known and self.lowest_validity.noisy

    @property
    def relative_error(self) -> float:
        """The largest half-width of an eigenvalue's interval over the largest eigenvalue; NaN where none is known.

        In inputs, where intervals of means are over samples, that of the largest eigenvalue over samples.
        """
        found = self.of("eigenvalue_max" if self.space == "inputs" else "eigenvalue")
        if not found:
            return NAN
        widths, largest = [(each.high - each.low) / 2 for each in found], max(abs(each.value) for each in found)
        widest = nan_max(widths)
        return widest / largest if largest > 0 else widest


def remedy_for(operator: str) -> str:
    """The advice for an operator that does not predict the measured loss."""
    if operator == GAUSS_NEWTON:
        return (
            "match its surrogates to the radius of interest, operator={'name': ..., 'radius': ...}, or measure the "
            "loss itself with sr.load('sharpness') or sr.load('plane')"
        )
    return "use operator='gauss-newton', e.g. sr.load('eigenvalues', operator='gauss-newton')"


def nan_max(values: list[float]) -> float:
    """The largest of some numbers; NaN where none is known."""
    return max((each for each in values if not np.isnan(each)), default=NAN)


def _median(records: list[Record]) -> float:
    values = [each.value for each in records if not np.isnan(each.value)]
    return float(np.median(values)) if values else NAN
