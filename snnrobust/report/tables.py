"""Tables of a report's numbers, for the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from snnrobust.analysis.curves import worst_case as worst_case_curve
from snnrobust.analysis.members import members as members_of
from snnrobust.analysis.outcomes import Outcomes
from snnrobust.audit.judgement import Judged
from snnrobust.report.findings import checks, deciding, summary, verdict_on
from snnrobust.results.records import Curve, Record

#: Metrics of the cost table, and what they are called there.
COSTS = {"synops": "SynOps", "macs": "MACs", "energy_pj": "Energy (pJ)"}
#: Metrics that are drawn.
DRAWN = ("firing_rate", "silent_neurons", "accuracy_at_step")


@dataclass(frozen=True)
class Cell:
    """One entry: its text and, below it, its interval; a verdict is set off as a badge of that name."""

    text: str
    interval: str = ""
    badge: str = ""


@dataclass(frozen=True)
class Row:
    """A named row of cells."""

    name: str
    cells: list[Cell]


@dataclass(frozen=True)
class Table:
    """Rows in named groups under one line of column names, the first of which names the rows.

    Columns whose positions are in `words` hold words, the others numbers.
    """

    caption: str
    columns: list[str]
    groups: list[tuple[str, list[Row]]]
    words: frozenset[int] = frozenset()


def strength(value: float) -> str:
    """An epsilon or severity as people write it.

    Example:
        >>> strength(8 / 255), strength(0.2), strength(0.12345)
        ('8/255', '0.2', '0.1235')
    """
    if in_pixels(value) and len(f"{value:.6g}") > 5:
        return f"{round(value * 255)}/255"
    return f"{value:.4g}"


def in_pixels(value: float) -> bool:
    """Whether a strength is a whole number of 1/255, the step of an 8-bit picture."""
    return abs(value * 255 - round(value * 255)) < 1e-6


def percent(value: float, unit: str = " %") -> str:
    """A share in percent with one decimal."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}{unit}"


def number(value: float) -> str:
    """A number with three significant digits, or thousands separators where it is large."""
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.3g}"


def share(value: float, low: float, high: float, assumed: int = 0) -> Cell:
    """A cell for a share with its interval, and with the number of samples in it that are assumed right."""
    interval = "" if math.isnan(low) else f"{100 * low:.1f} to {100 * high:.1f}"
    return Cell(percent(value), f"{interval}; {assumed:,} assumed" if assumed else interval)


def quantity(record: Record) -> Cell:
    """A cell for a number with its interval."""
    return Cell(
        number(record.value), "" if math.isnan(record.low) else f"{number(record.low)} to {number(record.high)}"
    )


def select(records: Sequence[Record], metric: str, labels: Sequence[str], model: str | None = None) -> list[Record]:
    """Records of one metric (or of "metric:anything") from the given tasks, of one model or of all."""
    return [
        record
        for record in records
        if record.metric.partition(":")[0] == metric and record.label in labels and model in (None, record.model)
    ]


def overview(judged: Judged, records: Sequence[Record]) -> Table:
    """A row for each model: verdict, clean accuracy, and the worst case over attacks of each threat model."""
    shares = {
        "accuracy": "Clean accuracy",
        "strict_accuracy": "Strict accuracy",
        "tie_share": "Ties",
        "silent_share": "Silent",
    }
    worst = {
        (threat, model): worst_case_curve(judged.outcomes, model, threat)
        for threat, model in threatened(judged.outcomes, records)
    }
    radii = {
        threat: chosen(
            sorted({radius for (each, _), curve in worst.items() if each == threat for radius in curve.strength})
        )
        for threat in dict.fromkeys(threat for threat, _ in worst)
    }
    columns = ["Model", *(["Verdict"] if judged.findings else []), *shares.values()]
    for threat in radii:
        of = f"{threat}, " if len(radii) > 1 else ""
        columns += [f"Worst case, {of}epsilon {strength(radius)}" for radius in radii[threat]]
    rows = []
    for model in judged.outcomes.models:
        cells = []
        if judged.findings:
            verdict = verdict_on(judged, model)
            cells.append(Cell(verdict, summary(checks(deciding(judged, model))), badge=verdict))
        for metric in shares:
            found = select(records, metric, judged.outcomes.labels("clean"), model)
            cells.append(share(found[0].value, found[0].low, found[0].high) if found else Cell("–"))
        for threat in radii:
            for radius in radii[threat]:
                curve = worst.get((threat, model))
                at = curve.strength.index(radius) if curve is not None and radius in curve.strength else None
                cells.append(Cell("–") if curve is None or at is None else _point(curve, at))
        rows.append(Row(model, cells))
    return Table("Each model at a glance, in percent of samples with 95 % intervals", columns, [("", rows)])


def threatened(outcomes: Outcomes, records: Sequence[Record]) -> list[tuple[str, str]]:
    """The threat models that occur, each with a model that it occurs for."""
    found = [(r.threat, r.model) for r in select(records, "robust_accuracy", outcomes.labels("attack"))]
    return sorted(
        dict.fromkeys(found), key=lambda pair: (outcomes.threats().index(pair[0]), outcomes.models.index(pair[1]))
    )


