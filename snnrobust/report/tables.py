"""The tables of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from snnrobust.analysis.curves import worst_case_curve
from snnrobust.analysis.members import member_results
from snnrobust.analysis.outcomes import Outcomes
from snnrobust.audit.judgement import AuditResult
from snnrobust.report.findings import checks, deciding_findings, model_verdict, summary
from snnrobust.results.records import Curve, Record
from snnrobust.results.store import EVIDENCE

#: Quantities of the energy table and their column names.
COSTS = {"synops": "SynOps", "macs": "MACs", "energy_pj": "Energy (pJ)"}
#: Quantities that are shown as pictures.
DRAWN = ("firing_rate", "silent_neurons", "accuracy_at_step")


@dataclass(frozen=True)
class TableCell:
    """One entry of a table: text, interval below it, and the CSS class of its badge if it is a verdict."""

    text: str
    interval: str = ""
    badge: str = ""


@dataclass(frozen=True)
class TableRow:
    """One row of a table."""

    name: str
    cells: list[TableCell]


@dataclass(frozen=True)
class Table:
    """A table: rows in named groups. The first column name is that of the row names.

    `words` has the positions of columns with text; the others are numbers.
    """

    caption: str
    columns: list[str]
    groups: list[tuple[str, list[TableRow]]]
    words: frozenset[int] = frozenset()


def strength(value: float) -> str:
    """An epsilon or severity as text; multiples of 1/255 as fractions.

    Example:
        >>> strength(8 / 255), strength(0.2), strength(0.12345)
        ('8/255', '0.2', '0.1235')
    """
    if in_pixels(value) and len(f"{value:.6g}") > 5:
        return f"{round(value * 255)}/255"
    return f"{value:.4g}"


def in_pixels(value: float) -> bool:
    """Whether a strength is a multiple of 1/255, the step of an 8-bit image."""
    return abs(value * 255 - round(value * 255)) < 1e-6


def percent(value: float, unit: str = " %") -> str:
    """A share in percent with one decimal."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}{unit}"


def number(value: float) -> str:
    """A number with three significant digits; with thousands separators if it is large."""
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.3g}"


def share_cell(value: float, low: float, high: float, assumed: int = 0) -> TableCell:
    """A cell with a share, its interval, and the number of samples that are assumed robust."""
    interval = "" if math.isnan(low) else f"{100 * low:.1f} to {100 * high:.1f}"
    return TableCell(percent(value), f"{interval}; {assumed:,} assumed" if assumed else interval)


def number_cell(record: Record) -> TableCell:
    """A cell with a number and its interval."""
    return TableCell(
        number(record.value), "" if math.isnan(record.low) else f"{number(record.low)} to {number(record.high)}"
    )


def select(records: Sequence[Record], quantity: str, labels: Sequence[str], model: str | None = None) -> list[Record]:
    """Records of one quantity from the given tasks, of one model or of all."""
    return [
        record
        for record in records
        if record.quantity == quantity and record.label in labels and model in (None, record.model)
    ]


def overview_table(audit: AuditResult, records: Sequence[Record]) -> Table:
    """A row for each model: verdict, clean accuracy, and worst-case robust accuracy for each threat model."""
    shares = {
        "accuracy": "Clean accuracy",
        "strict_accuracy": "Strict accuracy",
        "tie_share": "Ties",
        "silent_share": "Silent",
    }
    worst = {
        (threat, model): worst_case_curve(audit.outcomes, model, threat)
        for threat, model in threatened(audit.outcomes, records)
    }
    radii = {
        threat: middle_and_largest(
            sorted({radius for (each, _), curve in worst.items() if each == threat for radius in curve.strength})
        )
        for threat in dict.fromkeys(threat for threat, _ in worst)
    }
    columns = ["Model", *(["Verdict"] if audit.findings else []), *shares.values()]
    for threat in radii:
        of = f"{threat}, " if len(radii) > 1 else ""
        columns += [f"Worst case, {of}epsilon {strength(radius)}" for radius in radii[threat]]
    rows = []
    for model in audit.outcomes.models:
        cells = []
        if audit.findings:
            verdict = model_verdict(audit, model)
            cells.append(TableCell(verdict, summary(checks(deciding_findings(audit, model))), badge=verdict))
        for quantity in shares:
            found = select(records, quantity, audit.outcomes.labels("clean"), model)
            cells.append(share_cell(found[0].value, found[0].low, found[0].high) if found else TableCell("–"))
        for threat in radii:
            for radius in radii[threat]:
                curve = worst.get((threat, model))
                at = curve.strength.index(radius) if curve is not None and radius in curve.strength else None
                cells.append(TableCell("–") if curve is None or at is None else _curve_cell(curve, at))
        rows.append(TableRow(model, cells))
    return Table("Overview of the models, in percent of samples with 95 % intervals", columns, [("", rows)])


