"""A report's numbers, one record each."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from snnrobust.report.assumed import with_next
from snnrobust.report.curves import share_curve
from snnrobust.results import Curve, Record
from snnrobust.statistics import bootstrap_area, clopper_pearson

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
    # A margin of 0 is a tie that argmax happens to win: strictly speaking it is not right. What is assumed right is no
    # better than at the larger radius that it was right at.
    margins = with_next(report.margins(label, model), report.assumed(label, model))
    lowest = np.fmin.accumulate(np.nan_to_num(margins, nan=np.inf), axis=0)
    strict = robust & (lowest > 0) & (clean["margin"] > 0)
    curves = {
        "robust_accuracy": curve,
        "strict_robust_accuracy": share_curve(report, label, model, strict),
        "attack_success_over_all": share_curve(report, label, model, ~robust),
    }
    if clean["correct"].any():
        broken = (~robust)[:, clean["correct"]]
        curves["attack_success_over_clean_correct"] = share_curve(report, label, model, broken)
    if report.bisected(label, model):
        curves["assumed_right"] = share_curve(report, label, model, report.assumed(label, model))
    if report.run["models"][model]["stochastic"]:
        voted = report.robust(label, model, by="voted")
        curves["majority_vote_robust_accuracy"] = share_curve(report, label, model, voted)
    if report.run["mode"] == "exhaustive":
        curves["robust_accuracy_last_iterate"] = report.curve(label, model, "last-iterate")
    records = [each for metric, curve in curves.items() for each in _curve_records(report, curve, metric, common)]
    return [*records, *_area_record(report, curve, robust, common), *_member_records(report, curve, common)]


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


def _area_record(report: Report, curve: Curve, robust: np.ndarray, common: dict[str, Any]) -> list[Record]:
    """Area under the curve from clean accuracy, at 0, to the largest radius, as a share of that range."""
    strengths, kept = list(curve.strength), robust  # [strength, sample]
    if strengths[0] > 0:
        strengths, kept = [0.0, *strengths], np.vstack([report.clean(curve.model)["correct"], robust])
    if len(strengths) < 2:
        return []
    area = bootstrap_area(kept, strengths, report.run["seed"])
    at: dict[str, Any] = {"strength": strengths[-1], "unit": curve.unit, "threat": curve.threat}
    seconds = sum(report.seconds(curve.model, f"{curve.label}/{k}") for k in range(len(curve.strength)))
    return [Record(area.name, area.value, area.low, area.high, area.count, seconds=seconds, **at, **common)]


def _member_records(report: Report, curve: Curve, common: dict[str, Any]) -> list[Record]:
    """How many samples each member of an ensemble was the first to break, of those that it was tried on."""
    if not report.task(curve.label)["members"]:
        return []
    return [
        Record(
            metric=f"broken_first:{member.label}",
            value=float(member.broken),
            count=member.attempted,
            strength=member.strength,
            unit=curve.unit,
            threat=curve.threat,
            forwards=member.forwards,
            backwards=member.backwards,
            **common,
        )
        for member in report.members(curve.label, curve.model)
    ]


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
