"""Findings about curvature: whether a second-order number predicts the measured loss, is symmetric, and converged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from snnrobust.results import NAN, Finding, Record

if TYPE_CHECKING:
    from snnrobust.report import Report

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
#: Relative asymmetry that rounding in float32 stays under.
SYMMETRIC = 1e-3
#: Error over the largest eigenvalue above which an eigenvalue has not converged.
CONVERGED = 1e-2
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
        widest = _most(widths)
        return widest / largest if largest > 0 else widest


def curvatures(report: Report, model: str) -> list[Curvature]:
    """All second-order measurements of a model, one for each task and operator."""
    found = []
    for label in report.labels("measurement"):
        groups: dict[str, list[Record]] = {}
        for record in report.measured(model, label):
            groups.setdefault(record.threat, []).append(record)
        known = {operator: own for operator, own in groups.items() if any(map(_second_order, own))}
        shared = [each for operator, own in groups.items() if operator not in known for each in own]
        found += [Curvature(model, label, operator, (*own, *shared)) for operator, own in known.items()]
    return found


def about_model(report: Report, model: str) -> list[Finding]:
    """Findings about every second-order measurement of a model; none of them decides about robustness."""
    return [
        finding
        for each in curvatures(report, model)
        for finding in (_validity(each), *_symmetric(each), *_converged(each))
    ]


def cure(operator: str) -> str:
    """What to do about an operator, by its name, that does not predict the measured loss."""
    if operator.startswith("Gauss-Newton"):
        return "read it at a larger radius alone, or measure the loss itself with sr.load('sharpness') or 'plane'"
    return "read it at a larger radius alone, or use operator='gauss-newton'"


def _validity(found: Curvature) -> Finding:
    words = [_told(found.validity(each), each) for each in DIRECTIONS]
    seen = "; ".join(each for each in words if each) or "no loss was measured along any direction, or none moved"
    remedy = cure(found.operator)
    if found.noisy:
        remedy = "measure with more samples and draws: what was measured is noise"
    elif found.predicts is None:
        remedy = "measure with sr.load('eigenvalues'), which holds its operator against measured losses"
    elif found.predicts and found.off > 1:
        seen += f"; it orders directions as the loss does; its size is off by a factor {found.off:.2g}"
    elif found.off > HOPELESS:
        seen += "; by the slope, its size or sign is not that of the loss"
    return Finding(
        "curvature-validity",
        found.predicts,
        found.deciding.correlation,
        VALID,
        f"least rank correlation of the predicted with the measured change of the training loss, for {found.operator}: "
        f"{seen} (medians over the radii at which noise leaves room for {ROOM:g}, or over all)",
        remedy,
        required=False,
        model=found.model,
        label=found.label,
    )


def _symmetric(found: Curvature) -> list[Finding]:
    """Asked of operators that are symmetric by construction."""
    values = [each.value for each in found.of("asymmetry")]
    if not values or ASYMMETRIC in found.operator:
        return []
    value = _most(values)
    return [
        Finding(
            "curvature-symmetric",
            None if np.isnan(value) else value <= SYMMETRIC,
            value,
            SYMMETRIC,
            f"|M - M^T| over |M| (Frobenius) of {found.operator}, which is symmetric by construction; where it is "
            "not, a backward pass drops terms or does not belong to its forward pass",
            "use neurons of backend 'torch', and surrogates whose backward pass can be differentiated again",
            required=False,
            model=found.model,
            label=found.label,
        )
    ]


def _converged(found: Curvature) -> list[Finding]:
    value, noise = found.residual, NOISE in found.operator
    if np.isnan(value) and not noise:
        return []
    why = (
        f"largest error of an eigenvalue (its residual |M v - value v|; for a smoothed loss the spread over draws too) "
        f"over the largest eigenvalue, for {found.operator}"
    )
    remedy = "allow more products, and of a smoothed loss more draws, or ask for fewer eigenvalues"
    if noise:
        why += "; it was estimated from fewer draws than it has rows, and nothing says how far that is off"
        remedy = "ask for its trace, or give it more draws than it has rows"
    return [
        Finding(
            "curvature-converged",
            not noise and value <= CONVERGED,
            value,
            CONVERGED,
            why,
            remedy,
            required=False,
            model=found.model,
            label=found.label,
        )
    ]


def _second_order(record: Record) -> bool:
    return record.metric.partition(":")[0] in (*NUMBERS, "validity")


def _told(validity: Validity, directions: str) -> str:
    if np.isnan(validity.correlation):
        return ""
    room = "" if np.isnan(validity.ceiling) else f" (noise leaves room for {validity.ceiling:.2f})"
    return f"{validity.count} {directions} directions {validity.correlation:.2f}{room}, slope {validity.slope:.2g}"


def _median(records: list[Record]) -> float:
    values = [each.value for each in records if not np.isnan(each.value)]
    return float(np.median(values)) if values else NAN


def _most(values: list[float]) -> float:
    return max((each for each in values if not np.isnan(each)), default=NAN)
