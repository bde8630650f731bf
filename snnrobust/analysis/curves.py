"""Curves over strengths from per-sample outcomes: under an attack, the worst case of several attacks, or noise."""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import numpy as np

from snnrobust.analysis.members import attribution, first_broken_by
from snnrobust.analysis.outcomes import Outcomes
from snnrobust.common.statistics import bootstrap_mean, clopper_pearson
from snnrobust.common.validate import check_choice
from snnrobust.errors import InputError
from snnrobust.results.records import Curve, Sense

#: Cached: an audit needs the same few intervals many times, and an exact one takes milliseconds.
_interval = lru_cache(maxsize=4096)(clopper_pearson)


def accuracy_curve(outcomes: Outcomes, label: str, model: str, sense: Sense | None = None) -> Curve:
    """Accuracy over the strengths of an attack or of noise, with 95 % intervals.

    Raises:
        InputError: For a label without a curve, or a sense that was not recorded.
    """
    task = outcomes.task(label)
    if task["kind"] == "noise":
        _check_sense(sense, ["mean over draws"])
        return _noise_curve(outcomes, label, model)
    if task["kind"] != "attack":
        raise InputError(
            f"expected the label of an attack or of noise, got '{label}' of kind '{task['kind']}'; name one of these"
        )
    return _attack_curve(outcomes, label, model, sense)


def _attack_curve(outcomes: Outcomes, label: str, model: str, sense: Sense | None) -> Curve:
    """Robust accuracy under an attack."""
    bisected = outcomes.bisected(label, model)
    _check_sense(sense, ["any-iterate", *(["any-iterate, bisect"] if bisected else []), "last-iterate"])
    if sense == "last-iterate":
        if outcomes.run["mode"] != "exhaustive":
            raise InputError(
                f"expected mode='exhaustive' for the last iterate, got '{outcomes.run['mode']}'; evaluate again"
            )
        last = np.stack([cell["last_correct"] == 1 for cell in outcomes.cells(model, label)])
        return share_curve(outcomes, label, model, last, "last-iterate")
    found = share_curve(outcomes, label, model, outcomes.robust(label, model))
    found = dataclasses.replace(found, attribution=attribution(outcomes, label, model))
    return _with_assumed(found, outcomes.assumed(label, model)) if bisected else found


def _check_sense(sense: object, known: list[str]) -> None:
    if sense is not None:
        check_choice("sense", sense, known)


def share_curve(
    outcomes: Outcomes,
    label: str,
    model: str,
    robust: np.ndarray,
    sense: Sense = "any-iterate",
    strengths: list[float] | None = None,
) -> Curve:
    """The shares of samples in `robust` [strength, sample] with Clopper-Pearson intervals, as a curve of an attack."""
    count = robust.shape[1]
    intervals = [_interval(int(row.sum()), count) for row in robust]
    return Curve(
        strength=tuple(outcomes.task(label)["strengths"] if strengths is None else strengths),
        value=tuple(float(row.mean()) for row in robust),
        low=tuple(low for low, _ in intervals),
        high=tuple(high for _, high in intervals),
        count=count,
        threat=outcomes.threat(label, model),
        sense=sense,
        model=model,
        label=label,
        unit="epsilon",
        assumed=(0,) * len(robust),
    )


def _noise_curve(outcomes: Outcomes, label: str, model: str) -> Curve:
    """Accuracy under noise, with bootstrap intervals over samples."""
    strengths = outcomes.task(label)["strengths"]
    shares = [cell["fraction"].astype(np.float64) for cell in outcomes.cells(model, label)]
    intervals = [bootstrap_mean(share, outcomes.run["seed"]) for share in shares]
    return Curve(
        strength=tuple(strengths),
        value=tuple(float(share.mean()) for share in shares),
        low=tuple(low for low, _ in intervals),
        high=tuple(high for _, high in intervals),
        count=len(shares[0]),
        threat=outcomes.task(label)["plugin"],
        sense="mean over draws",
        model=model,
        label=label,
        unit="severity",
    )


def worst_case_curve(outcomes: Outcomes, model: str, threat: str | None) -> Curve:
    """Per-sample worst case over all attacks of one threat model; see `Report.worst_case`."""
    by_threat: dict[str, list[str]] = {}
    for label in outcomes.labels("attack"):
        by_threat.setdefault(outcomes.threat(label, model), []).append(label)
    if not by_threat:
        raise InputError("expected at least one attack in the report, got none; evaluate with sr.load('pgd', ...)")
    if threat is None and len(by_threat) > 1:
        raise InputError(f"expected threat= with several threat models, got none; choose one of {sorted(by_threat)}")
    chosen = next(iter(by_threat)) if threat is None else threat
    if chosen not in by_threat:
        raise InputError(f"expected a threat model in {sorted(by_threat)}, got {chosen!r}; name one of these")
    labels = by_threat[chosen]
    radii = sorted({radius for label in labels for radius in outcomes.task(label)["strengths"]})
    broken_by = {label: first_broken_by(outcomes, label, model) for label in labels}
    attributed = {name: 0 for label in labels for name in _attributed_names(outcomes, label)}
    robust = outcomes.clean(model)["correct"].copy()
    assumed = {label: outcomes.assumed(label, model) for label in labels}
    robust_rows, assumed_rows = [], []
    for radius in radii:
        assumed_here = np.zeros_like(robust)
        for label in labels:
            strengths = outcomes.task(label)["strengths"]
            if radius in strengths:
                k = strengths.index(radius)
                member = broken_by[label][k]
                newly = robust & (member >= 0)
                for m, name in enumerate(_attributed_names(outcomes, label)):
                    attributed[name] += int((newly & (member == m)).sum())
                robust &= ~newly
                assumed_here |= assumed[label][k]
        robust_rows.append(robust.copy())
        assumed_rows.append(robust & assumed_here)
    found = share_curve(outcomes, labels[0], model, np.stack(robust_rows), strengths=radii)
    found = dataclasses.replace(found, label="worst case", attribution=attributed)
    bisected = any(outcomes.bisected(label, model) for label in labels)
    return _with_assumed(found, np.stack(assumed_rows)) if bisected else found


def _with_assumed(found: Curve, assumed: np.ndarray) -> Curve:
    """The curve as one by bisection, with the number of samples that are assumed robust, from [strength, sample]."""
    counts = tuple(int(row.sum()) for row in assumed)
    return dataclasses.replace(found, sense="any-iterate, bisect", assumed=counts)


def _attributed_names(outcomes: Outcomes, label: str) -> list[str]:
    """The names to which broken samples are attributed: the attack, or the members of an ensemble."""
    return [f"{label}: {member['label']}" for member in outcomes.task(label)["members"]] or [label]