def threatened(outcomes: Outcomes, records: Sequence[Record]) -> list[tuple[str, str]]:
    """All pairs of a threat model and a model attacked under it."""
    found = [(r.threat, r.model) for r in select(records, "robust_accuracy", outcomes.labels("attack"))]
    return sorted(
        dict.fromkeys(found), key=lambda pair: (outcomes.threats().index(pair[0]), outcomes.models.index(pair[1]))
    )


def by_strength(
    title: str,
    outcomes: Outcomes,
    records: Sequence[Record],
    quantities: dict[str, str],
    labels: list[str],
    threat: str | None,
) -> Table:
    """Shares by strength: a group for each task and quantity, a row for each model."""
    kept = [r for quantity in quantities for r in select(records, quantity, labels) if threat in (None, r.threat)]
    strengths = sorted({record.strength for record in kept})
    groups = []
    for label in labels:
        for quantity, sense in quantities.items():
            rows = []
            for model in outcomes.models:
                found = {r.strength: r for r in select(kept, quantity, [label], model)}
                assumed = select(records, "assumed_right", [label], model) if quantity == "robust_accuracy" else []
                assumed_counts = {r.strength: round(r.value * r.count) for r in assumed}
                cells = [
                    share_cell(r.value, r.low, r.high, assumed_counts.get(s, 0))
                    if (r := found.get(s))
                    else TableCell("–")
                    for s in strengths
                ]
                rows += [TableRow(model, cells)] if found else []
            groups += [(f"{label}{sense}", rows)] if rows else []
    if len(groups) == 1:
        title, groups = f"{title}: {groups[0][0]}", [("", groups[0][1])]
    unit = kept[0].unit if kept else ""
    return Table(title, ["Model", *(f"{unit} {strength(value)}" for value in strengths)], groups)


def worst_case_table(outcomes: Outcomes, models: list[str], threat: str) -> Table:
    """The per-sample worst case over attacks, and the number of samples that each attack was the first to break."""
    curves = [worst_case_curve(outcomes, model, threat) for model in models]
    rows = []
    for curve in curves:
        cells = [_curve_cell(curve, k) for k in range(len(curve.strength))]
        broken = sorted(curve.attribution.items(), key=lambda item: -item[1])
        cells.append(TableCell(", ".join(f"{label} {count}" for label, count in broken if count) or "none"))
        rows.append(TableRow(curve.model, cells))
    columns = ["Model", *(f"epsilon {strength(radius)}" for radius in curves[0].strength), "Samples first broken by"]
    return Table(f"Worst case over all attacks, {threat}", columns, [("", rows)], frozenset({len(columns) - 1}))


def members_table(outcomes: Outcomes, label: str, models: list[str]) -> Table:
    """The results of each member of an ensemble, in order: a group for each model."""
    strengths = outcomes.task(label)["strengths"]
    groups = []
    for model in models:
        found = member_results(outcomes, label, model)
        parts = [[each for each in found if each.strength == radius] for radius in strengths]  # [strength][member]
        rows = []
        for own in zip(*parts, strict=True):
            broken = [TableCell(f"{each.broken:,} of {each.attempted:,}" if each.attempted else "–") for each in own]
            spent = (sum(each.forwards for each in own), sum(each.backwards for each in own))
            budget = "–" if own[0].budget is None else f"{own[0].budget:,}"
            rows.append(
                TableRow(own[0].label, [*broken, *(TableCell(f"{count:,}") for count in spent), TableCell(budget)])
            )
        groups.append((model, rows))
    columns = [
        "Member",
        *(f"First broken at epsilon {strength(radius)}" for radius in strengths),
        "Forward passes",
        "Backward passes",
        "Steps × restarts per sample",
    ]
    return Table(f"Members of {label}, in order: samples first broken, of those attacked", columns, groups)


