"""Tables of loss landscapes: curvature with what stands beside each number, slices and sharpness."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from snnrobust.analysis.curvatures import curvatures
from snnrobust.analysis.outcomes import Outcomes
from snnrobust.report.tables import Cell, Row, Table, number, quantity, select, strength
from snnrobust.results.curvature import DIRECTIONS, NOISE, Curvature, Validity
from snnrobust.results.records import Record

#: Metrics that the curvature tables show; of "metric:anything" what stands before the colon.
CURVATURE = (
    "eigenvalue", "eigenvalue_max", "imaginary", "trace", "asymmetry", "relaxation_gap", "validity", "validity_slope",
    "validity_ceiling", "plateau_width", "distinct_losses",
)  # fmt: skip
SLICES = ("loss", "loss_rise", "loss_rise_mean", "barrier")
SHARPNESS = ("sharpness",)

_PREDICTS = {
    True: Cell("predicts the measured loss", badge="trusted"),
    False: Cell("does not predict the measured loss", badge="untrustworthy"),
    None: Cell("not held against the measured loss", badge="doubtful"),
}
_NOISY = Cell("the measured curvature is noise", badge="doubtful")
_DRAWS = Cell("noise of its draws", badge="untrustworthy")


def curvature(outcomes: Outcomes) -> Table:
    """Second-order numbers, each with its error, and whether its operator predicts the measured loss.

    A group for each model, task and operator, a row for each number.
    """
    groups = []
    for model in outcomes.models:
        for found in curvatures(outcomes, model):
            beside = [
                *(_validity(found.validity(each)) for each in DIRECTIONS),
                _first(found, "asymmetry"),
                _gap(found),
                _plateau(found),
            ]
            rows = [Row(_name(each), [_value(found, each), _badge(found, each), *beside]) for each in found.numbers]
            name = f"{model}, {found.label}: {found.operator}"
            groups.append((name, rows or [Row("no number", [Cell("–"), _badge(found), *beside])]))
    columns = ["Number", "Value and error", "Validity", *(f"Correlation, {each}" for each in DIRECTIONS)]
    columns += ["Asymmetry", "Relaxation gap", "Plateau width"]
    return Table("Curvature: model, task and operator of each number", columns, groups, frozenset({2}))


def validity(outcomes: Outcomes) -> Table:
    """Predicted against measured change of the loss: a group for each model, task and operator, a row a radius."""
    groups = []
    units: dict[str, None] = {}
    for model in outcomes.models:
        for found in curvatures(outcomes, model):
            rows = []
            units |= {each.unit: None for each in found.of("validity")}
            for radius in sorted({each.strength for each in found.of("validity")}):
                cells = [_at(found, f"{metric}:{each}", radius) for each in DIRECTIONS for metric in _HELD]
                rows.append(Row(strength(radius), cells))
            groups += [(f"{model}, {found.label}: {found.operator}", rows)] if rows else []
    columns = [f"{name}, {each} directions" for each in DIRECTIONS for name in ("Correlation", "Ceiling", "Slope")]
    caption = f"Predicted against measured change of the loss, by {' or '.join(units)}"
    return Table(caption, ["Radius", *columns], groups)


def slices(outcomes: Outcomes, records: Sequence[Record]) -> Table:
    """Losses on planes and lines through the weights."""
    return listed("Losses on planes and lines", outcomes, records, lambda metric: metric in SLICES)


def sharpness(outcomes: Outcomes, records: Sequence[Record]) -> list[Table]:
    """Rises of the loss within a radius: a table for each unit of it, a row for each kind of search."""
    found = select(records, *SHARPNESS, outcomes.labels("measurement"))
    tables = []
    for unit in dict.fromkeys(record.unit for record in found):
        kept = [record for record in found if record.unit == unit]
        radii = sorted({record.strength for record in kept})
        groups: dict[str, dict[str, dict[float, Record]]] = {}
        for each in kept:
            name = f"{each.model}, {each.label}" + (f": {each.threat}" if each.threat else "")
            groups.setdefault(name, {}).setdefault(each.metric.partition(":")[2], {})[each.strength] = each
        tables.append(
            Table(
                f"Rise of the training loss within a radius ({unit})" if unit else "Rise of the training loss",
                ["Search", *(f"Radius {strength(radius)}" for radius in radii)],
                [
                    (
                        name,
                        [
                            Row(kind, [quantity(own[radius]) if radius in own else Cell("–") for radius in radii])
                            for kind, own in kinds.items()
                        ],
                    )
                    for name, kinds in groups.items()
                ],
            )
        )
    return tables


def listed(title: str, outcomes: Outcomes, records: Sequence[Record], shown: Callable[[str], bool]) -> Table:
    """Measured numbers one below the other: those whose metric, up to a colon, is `shown`."""
    labels = outcomes.labels("measurement")
    rows = [
        Row(
            record.model,
            [
                Cell(record.label),
                Cell(record.metric),
                Cell("–" if math.isnan(record.strength) else f"{strength(record.strength)} {record.unit}".strip()),
                quantity(record),
                Cell(record.threat or "–"),
            ],
        )
        for record in records
        if record.label in labels and shown(record.metric.partition(":")[0])
    ]
    return Table(title, ["Model", "Task", "Quantity", "At", "Value", "Of"], [("", rows)])


_NUMBERS = {"eigenvalue": "Eigenvalue", "eigenvalue_max": "Largest eigenvalue", "trace": "Trace"}
_HELD = ("validity", "validity_ceiling", "validity_slope")


def _name(record: Record) -> str:
    """ "eigenvalue:1" as people write it."""
    name, _, rank = record.metric.partition(":")
    # Spaces that keep their words together, in a column that is as narrow as they let it be.
    return f"{_NUMBERS[name]} {rank}".strip().replace(" ", "\u00a0")


def _badge(found: Curvature, record: Record | None = None) -> Cell:
    """Whether its operator predicts the measured loss, or a number says nothing of it."""
    if record is not None and record.metric.startswith("eigenvalue") and NOISE in found.operator:
        return _DRAWS
    if found.noisy:
        return _NOISY
    if found.predicts and found.off > 1:
        return Cell(f"orders directions, size off {found.off:.2g}-fold", badge="doubtful")
    return _PREDICTS[found.predicts]


def _value(found: Curvature, record: Record) -> Cell:
    """A number with its error; an eigenvalue's imaginary part beside it."""
    half = (record.high - record.low) / 2
    cell = Cell(number(record.value), "" if math.isnan(half) else f"± {half:.2g}")
    kind, _, rank = record.metric.partition(":")
    imaginary = [each.value for each in found.of(f"imaginary:{rank}") if kind == "eigenvalue" and each.value != 0]
    # They come in conjugate pairs, so that the sign is no news.
    return Cell(f"{cell.text} ± {number(abs(imaginary[0]))} i", cell.interval) if imaginary else cell


