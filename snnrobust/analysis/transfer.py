"""Transfer attacks: robust accuracy of one model under examples made on another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from snnrobust.analysis.curves import accuracy_curve
from snnrobust.analysis.outcomes import Outcomes
from snnrobust.errors import InputError
from snnrobust.results.records import NAN


@dataclass(frozen=True, eq=False)
class Transfer:
    """Robust accuracy by source model (on which the examples were made) and target model (on which they are scored).

    Attributes:
        sources: Source models, the rows.
        targets: Target models, the columns.
        values: Robust accuracy, [source, target]; NaN where nothing was run.
        low: Lower ends of the 95 % intervals, [source, target].
        high: Upper ends, [source, target].
        count: Number of samples.
        strength: The radius.
        labels: The tasks that the numbers come from.
        assumed: How many samples are assumed robust because they are robust at a larger radius (mode="bisect"),
            [source, target].
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    count: int
    strength: float
    labels: tuple[str, ...]
    assumed: np.ndarray


def transfer_groups(outcomes: Outcomes) -> list[list[str]]:
    """Labels of attacks that differ only in their source model; groups in which no attack has a source are left out."""
    by_settings: dict[tuple[str, ...], list[str]] = {}
    for label in outcomes.labels("attack"):
        task = outcomes.task(label)
        if not task["members"]:
            factors = {name: value for name, value in task["attack"].items() if name != "source"}
            by_settings.setdefault((task["plugin"], repr(sorted(factors.items()))), []).append(label)
    return [labels for labels in by_settings.values() if any(_source(outcomes.task(label)) for label in labels)]


def transfer_strengths(outcomes: Outcomes, labels: list[str]) -> list[float]:
    """The radii of a group's transfer attacks."""
    tasks = [outcomes.task(label) for label in labels]
    return sorted({radius for task in tasks if _source(task) for radius in task["strengths"]})


def transfer(outcomes: Outcomes, strength: float, label: str | None = None) -> Transfer:
    """The matrix of one group of attacks at one radius; see `Report.transfer`."""
    labels = _group_of(outcomes, label)
    if strength not in (known := transfer_strengths(outcomes, labels)):
        raise InputError(f"expected a strength of {labels} in {known}, got {strength!r}; name one of these")
    used = [each for each in labels if strength in outcomes.task(each)["strengths"]]
    named = [source for each in used if (source := _source(outcomes.task(each)))]
    direct = any(not _source(outcomes.task(each)) for each in used)
    rows = [model for model in outcomes.models if direct or model in named]
    rows += [source for source in dict.fromkeys(named) if source not in rows]
    columns = outcomes.models
    found = np.full((3, len(rows), len(columns)), NAN)
    assumed = np.zeros((len(rows), len(columns)), dtype=int)
    count = 0
    # Attacks without a source come first. An attack with the model itself as its source gives the same numbers.
    for each in sorted(used, key=lambda name: _source(outcomes.task(name)) is not None):
        for j, target in enumerate(columns):
            curve = accuracy_curve(outcomes, each, target)
            k, i = curve.strength.index(strength), rows.index(_source(outcomes.task(each)) or target)
            found[:, i, j] = curve.value[k], curve.low[k], curve.high[k]
            assumed[i, j] = curve.assumed[k]
            count = curve.count
    values, low, high = found
    return Transfer(tuple(rows), tuple(columns), values, low, high, count, strength, tuple(used), assumed)


def _group_of(outcomes: Outcomes, label: str | None) -> list[str]:
    known = transfer_groups(outcomes)
    if not known:
        raise InputError("expected attacks with a source, got none; evaluate with sr.load('pgd', ..., source='MODEL')")
    if label is None:
        if len(known) > 1:
            raise InputError(
                f"expected label= with several groups of attacks, got none; choose one of {[g[0] for g in known]}"
            )
        return known[0]
    for each in known:
        if label in each:
            return each
    grouped = [each for labels in known for each in labels]
    raise InputError(f"expected a label in {grouped}, got {label!r}; name an attack that has a source")


def _source(task: dict[str, Any]) -> str | None:
    source: str | None = task["attack"]["source"]
    return source
