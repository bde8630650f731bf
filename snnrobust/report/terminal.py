"""The tables that the command line prints."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from snnrobust.audit.judgement import AuditResult
from snnrobust.report.assumed import assumed_counts
from snnrobust.report.findings import Check, checks, deciding_findings
from snnrobust.report.tables import percent, select, share_cell, strength
from snnrobust.results.records import Record


def terminal_table(audit: AuditResult, records: Sequence[Record]) -> Table:
    """A column for each model; rows for clean accuracy, each task and strength, and the numbers of failed and missing
    checks."""
    outcomes = audit.outcomes
    samples = max((record.count for record in records if record.quantity == "accuracy"), default=0)
    assumed, every = assumed_counts(outcomes, outcomes.labels("attack"), outcomes.models)
    note = f"\nbisect: {assumed:,} of {every:,} outcomes assumed robust" if every else ""
    title, caption = Text(f"Accuracy in % of {samples} samples"), Text(f"verdict: {audit.verdict}{note}")
    table = Table("task", "strength", title=title, caption=caption, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for model in outcomes.models:
        table.add_column(Text(model), justify="right", overflow="fold", min_width=5)
    clean = {record.model: record.value for record in select(records, "accuracy", outcomes.labels("clean"))}
    table.add_row(
        "clean", "", *(percent(clean.get(model, math.nan), "") for model in outcomes.models), end_section=True
    )
    for label in (*outcomes.labels("attack"), *outcomes.labels("noise")):
        quantity = "accuracy" if outcomes.task(label)["kind"] == "noise" else "robust_accuracy"
        found = {(record.model, record.strength): record.value for record in select(records, quantity, [label])}
        strengths = outcomes.task(label)["strengths"]
        for value in strengths:
            cells = (percent(found.get((model, value), math.nan), "") for model in outcomes.models)
            name = Text(label if value == strengths[0] else "")
            table.add_row(name, strength(value), *cells, end_section=value == strengths[-1])
    made = {model: checks(deciding_findings(audit, model)) for model in outcomes.models}
    for result, passed in (("failed", False), ("missing", None)):
        counts = (sum(check.passed is passed for check in own) for own in made.values())
        table.add_row("checks", result, *map(str, counts))
    return table


def terminal_claims_table(audit: AuditResult) -> Table:
    """The quoted claims, one row each."""
    table = Table(title=Text("Quoted claims"), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("model", "attack", "epsilon"):
        table.add_column(column, overflow="fold")
    for column in ("robust accuracy", "95 % interval"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    for claim in audit.claims:
        if claim.quoted:
            value = share_cell(claim.value, claim.low, claim.high, claim.assumed)
            names = Text(claim.model), Text(claim.label)
            table.add_row(*names, strength(claim.strength), value.text, value.interval, claim.verdict)
    return table


def failures(audit: AuditResult) -> list[str]:
    """A line for each failed check that counts for the verdict; advice is shown on the page only."""
    return [
        _failure_line(check) for check in checks(deciding_findings(audit)) if check.passed is False and check.counts
    ]


def _failure_line(check: Check) -> str:
    worst = check.worst
    about = f" ({worst.label})" if worst.label else ""
    at = f" at epsilon {', '.join(map(strength, check.failed))}" if check.failed else ""
    return f"{worst.model or 'all models'}: {worst.name}{about}{at}" + (" [fatal]" if worst.fatal else "")
