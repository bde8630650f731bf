"""The curvature measurements of a run, one result for each task and operator."""

from __future__ import annotations

from snnrobust.analysis.outcomes import Outcomes
from snnrobust.results.curvature import NUMBERS, CurvatureResult
from snnrobust.results.records import Record


def curvature_results(outcomes: Outcomes, model: str) -> list[CurvatureResult]:
    """All curvature measurements of a model, one result for each task and operator."""
    found = []
    for label in outcomes.labels("measurement"):
        by_operator: dict[str, list[Record]] = {}
        for record in outcomes.measurement_records(model, label):
            by_operator.setdefault(record.threat, []).append(record)
        known = {text: own for text, own in by_operator.items() if any(map(_is_curvature, own))}
        shared = [each for text, own in by_operator.items() if text not in known for each in own]
        found += [CurvatureResult(model, label, (*own, *shared)) for own in known.values()]
    return found


def _is_curvature(record: Record) -> bool:
    return record.quantity in (*NUMBERS, "validity")