def energy(outcomes: Outcomes, records: Sequence[Record]) -> Table:
    """Operations and energy: a row for each model and measurement."""
    labels = outcomes.labels("measurement")
    kept = [record for record in records if record.label in labels and record.quantity in COSTS]
    quantities = [quantity for quantity in COSTS if any(record.quantity == quantity for record in kept)]
    rows = []
    for model, label in dict.fromkeys((record.model, record.label) for record in kept):
        own = {record.quantity: record for record in kept if (record.model, record.label) == (model, label)}
        basis = "; ".join(dict.fromkeys(record.threat for record in own.values() if record.threat)) or "–"
        cells = [number_cell(own[quantity]) if quantity in own else TableCell("–") for quantity in quantities]
        rows.append(TableRow(model, [TableCell(label), *cells, TableCell(basis)]))
    return Table(
        "Operations and energy", ["Model", "Task", *(COSTS[each] for each in quantities), "Basis"], [("", rows)]
    )


def cost(outcomes: Outcomes, records: Sequence[Record]) -> Table:
    """Forward and backward passes (counted per sample) and seconds of each task, over all models and strengths."""
    main = {"clean": "accuracy", "noise": "accuracy", "attack": "robust_accuracy"}
    rows = []
    for label in outcomes.labels():
        quantity = main.get(outcomes.task(label)["kind"])
        cells: dict[tuple[str, float], Record] = {}
        for record in records:
            if record.label == label and quantity in (None, record.quantity):
                # All records of a cell have the same counts. Of a measurement, the record with most passes is used.
                key = (record.model, record.strength if quantity and record.unit else 0.0)
                if key not in cells or record.forwards > cells[key].forwards:
                    cells[key] = record
        seconds = [record.seconds for record in cells.values() if not math.isnan(record.seconds)]
        counts = [sum(r.forwards for r in cells.values()), sum(r.backwards for r in cells.values())]
        spent = TableCell(f"{sum(seconds):.1f}" if seconds else "–")
        rows.append(TableRow(label, [*(TableCell(f"{count:,}" if count else "–") for count in counts), spent]))
    columns = ["Task", "Forward passes", "Backward passes", "Seconds"]
    evidence = _evidence_cost(outcomes)
    groups = [("", rows), *([("Evidence for the audit", evidence)] if evidence else [])]
    return Table("Compute, over all models and strengths; passes are counted per sample", columns, groups)


def _evidence_cost(outcomes: Outcomes) -> list[TableRow]:
    """Seconds of each evidence task; its passes are partly those of the evaluation itself."""
    spent: dict[str, float] = {}
    for model in outcomes.models:
        for settings in outcomes.run["evidence_tasks"][model]:
            task = settings["task"]
            for position in range(len(task["strengths"])):
                seconds = outcomes.seconds(model, f"{EVIDENCE}{task['label']}/{position}")
                spent[task["label"]] = spent.get(task["label"], 0.0) + seconds
    unknown = TableCell("–")
    return [
        TableRow(label, [unknown, unknown, unknown if math.isnan(total) else TableCell(f"{total:.1f}")])
        for label, total in spent.items()
    ]


def middle_and_largest(strengths: Sequence[float]) -> list[float]:
    """The middle and the largest strength; all if there are at most two."""
    return list(strengths) if len(strengths) <= 2 else [strengths[(len(strengths) - 1) // 2], strengths[-1]]


def _curve_cell(curve: Curve, k: int) -> TableCell:
    return share_cell(curve.value[k], curve.low[k], curve.high[k], curve.assumed[k])
