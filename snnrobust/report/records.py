"""A report's numbers, one record each."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from snnrobust.results import Curve, Record
from snnrobust.statistics import clopper_pearson

if TYPE_CHECKING:
    from snnrobust.report import Report


def task_records(report: Report, model: str, label: str) -> list[Record]:
    """Every number that a task yielded on a model."""
    task = report.task(label)
    common = {
        "model": model,
        "label": label,
        "plugin": task["plugin"],
        "origin": task["origin"],
        "seed": report.run["seed"],
    }
    if task["kind"] == "measurement":
        seconds = report.seconds(model, label)
        return [dataclasses.replace(each, **common, seconds=seconds) for each in report.measured(model, label)]
    if task["kind"] == "clean":
        return _clean_records(report, model, common)
    curve = report.curve(label, model)
    if task["kind"] == "noise":
        return _curve_records(report, curve, "accuracy", common)
    robust, clean = report.robust(label, model), report.clean(model)
    # A margin of 0 is a tie that argmax happens to win: strictly speaking it is not right.
    lowest = np.fmin.accumulate(np.nan_to_num(report.margins(label, model), nan=np.inf), axis=0)
    strict = robust & (lowest > 0) & (clean["margin"] > 0)
    curves = {"robust_accuracy": curve, "strict_robust_accuracy": report.share_curve(label, model, strict)}
    if clean["correct"].any():
        broken = (~robust)[:, clean["correct"]]
        curves["attack_success_over_clean_correct"] = report.share_curve(label, model, broken)
    if report.run["models"][model]["stochastic"]:
        voted = report.robust(label, model, by="voted")
        curves["majority_vote_robust_accuracy"] = report.share_curve(label, model, voted)
    if report.run["mode"] == "exhaustive":
        curves["robust_accuracy_last_iterate"] = report.curve(label, model, "last-iterate")
    return [each for metric, curve in curves.items() for each in _curve_records(report, curve, metric, common)]


def _curve_records(report: Report, curve: Curve, metric: str, common: dict[str, Any]) -> list[Record]:
    records = []
    for k, strength in enumerate(curve.strength):
        arrays = report.cell(curve.model, curve.label, k)
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
                seconds=report.seconds(curve.model, f"{curve.label}/{k}"),
                **common,
            )
        )
    return records


def _clean_records(report: Report, model: str, common: dict[str, Any]) -> list[Record]:
    cell = report.clean(model)
    shares = {
        "accuracy": cell["correct"],
        "strict_accuracy": cell["correct"] & (cell["margin"] > 0),
        "tie_share": cell["tied"],
        "silent_share": cell["silent"],
    }
    if report.run["models"][model]["stochastic"]:
        shares["majority_vote_accuracy"] = cell["voted"]
    records = []
    for metric, each in shares.items():
        low, high = clopper_pearson(int(each.sum()), len(each))
        seconds = report.seconds(model, f"{common['label']}/0")
        value = float(each.mean())
        records.append(Record(metric, value, low, high, len(each), forwards=len(each), seconds=seconds, **common))
    return records