def _validity(held: Validity) -> Cell:
    if math.isnan(held.correlation):
        return Cell("–")
    room = "" if math.isnan(held.ceiling) else f" of {held.ceiling:.2f}"
    return Cell(f"{held.correlation:.2f}{room}", f"slope {number(held.slope)}, n {held.count:,}")


def _first(found: Curvature, metric: str) -> Cell:
    values = found.of(metric)
    return Cell(number(values[0].value)) if values else Cell("–")


def _plateau(found: Curvature) -> Cell:
    """A plateau's width with its interval, a bound where that is all there is, and how many values the loss takes."""
    values = found.of("plateau_width")
    if not values:
        return Cell("–")
    width, text = values[0], number(values[0].value)
    interval = "" if math.isnan(width.low) else f"{number(width.low)} to {number(width.high)}"
    if math.isinf(width.high):
        text, interval = f"≥ {text}", f"from {number(width.low)} on"
    elif width.value == 0 and width.high > 0:
        text, interval = f"< {number(width.high)}", ""
    return Cell(text, "; ".join(each for each in (interval, _distinct(found)) if each))


def _gap(found: Curvature) -> Cell:
    """What the smooth net loses or gains, in loss and in points of accuracy."""
    gap = {each.metric.partition(":")[2]: each.value for each in found.of("relaxation_gap")}
    if not gap:
        return Cell("–")
    return Cell(f"loss {gap['loss']:+.3g}", f"accuracy {100 * gap['accuracy']:+.1f} %")


def _distinct(found: Curvature) -> str:
    """How many values the loss takes along a short line."""
    values = found.of("distinct_losses")
    return f"{number(values[0].value)} distinct losses" if values else ""


def _at(found: Curvature, metric: str, radius: float) -> Cell:
    values = [each for each in found.of(metric) if each.strength == radius]
    return quantity(values[0]) if values else Cell("–")
