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
    """One number. A measurement fills in what it knows; the core adds model, label, plugin, origin and seed.

    Attributes:
        metric: What the number is, e.g. "robust_accuracy", "firing_rate:0.2" (metric:layer), "eigenvalue:1".
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


@dataclass(frozen=True)
class Curve:
    """A quantity over the strengths of a task, with 95 % intervals.

    Attributes:
        sense: What a value means: "any-iterate" (the worst iterate counts, carried from smaller strengths),
            "any-iterate, bisect" (the same, but what withstands a strength is assumed to withstand smaller ones),
            "last-iterate" (as torchattacks scores) or "mean over draws" (noise).
        assumed: For attacks: how many samples count at each strength on that assumption alone; 0 without a bisection.
        attribution: For a worst case: how many samples each task's label was the first to break.
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
        name: What was checked.
        passed: True, False, or None where the evidence for it is missing.
        value: What was measured; NaN where nothing was.
        threshold: The value at which it fails.
        why: What the check protects against and what was seen.
        remedy: What to do about it.
        required: Whether a verdict of "trusted" needs it.
        fatal: Whether failing it makes the numbers meaningless rather than doubtful.
        model: The model it is about.
        label: The attack it is about; empty where it is about the model.
        strength: The radius it is about; NaN where it is about all.
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
    """A number that the report puts forward, and whether it is to be believed.

    Attributes:
        model: Name of the model.
        data: Name of the data set.
        threat: The threat model, without its radius.
        strength: The radius.
        label: The attack or ensemble.
        value: Robust accuracy (any-iterate).
        low: Lower end of its 95 % interval.
        high: Upper end.
        count: Samples behind it.
        quoted: Whether it is one of the numbers that the report's own verdict is about.
        verdict: "trusted" if every required finding about it passed, "untrustworthy" if a fatal one failed, else
            "doubtful".
        failed: Names of the findings that failed and count for the verdict.
        advice: Names of the others that failed.
        missing: Names of the required findings for which the evidence is missing.
        assumed: Samples that count as right since they withstood a larger radius, not attacked at this one (bisection).
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
