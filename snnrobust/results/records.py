"""What an evaluation yields: records, curves, findings and claims."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

Sense = Literal["any-iterate", "any-iterate, bisect", "last-iterate", "mean over draws"]
Verdict = Literal["trusted", "doubtful", "untrustworthy"]

NAN = math.nan


@dataclass(frozen=True)
class Record:
    """One number. A measurement fills in its own fields; the core adds model, label, plugin, origin and seed.

    `metric` and `threat` are text to show. What they say is in the fields from `quantity` on, which readers use.

    Attributes:
        metric: What the number is, e.g. "robust_accuracy", "firing_rate:0.2" (quantity:layer), "eigenvalue:1".
        value: The number.
        low: Lower end of its 95 % interval; NaN where none is known.
        high: Upper end.
        count: Samples (or probes) behind it.
        strength: Epsilon, severity, time step ...; NaN where there is none.
        unit: Unit of `strength`.
        threat: Threat model, corruption or operator, as text.
        forwards: Forward passes, counted per sample.
        backwards: Backward passes, counted per sample.
        seconds: Wall time of the cell that the number comes from.
        quantity: `metric` without its suffix, e.g. "firing_rate"; the whole `metric` where left out.
        layer: The layer that the number belongs to; empty for the whole net.
        rank: Rank of an eigenvalue, from 1; 0 for other quantities.
        directions: "random" or "leading", the directions in which curvature was predicted and measured.
        search: How a sharpness was searched, e.g. "ascent".
        operator: The second-order operator, e.g. "Gauss-Newton matrix"; empty for other quantities.
        variant: The operator's variant and how it was solved, e.g. "own surrogates, exact spectrum".
        space: "weights" or "inputs", over which a loss or its curvature was measured.
        symmetric: Whether the operator is symmetric by construction; None where there is no operator.
        draw_noise: Whether the operator's eigenvalues are noise, since it was estimated from fewer draws than rows.
    """

    metric: str
    value: float
    low: float = NAN
    high: float = NAN
    count: int = 0
    strength: float = NAN
    unit: str = ""
    threat: str = ""
    model: str = ""
    label: str = ""
    plugin: str = ""
    origin: str = ""
    seed: int = 0
    forwards: int = 0
    backwards: int = 0
    seconds: float = NAN
    quantity: str = ""
    layer: str = ""
    rank: int = 0
    directions: str = ""
    search: str = ""
    operator: str = ""
    variant: str = ""
    space: str = ""
    symmetric: bool | None = None
    draw_noise: bool = False

    def __post_init__(self) -> None:
        if not self.quantity:
            object.__setattr__(self, "quantity", self.metric)


@dataclass(frozen=True)
class Curve:
    """A quantity over the strengths of a task, with 95 % intervals.

    Attributes:
        strength: The strengths: epsilon for attacks, severity for noise.
        value: The share of samples that are correct at each strength.
        low: Lower ends of the 95 % intervals.
        high: Upper ends.
        count: Number of samples.
        threat: Threat model without its radius; the corruption for noise.
        sense: How a sample is scored: "any-iterate" (broken if any iterate at this strength or a smaller one is
            misclassified), "any-iterate, bisect" (the same, but a sample that is robust at a strength is assumed robust
            at smaller ones), "last-iterate" (as in torchattacks) or "mean over draws" (noise).
        model: Name of the model.
        label: Label of the task.
        unit: Unit of the strengths: "epsilon" or "severity".
        attribution: For ensembles and the worst case: how many samples each attack was the first to break.
        assumed: For attacks by bisection: how many samples at each strength are robust by assumption, without having
            been attacked there; otherwise 0.
    """

    strength: tuple[float, ...]
    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    count: int
    threat: str
    sense: Sense
    model: str
    label: str
    unit: str
    attribution: dict[str, int] = field(default_factory=dict)
    assumed: tuple[int, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One check of the evidence.

    Attributes:
        name: Name of the check.
        passed: True, False, or None if the evidence is missing.
        value: The measured value; NaN if nothing was measured.
        threshold: The limit of the value.
        why: What was measured, and what a value beyond the threshold means for the numbers.
        remedy: What to do if it failed or its evidence is missing.
        required: Whether it must pass for the verdict "trusted".
        fatal: Whether the verdict is "untrustworthy" if it fails.
        model: The model it is about.
        label: The attack it is about; empty if it is about the model.
        strength: The radius it is about; NaN if it is about all radii.
    """

    name: str
    passed: bool | None
    value: float
    threshold: float
    why: str
    remedy: str
    required: bool = True
    fatal: bool = False
    model: str = ""
    label: str = ""
    strength: float = NAN


@dataclass(frozen=True)
class Claim:
    """One robust accuracy of a report, and the verdict on it.

    Attributes:
        model: Name of the model.
        data: Name of the data set.
        threat: The threat model, without its radius.
        strength: The radius.
        label: The attack or ensemble.
        value: Robust accuracy (any-iterate).
        low: Lower end of its 95 % interval.
        high: Upper end.
        count: Number of samples.
        quoted: Whether the report's verdict is about this number.
        verdict: "trusted" if every required finding about it passed, "untrustworthy" if a fatal one failed, else
            "doubtful".
        failed: Names of the findings that failed and count for the verdict.
        advice: Names of the findings that failed and don't count for the verdict.
        missing: Names of the required findings whose evidence is missing.
        assumed: Number of samples that are assumed robust because they are robust at a larger radius (mode="bisect").
    """

    model: str
    data: str
    threat: str
    strength: float
    label: str
    value: float
    low: float
    high: float
    count: int
    quoted: bool
    verdict: Verdict
    failed: tuple[str, ...]
    advice: tuple[str, ...]
    missing: tuple[str, ...]
    assumed: int = 0