def by_strength(
    title: str,
    outcomes: Outcomes,
    records: Sequence[Record],
    metrics: dict[str, str],
    labels: list[str],
    threat: str | None,
) -> Table:
    """Shares over the strengths of tasks: a group for each task and sense, a row for each model."""
    kept = [r for metric in metrics for r in select(records, metric, labels) if threat in (None, r.threat)]
    strengths = sorted({record.strength for record in kept})
    groups = []
    for label in labels:
        for metric, sense in metrics.items():
            rows = []
            for model in outcomes.models:
                found = {r.strength: r for r in select(kept, metric, [label], model)}
                assumed = select(records, "assumed_right", [label], model) if metric == "robust_accuracy" else []
                rests = {r.strength: round(r.value * r.count) for r in assumed}
                cells = [
                    share(r.value, r.low, r.high, rests.get(s, 0)) if (r := found.get(s)) else Cell("–")
                    for s in strengths
                ]
                rows += [Row(model, cells)] if found else []
            groups += [(f"{label}{sense}", rows)] if rows else []
    if len(groups) == 1:
        title, groups = f"{title}: {groups[0][0]}", [("", groups[0][1])]
    unit = kept[0].unit if kept else ""
    return Table(title, ["Model", *(f"{unit} {strength(value)}" for value in strengths)], groups)


def worst_case(outcomes: Outcomes, models: list[str], threat: str) -> Table:
    """The per-sample worst case over attacks, and which attack broke how many samples first."""
    curves = [worst_case_curve(outcomes, model, threat) for model in models]
    rows = []
    for curve in curves:
        cells = [_point(curve, k) for k in range(len(curve.strength))]
        broken = sorted(curve.attribution.items(), key=lambda item: -item[1])
        cells.append(Cell(", ".join(f"{label} {count}" for label, count in broken if count) or "nothing broken"))
        rows.append(Row(curve.model, cells))
    columns = ["Model", *(f"epsilon {strength(radius)}" for radius in curves[0].strength), "Samples first broken by"]
    return Table(f"Worst case over all attacks, {threat}", columns, [("", rows)], frozenset({len(columns) - 1}))


def members(outcomes: Outcomes, label: str, models: list[str]) -> Table:
    """What each member of an ensemble added, in the order of the cascade: a group for each model."""
    strengths = outcomes.task(label)["strengths"]
    groups = []
    for model in models:
        found = members_of(outcomes, label, model)
        parts = [[each for each in found if each.strength == radius] for radius in strengths]  # [strength][member]
        rows = []
        for own in zip(*parts, strict=True):
            broken = [Cell(f"{each.broken:,} of {each.attempted:,}" if each.attempted else "–") for each in own]
            spent = (sum(each.forwards for each in own), sum(each.backwards for each in own))
            budget = "–" if own[0].budget is None else f"{own[0].budget:,}"
            rows.append(Row(own[0].label, [*broken, *(Cell(f"{count:,}") for count in spent), Cell(budget)]))
        groups.append((model, rows))
    columns = [
        "Member",
        *(f"First broken at epsilon {strength(radius)}" for radius in strengths),
        "Forward passes",
        "Backward passes",
        "Steps × restarts a sample",
    ]
    of = "tried there" if any(outcomes.bisected(label, model) for model in models) else "still alive"
    return Table(f"Members of {label}, in order: samples first broken, of those {of}", columns, groups)


def energy(outcomes: Outcomes, records: Sequence[Record]) -> Table:
    """Operations and energy: a row for each model and measurement."""
    labels = outcomes.labels("measurement")
    kept = [record for record in records if record.label in labels and record.metric in COSTS]
    metrics = [metric for metric in COSTS if any(record.metric == metric for record in kept)]
    rows = []
    for model, label in dict.fromkeys((record.model, record.label) for record in kept):
        own = {record.metric: record for record in kept if (record.model, record.label) == (model, label)}
        basis = "; ".join(dict.fromkeys(record.threat for record in own.values() if record.threat)) or "–"
        cells = [quantity(own[metric]) if metric in own else Cell("–") for metric in metrics]
        rows.append(Row(model, [Cell(label), *cells, Cell(basis)]))
    return Table("Operations and energy", ["Model", "Task", *(COSTS[each] for each in metrics), "Basis"], [("", rows)])


def cost(outcomes: Outcomes, records: Sequence[Record]) -> Table:
    """Forward and backward passes, counted per sample, and seconds, of each task over all models and strengths."""
    main = {"clean": "accuracy", "noise": "accuracy", "attack": "robust_accuracy"}
    rows = []
    for label in outcomes.labels():
        metric = main.get(outcomes.task(label)["kind"])
        cells: dict[tuple[str, float], Record] = {}
        for record in records:
            if record.label == label and metric in (None, record.metric):
                # A cell's counts stand in each of its records; the fullest one speaks for a measurement.
                key = (record.model, record.strength if metric and record.unit else 0.0)
                if key not in cells or record.forwards > cells[key].forwards:
                    cells[key] = record
        seconds = [record.seconds for record in cells.values() if not math.isnan(record.seconds)]
        counts = [sum(r.forwards for r in cells.values()), sum(r.backwards for r in cells.values())]
        spent = Cell(f"{sum(seconds):.1f}" if seconds else "–")
        rows.append(Row(label, [*(Cell(f"{count:,}" if count else "–") for count in counts), spent]))
    columns = ["Task", "Forward passes", "Backward passes", "Seconds"]
    return Table("Compute, over all models and strengths; passes are counted per sample", columns, [("", rows)])


def chosen(strengths: Sequence[float]) -> list[float]:
    """The middle and the largest of many strengths; all of one or two."""
    return list(strengths) if len(strengths) <= 2 else [strengths[(len(strengths) - 1) // 2], strengths[-1]]


def _point(curve: Curve, k: int) -> Cell:
    return share(curve.value[k], curve.low[k], curve.high[k], curve.assumed[k])
