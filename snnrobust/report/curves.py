"""Curves over strengths from per-sample outcomes: of an attack, of the worst case over attacks, of noise."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from snnrobust.errors import InputError
from snnrobust.report.members import attribution, first_breakers
from snnrobust.results import Curve, Sense
from snnrobust.statistics import bootstrap_mean, clopper_pearson

if TYPE_CHECKING:
    from snnrobust.report import Report

#: An audit asks for the same few curves many times over, and an exact interval takes milliseconds.
_interval = lru_cache(maxsize=4096)(clopper_pearson)


def attack_curve(report: Report, label: str, model: str, sense: Sense | None) -> Curve:
    """Robust accuracy under an attack; see `Report.curve`."""
    if sense == "last-iterate":
        if report.run["mode"] != "exhaustive":
            raise InputError(
                f"expected mode='exhaustive' for the last iterate, got '{report.run['mode']}'; evaluate again"
            )
        cells = [report.cell(model, label, k) for k in range(len(report.task(label)["strengths"]))]
        last = np.stack([cell["last_correct"] == 1 for cell in cells])
        return share_curve(report, label, model, last, "last-iterate")
    curve = share_curve(report, label, model, report.robust(label, model))
    curve = dataclasses.replace(curve, attribution=attribution(report, label, model))
    return _marked(curve, report.assumed(label, model)) if report.bisected(label, model) else curve


def share_curve(
    report: Report,
    label: str,
    model: str,
    kept: np.ndarray,
    sense: Sense = "any-iterate",
    strengths: list[float] | None = None,
) -> Curve:
    """Shares of `kept` [strength, sample] with Clopper-Pearson intervals, as a curve of an attack."""
    count = kept.shape[1]
    intervals = [_interval(int(row.sum()), count) for row in kept]
    return Curve(
        strength=tuple(report.task(label)["strengths"] if strengths is None else strengths),
        value=tuple(float(row.mean()) for row in kept),
        low=tuple(low for low, _ in intervals),
        high=tuple(high for _, high in intervals),
        count=count,
        threat=report.threat(label, model),
        sense=sense,
        model=model,
        label=label,
        unit="epsilon",
        assumed=(0,) * len(kept),
    )


def noise_curve(report: Report, label: str, model: str) -> Curve:
    """Accuracy under noise, with bootstrap intervals over samples."""
    strengths = report.task(label)["strengths"]
    shares = [report.cell(model, label, k)["fraction"].astype(np.float64) for k in range(len(strengths))]
    intervals = [bootstrap_mean(share, report.run["seed"]) for share in shares]
    return Curve(
        strength=tuple(strengths),
        value=tuple(float(share.mean()) for share in shares),
        low=tuple(low for low, _ in intervals),
        high=tuple(high for _, high in intervals),
        count=len(shares[0]),
        threat=report.task(label)["plugin"],
        sense="mean over draws",
        model=model,
        label=label,
        unit="severity",
    )


def worst_case(report: Report, model: str, threat: str | None) -> Curve:
    """Per-sample worst case over all attacks of one threat model; see `Report.worst_case`."""
    by_threat: dict[str, list[str]] = {}
    for label in report.labels("attack"):
        by_threat.setdefault(report.threat(label, model), []).append(label)
    if not by_threat:
        raise InputError("expected at least one attack in the report, got none; evaluate with sr.load('pgd', ...)")
    if threat is None and len(by_threat) > 1:
        raise InputError(f"expected threat= with several threat models, got none; choose one of {sorted(by_threat)}")
    chosen = next(iter(by_threat)) if threat is None else threat
    if chosen not in by_threat:
        raise InputError(f"expected a threat model in {sorted(by_threat)}, got {chosen!r}; name one of these")
    labels = by_threat[chosen]
    radii = sorted({radius for label in labels for radius in report.task(label)["strengths"]})
    broken_by = {label: first_breakers(report, label, model) for label in labels}
    credit = {name: 0 for label in labels for name in _names(report, label)}
    standing = report.clean(model)["correct"].copy()
    untried = {label: report.assumed(label, model) for label in labels}
    rows, rests = [], []
    for radius in radii:
        rest = np.zeros_like(standing)
        for label in labels:
            strengths = report.task(label)["strengths"]
            if radius in strengths:
                k = strengths.index(radius)
                who = broken_by[label][k]
                newly = standing & (who >= 0)
                for m, name in enumerate(_names(report, label)):
                    credit[name] += int((newly & (who == m)).sum())
                standing &= ~newly
                rest |= untried[label][k]
        rows.append(standing.copy())
        rests.append(standing & rest)
    curve = share_curve(report, labels[0], model, np.stack(rows), strengths=radii)
    curve = dataclasses.replace(curve, label="worst case", attribution=credit)
    return _marked(curve, np.stack(rests)) if any(report.bisected(label, model) for label in labels) else curve


def _marked(curve: Curve, rests: np.ndarray) -> Curve:
    """The curve as one by bisection, with how many samples rest on its assumption, [strength, sample]."""
    counts = tuple(int(row.sum()) for row in rests)
    return dataclasses.replace(curve, sense="any-iterate, bisect", assumed=counts)


def _names(report: Report, label: str) -> list[str]:
    """Whom a broken sample may be credited to: the attack, or the members of an ensemble."""
    return [f"{label}: {member['label']}" for member in report.task(label)["members"]] or [label]
