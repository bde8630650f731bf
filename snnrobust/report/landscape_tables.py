"""Tables of loss landscapes: curvature with the evidence for each number, planes and lines, and sharpness."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from snnrobust.analysis.curvature_results import curvature_results
from snnrobust.analysis.outcomes import Outcomes
from snnrobust.report.tables import Table, TableCell, TableRow, number, number_cell, select, strength
from snnrobust.results.curvature import DIRECTIONS, CurvatureResult, Validity
from snnrobust.results.records import Record

#: Quantities that the curvature tables show.
CURVATURE = (
    "eigenvalue", "eigenvalue_max", "imaginary", "trace", "asymmetry", "relaxation_gap", "validity", "validity_slope",
    "validity_ceiling", "plateau_width", "distinct_losses",
)  # fmt: skip
SLICES = ("loss", "loss_rise", "loss_rise_mean", "barrier")
SHARPNESS = ("sharpness",)

_PREDICTS = {
    True: TableCell("predicts the measured loss", badge="trusted"),
    False: TableCell("does not predict the measured loss", badge="untrustworthy"),
    None: TableCell("not compared with the measured loss", badge="doubtful"),
}
_NOISY = TableCell("the measured curvature is noise", badge="doubtful")
_DRAWS = TableCell("noise of its draws", badge="untrustworthy")


def curvature_table(outcomes: Outcomes) -> Table:
    """Curvature numbers, each with its error, and whether its operator predicts the measured loss.

    A group for each model, task and operator, a row for each number.
    """
    groups = []
    for model in outcomes.models:
        for found in curvature_results(outcomes, model):
            evidence = [
                *(_validity(found.validity(each)) for each in DIRECTIONS),
                _first(found, "asymmetry"),
                _gap(found),
                _plateau(found),
            ]
            rows = [
                TableRow(_name(each), [_value(found, each), _badge(found, each), *evidence]) for each in found.numbers
            ]
            name = f"{model}, {found.label}: {found.text}"
            groups.append((name, rows or [TableRow("no number", [TableCell("–"), _badge(found), *evidence])]))
    columns = ["Number", "Value and error", "Validity", *(f"Correlation, {each}" for each in DIRECTIONS)]
    columns += ["Asymmetry", "Relaxation gap", "Plateau width"]
    return Table("Curvature: model, task and operator of each number", columns, groups, frozenset({2}))


def validity_table(outcomes: Outcomes) -> Table:
    """Predicted and measured curvature: a group for each model, task and operator, a row for each radius."""
    groups = []
    units: dict[str, None] = {}
    for model in outcomes.models:
        for found in curvature_results(outcomes, model):
            rows = []
            correlations = [record for each in DIRECTIONS for record in found.of("validity", each)]
            units |= {each.unit: None for each in correlations}
            for radius in sorted({each.strength for each in correlations}):
                cells = [_at(found, quantity, each, radius) for each in DIRECTIONS for quantity in _VALIDITY]
                rows.append(TableRow(strength(radius), cells))
            groups += [(f"{model}, {found.label}: {found.text}", rows)] if rows else []
    columns = [f"{name}, {each} directions" for each in DIRECTIONS for name in ("Correlation", "Ceiling", "Slope")]
    caption = f"Predicted against measured curvature of the loss, by {' or '.join(units)}"
    return Table(caption, ["Radius", *columns], groups)


def slices_table(outcomes: Outcomes, records: Sequence[Record]) -> Table:
    """Losses on planes and lines through the weights."""
    return numbers_table("Losses on planes and lines", outcomes, records, lambda quantity: quantity in SLICES)


def sharpness_tables(outcomes: Outcomes, records: Sequence[Record]) -> list[Table]:
    """Rises of the loss within a radius: a table for each unit of the radius, a row for each search."""
    found = select(records, *SHARPNESS, outcomes.labels("measurement"))
    tables = []
    for unit in dict.fromkeys(record.unit for record in found):
        kept = [record for record in found if record.unit == unit]
        radii = sorted({record.strength for record in kept})
        groups: dict[str, dict[str, dict[float, Record]]] = {}
        for each in kept:
            name = f"{each.model}, {each.label}" + (f": {each.threat}" if each.threat else "")
            groups.setdefault(name, {}).setdefault(each.search, {})[each.strength] = each
        tables.append(
            Table(
                f"Rise of the training loss within a radius ({unit})" if unit else "Rise of the training loss",
                ["Search", *(f"Radius {strength(radius)}" for radius in radii)],
                [
                    (
                        name,
                        [
                            TableRow(
                                kind,
                                [number_cell(own[radius]) if radius in own else TableCell("–") for radius in radii],
                            )
                            for kind, own in kinds.items()
                        ],
                    )
                    for name, kinds in groups.items()
                ],
            )
        )
    return tables


def numbers_table(title: str, outcomes: Outcomes, records: Sequence[Record], shown: Callable[[str], bool]) -> Table:
    """Measured numbers, a row each: those whose quantity is `shown`."""
    labels = outcomes.labels("measurement")
    rows = [
        TableRow(
            record.model,
            [
                TableCell(record.label),
                TableCell(record.metric),
                TableCell("–" if math.isnan(record.strength) else f"{strength(record.strength)} {record.unit}".strip()),
                number_cell(record),
                TableCell(record.threat or "–"),
            ],
        )
        for record in records
        if record.label in labels and shown(record.quantity)
    ]
    return Table(title, ["Model", "Task", "Quantity", "At", "Value", "Of"], [("", rows)])


_NUMBERS = {"eigenvalue": "Eigenvalue", "eigenvalue_max": "Largest eigenvalue", "trace": "Trace"}
_VALIDITY = ("validity", "validity_ceiling", "validity_slope")


def _name(record: Record) -> str:
    """E.g. "Eigenvalue 1"."""
    # Non-breaking spaces, as the column is as narrow as its text allows.
    return f"{_NUMBERS[record.quantity]} {record.rank or ''}".strip().replace(" ", "\u00a0")


def _badge(found: CurvatureResult, record: Record | None = None) -> TableCell:
    """Whether the operator predicts the measured loss, or a number is noise."""
    if record is not None and record.rank and found.draw_noise:
        return _DRAWS
    if found.noisy:
        return _NOISY
    if found.predicts and found.size_factor > 1:
        return TableCell(f"order right, size off {found.size_factor:.2g}-fold", badge="doubtful")
    return _PREDICTS[found.predicts]


def _value(found: CurvatureResult, record: Record) -> TableCell:
    """A number with its error and, for an eigenvalue, its imaginary part."""
    half = (record.high - record.low) / 2
    cell = TableCell(number(record.value), "" if math.isnan(half) else f"± {half:.2g}")
    of_rank = [each.value for each in found.of("imaginary") if each.rank == record.rank and each.value != 0]
    imaginary = of_rank if record.quantity == "eigenvalue" else []
    # Without its sign, as they come in conjugate pairs.
    return TableCell(f"{cell.text} ± {number(abs(imaginary[0]))} i", cell.interval) if imaginary else cell


def _validity(validity: Validity) -> TableCell:
    if math.isnan(validity.correlation):
        return TableCell("–")
    ceiling = "" if math.isnan(validity.ceiling) else f" of {validity.ceiling:.2f}"
    return TableCell(f"{validity.correlation:.2f}{ceiling}", f"slope {number(validity.slope)}, n {validity.count:,}")


def _first(found: CurvatureResult, quantity: str) -> TableCell:
    values = found.of(quantity)
    return TableCell(number(values[0].value)) if values else TableCell("–")


def _plateau(found: CurvatureResult) -> TableCell:
    """A plateau's width with its interval, or a bound of it, and the number of distinct losses."""
    values = found.of("plateau_width")
    if not values:
        return TableCell("–")
    width, text = values[0], number(values[0].value)
    interval = "" if math.isnan(width.low) else f"{number(width.low)} to {number(width.high)}"
    if math.isinf(width.high):
        text, interval = f"≥ {text}", f"from {number(width.low)} on"
    elif width.value == 0 and width.high > 0:
        text, interval = f"< {number(width.high)}", ""
    return TableCell(text, "; ".join(each for each in (interval, _distinct(found)) if each))


def _gap(found: CurvatureResult) -> TableCell:
    """Loss and accuracy of the smooth net minus those of the spiking net."""
    gap = {each.metric: each.value for each in found.of("relaxation_gap")}
    if not gap:
        return TableCell("–")
    loss, accuracy = gap["relaxation_gap:loss"], gap["relaxation_gap:accuracy"]
    return TableCell(f"loss {loss:+.3g}", f"accuracy {100 * accuracy:+.1f} %")


def _distinct(found: CurvatureResult) -> str:
    """The number of distinct losses on a short line."""
    values = found.of("distinct_losses")
    return f"{number(values[0].value)} distinct losses" if values else ""


def _at(found: CurvatureResult, quantity: str, directions: str, radius: float) -> TableCell:
    values = [each for each in found.of(quantity, directions) if each.strength == radius]
    return number_cell(values[0]) if values else TableCell("–")
