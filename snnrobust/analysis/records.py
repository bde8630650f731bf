"""All numbers of a run as records."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from snnrobust.analysis.curves import accuracy_curve, share_curve
from snnrobust.analysis.members import member_results
from snnrobust.analysis.outcomes import Outcomes
from snnrobust.common.statistics import bootstrap_area, clopper_pearson
from snnrobust.results.records import Curve, Record


def records(outcomes: Outcomes) -> list[Record]:
    """All numbers of a run, one record each."""
    return [
        each
        for model in outcomes.models
        for label in outcomes.labels()
        for each in task_records(outcomes, model, label)
    ]


def task_records(outcomes: Outcomes, model: str, label: str) -> list[Record]:
    """All numbers of a task on a model."""
    task = outcomes.task(label)
    common = {
        "model": model,
        "label": label,
        "plugin": task["plugin"],
        "origin": task["origin"],
        "seed": outcomes.run["seed"],
    }
    if task["kind"] == "measurement":
        seconds = outcomes.seconds(model, label)
        return [
            dataclasses.replace(each, **common, seconds=seconds) for each in outcomes.measurement_records(model, label)
        ]
    if task["kind"] == "clean":
        return _clean_records(outcomes, model, common)
    curve = accuracy_curve(outcomes, label, model)
    if task["kind"] == "noise":
        return _curve_records(outcomes, curve, "accuracy", common)
    robust, clean = outcomes.robust(label, model), outcomes.clean(model)
    # Strict robust accuracy counts a margin of 0, a tie that argmax resolves, as wrong. The margin of a sample that is
    # assumed robust is that at the larger radius.
    margins = _filled_from_next(outcomes.margins(label, model), outcomes.assumed(label, model))
    lowest = np.fmin.accumulate(np.nan_to_num(margins, nan=np.inf), axis=0)
    strict = robust & (lowest > 0) & (clean["margin"] > 0)
    curves = {
        "robust_accuracy": curve,
        "strict_robust_accuracy": share_curve(outcomes, label, model, strict),
        "attack_success_over_all": share_curve(outcomes, label, model, ~robust),
    }
    if clean["correct"].any():
        broken = (~robust)[:, clean["correct"]]
        curves["attack_success_over_clean_correct"] = share_curve(outcomes, label, model, broken)
    if outcomes.bisected(label, model):
        curves["assumed_right"] = share_curve(outcomes, label, model, outcomes.assumed(label, model))
    if outcomes.run["models"][model]["stochastic"]:
        voted = outcomes.robust(label, model, by="voted")
        curves["majority_vote_robust_accuracy"] = share_curve(outcomes, label, model, voted)
    if outcomes.run["mode"] == "exhaustive":
        curves["robust_accuracy_last_iterate"] = accuracy_curve(outcomes, label, model, "last-iterate")
    shares = [each for metric, curve in curves.items() for each in _curve_records(outcomes, curve, metric, common)]
    return [*shares, *_area_record(outcomes, curve, robust, common), *_member_records(outcomes, curve, common)]


def _curve_records(outcomes: Outcomes, curve: Curve, metric: str, common: dict[str, Any]) -> list[Record]:
    records = []
    for k, strength in enumerate(curve.strength):
        arrays = outcomes.cell(curve.model, curve.label, k)
        records.append(
            Record(
                metric=metric,
                value=curve.value[k],
                low=curve.low[k],
                high=curve.high[k],
                count=curve.count,
                strength=strength,
                unit=curve.unit,
                threat=curve.threat,
                forwards=int(arrays["forwards"].sum()),
                backwards=int(arrays["backwards"].sum()),
                seconds=outcomes.seconds(curve.model, f"{curve.label}/{k}"),
                **common,
            )
        )
    return records


def _area_record(outcomes: Outcomes, curve: Curve, robust: np.ndarray, common: dict[str, Any]) -> list[Record]:
    """Area under the curve from 0 (clean accuracy) to the largest radius, divided by that radius."""
    strengths, rows = list(curve.strength), robust  # [strength, sample]
    if strengths[0] > 0:
        strengths, rows = [0.0, *strengths], np.vstack([outcomes.clean(curve.model)["correct"], robust])
    if len(strengths) < 2:
        return []
    area = bootstrap_area(rows, strengths, outcomes.run["seed"])
    at: dict[str, Any] = {"strength": strengths[-1], "unit": curve.unit, "threat": curve.threat}
    seconds = sum(outcomes.seconds(curve.model, f"{curve.label}/{k}") for k in range(len(curve.strength)))
    return [Record(area.name, area.value, area.low, area.high, area.count, seconds=seconds, **at, **common)]


def _member_records(outcomes: Outcomes, curve: Curve, common: dict[str, Any]) -> list[Record]:
    """The number of samples that each member of an ensemble was the first to break; the count is those it attacked."""
    if not outcomes.task(curve.label)["members"]:
        return []
    return [
        Record(
            metric=f"broken_first:{member.label}",
            quantity="broken_first",
            value=float(member.broken),
            count=member.attempted,
            strength=member.strength,
            unit=curve.unit,
            threat=curve.threat,
            forwards=member.forwards,
            backwards=member.backwards,
            **common,
        )
        for member in member_results(outcomes, curve.label, curve.model)
    ]


def _clean_records(outcomes: Outcomes, model: str, common: dict[str, Any]) -> list[Record]:
    cell = outcomes.clean(model)
    shares = {
        "accuracy": cell["correct"],
        "strict_accuracy": cell["correct"] & (cell["margin"] > 0),
        "tie_share": cell["tied"],
        "silent_share": cell["silent"],
    }
    if outcomes.run["models"][model]["stochastic"]:
        shares["majority_vote_accuracy"] = cell["voted"]
    records = []
    for metric, each in shares.items():
        low, high = clopper_pearson(int(each.sum()), len(each))
        seconds = outcomes.seconds(model, f"{common['label']}/0")
        value = float(each.mean())
        records.append(Record(metric, value, low, high, len(each), forwards=len(each), seconds=seconds, **common))
    return records


def _filled_from_next(values: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """Values [strength, sample]; where `gaps` is True, the value of the next larger strength without a gap.

    Example:
        >>> _filled_from_next(np.array([[1.0], [2.0], [3.0]]), np.array([[True], [True], [False]])).ravel().tolist()
        [3.0, 3.0, 3.0]
    """
    filled = values.copy()
    for k in reversed(range(len(values) - 1)):
        filled[k] = np.where(gaps[k], filled[k + 1], filled[k])
    return filled
