"""The second-order measurements of a run, one for each task and operator."""

from __future__ import annotations

from snnrobust.analysis.outcomes import Outcomes
from snnrobust.results.curvature import NUMBERS, Curvature
from snnrobust.results.records import Record


def curvatures(outcomes: Outcomes, model: str) -> list[Curvature]:
    """All second-order measurements of a model, one for each task and operator."""
    found = []
    for label in outcomes.labels("measurement"):
        groups: dict[str, list[Record]] = {}
        for record in outcomes.measured(model, label):
            groups.setdefault(record.threat, []).append(record)
        known = {operator: own for operator, own in groups.items() if any(map(_second_order, own))}
        shared = [each for operator, own in groups.items() if operator not in known for each in own]
        found += [Curvature(model, label, operator, (*own, *shared)) for operator, own in known.items()]
    return found


def _second_order(record: Record) -> bool:
    return record.metric.partition(":")[0] in (*NUMBERS, "validity")
