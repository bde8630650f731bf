"""Findings as they are read: one line for each check of a model or attack, whatever the number of radii."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from snnrobust import audit
from snnrobust.audit.judgement import Judged
from snnrobust.results.records import Claim, Finding, Verdict


@dataclass(frozen=True)
class Check:
    """One check of a model or of an attack on it, over all radii.

    Attributes:
        worst: The finding that decides it: one that failed, else one without evidence, else one that passed; among
            these the one with the largest value.
        failed: Radii at which it failed, where it was made at single ones.
        missing: Radii at which its evidence is missing.
    """

    worst: Finding
    failed: tuple[float, ...]
    missing: tuple[float, ...]

    @property
    def passed(self) -> bool | None:
        """Whether it passed everywhere; None where nothing failed, but evidence is missing."""
        return self.worst.passed

    @property
    def counts(self) -> bool:
        """Whether a verdict depends on it."""
        return self.worst.required or self.worst.fatal


def checks(findings: Iterable[Finding]) -> list[Check]:
    """Findings by model, attack and name: what failed first, then what lacks evidence; each with what counts first."""
    grouped: dict[tuple[str, str, str], list[Finding]] = {}
    for each in findings:
        grouped.setdefault((each.model, each.label, each.name), []).append(each)
    made = [_check(found) for found in grouped.values()]
    return sorted(made, key=lambda check: (_rank(check.worst), not check.counts, not check.worst.fatal))


def summary(made: Sequence[Check]) -> str:
    """How many checks failed, lack evidence and passed, in words."""
    counts = Counter({True: "passed", False: "failed", None: "missing"}[check.passed] for check in made)
    return ", ".join(f"{counts[name]} {name}" for name in ("failed", "missing", "passed") if counts[name]) or "none"


def deciding(judged: Judged, model: str | None = None) -> list[Finding]:
    """Findings about the models themselves and about the quoted attacks: those that the verdict rests on."""
    about = ("", *judged.outcomes.quoted())
    return [each for each in judged.findings if each.label in about and model in (None, each.model)]


def verdict_on(judged: Judged, model: str) -> Verdict:
    """The verdict on one model's quoted claims."""
    claims: list[Claim] = [claim for claim in judged.claims if claim.model == model]
    return audit.overall([each for each in judged.findings if each.model in ("", model)], claims)


def _check(found: list[Finding]) -> Check:
    worst = min(found, key=lambda each: (_rank(each), -math.inf if math.isnan(each.value) else -each.value))
    return Check(worst, _radii(found, False), _radii(found, None))


def _rank(finding: Finding) -> int:
    return (False, None, True).index(finding.passed)


def _radii(found: list[Finding], passed: bool | None) -> tuple[float, ...]:
    radii = {each.strength for each in found if each.passed is passed and not math.isnan(each.strength)}
    return tuple(sorted(radii))
