"""What the command line prints of a report."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from snnrobust.audit.judgement import Judged
from snnrobust.report.assumed import counted
from snnrobust.report.findings import Check, checks, deciding
from snnrobust.report.tables import percent, select, share, strength
from snnrobust.results.records import Record


def terminal_table(judged: Judged, records: Sequence[Record]) -> Table:
    """A column for each model; a row for clean accuracy and for each task and strength, and two for the checks."""
    outcomes = judged.outcomes
    samples = max((record.count for record in records if record.metric == "accuracy"), default=0)
    assumed, every = counted(outcomes, outcomes.labels("attack"), outcomes.models)
    rests = f"\nbisect: {assumed:,} of {every:,} outcomes assumed right" if every else ""
    title, caption = Text(f"Accuracy in % of {samples} samples"), Text(f"verdict: {judged.verdict}{rests}")
    table = Table("task", "strength", title=title, caption=caption, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for model in outcomes.models:
        table.add_column(Text(model), justify="right", overflow="fold", min_width=5)
    clean = {record.model: record.value for record in select(records, "accuracy", outcomes.labels("clean"))}
    table.add_row(
        "clean", "", *(percent(clean.get(model, math.nan), "") for model in outcomes.models), end_section=True
    )
    for label in (*outcomes.labels("attack"), *outcomes.labels("noise")):
        metric = "accuracy" if outcomes.task(label)["kind"] == "noise" else "robust_accuracy"
        found = {(record.model, record.strength): record.value for record in select(records, metric, [label])}
        strengths = outcomes.task(label)["strengths"]
        for value in strengths:
            cells = (percent(found.get((model, value), math.nan), "") for model in outcomes.models)
            name = Text(label if value == strengths[0] else "")
            table.add_row(name, strength(value), *cells, end_section=value == strengths[-1])
    made = {model: checks(deciding(judged, model)) for model in outcomes.models}
    for result, passed in (("failed", False), ("missing", None)):
        counts = (sum(check.passed is passed for check in own) for own in made.values())
        table.add_row("checks", result, *map(str, counts))
    return table


def claims_table(judged: Judged) -> Table:
    """The quoted claims, a row each."""
    table = Table(title=Text("Quoted claims"), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("model", "attack", "epsilon"):
        table.add_column(column, overflow="fold")
    for column in ("robust accuracy", "95 % interval"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    for claim in judged.claims:
        if claim.quoted:
            value = share(claim.value, claim.low, claim.high, claim.assumed)
            names = Text(claim.model), Text(claim.label)
            table.add_row(*names, strength(claim.strength), value.text, value.interval, claim.verdict)
    return table


def failures(judged: Judged) -> list[str]:
    """A line for each check that failed on a model or a quoted attack and counts; advice is for the page."""
    return [_line(check) for check in checks(deciding(judged)) if check.passed is False and check.counts]


def _line(check: Check) -> str:
    worst = check.worst
    about = f" ({worst.label})" if worst.label else ""
    at = f" at epsilon {', '.join(map(strength, check.failed))}" if check.failed else ""
    return f"{worst.model or 'all models'}: {worst.name}{about}{at}" + (" [fatal]" if worst.fatal else "")
