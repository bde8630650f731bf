"""What examples made on one model leave standing of another."""

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
    """Robust accuracy by the model that the examples were made on, and the model that they were tried on.

    Attributes:
        sources: Models that the examples were made on, the rows.
        targets: Models that they were tried on, the columns.
        values: Robust accuracy, [source, target]; NaN where nothing was run.
        low: Lower ends of the 95 % intervals, [source, target].
        high: Upper ends, [source, target].
        count: Samples behind each number.
        strength: The radius.
        labels: The tasks that the numbers come from.
        assumed: How many samples count as right since they withstood a larger radius (mode="bisect"), [source, target].
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


def groups(outcomes: Outcomes) -> list[list[str]]:
    """Labels of attacks that are alike but for their source, where at least one has another model as its source."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for label in outcomes.labels("attack"):
        task = outcomes.task(label)
        if not task["members"]:
            factors = {name: value for name, value in task["attack"].items() if name != "source"}
            alike.setdefault((task["plugin"], repr(sorted(factors.items()))), []).append(label)
    return [labels for labels in alike.values() if any(_source(outcomes.task(label)) for label in labels)]


def strengths(outcomes: Outcomes, labels: list[str]) -> list[float]:
    """The radii at which a group has examples from a source."""
    tasks = [outcomes.task(label) for label in labels]
    return sorted({radius for task in tasks if _source(task) for radius in task["strengths"]})


def transfer(outcomes: Outcomes, strength: float, label: str | None = None) -> Transfer:
    """The matrix of one group of attacks at one radius; see `Report.transfer`."""
    labels = _chosen(outcomes, label)
    if strength not in (known := strengths(outcomes, labels)):
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
    # Those without a source come first: what was run from the model itself as a source is the same, and overwrites.
    for each in sorted(used, key=lambda name: _source(outcomes.task(name)) is not None):
        for j, target in enumerate(columns):
            curve = accuracy_curve(outcomes, each, target)
            k, i = curve.strength.index(strength), rows.index(_source(outcomes.task(each)) or target)
            found[:, i, j] = curve.value[k], curve.low[k], curve.high[k]
            assumed[i, j] = curve.assumed[k]
            count = curve.count
    values, low, high = found
    return Transfer(tuple(rows), tuple(columns), values, low, high, count, strength, tuple(used), assumed)


def _chosen(outcomes: Outcomes, label: str | None) -> list[str]:
    known = groups(outcomes)
    if not known:
        raise InputError("expected attacks from a source, got none; evaluate with sr.load('pgd', ..., source='MODEL')")
    if label is None:
        if len(known) > 1:
            raise InputError(
                f"expected label= with several groups of attacks, got none; choose one of {[g[0] for g in known]}"
            )
        return known[0]
    for each in known:
        if label in each:
            return each
    everyone = [each for labels in known for each in labels]
    raise InputError(f"expected a label in {everyone}, got {label!r}; name an attack that has a source")


def _source(task: dict[str, Any]) -> str | None:
    source: str | None = task["attack"]["source"]
    return source
