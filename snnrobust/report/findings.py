"""Findings grouped for display: one line for each check of a model or attack, over all radii."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from snnrobust.audit.judgement import AuditResult, overall
from snnrobust.results.records import Claim, Finding, Verdict


@dataclass(frozen=True)
class Check:
    """One check of a model or of an attack on it, over all radii.

    Attributes:
        worst: The finding shown: one that failed, else one whose evidence is missing, else one that passed; among
            these the one with the largest value.
        failed: Radii at which it failed; empty if the check is about all radii.
        missing: Radii at which its evidence is missing.
    """

    worst: Finding
    failed: tuple[float, ...]
    missing: tuple[float, ...]

    @property
    def passed(self) -> bool | None:
        """Whether it passed at all radii; None if it failed nowhere but evidence is missing."""
        return self.worst.passed

    @property
    def counts(self) -> bool:
        """Whether the verdict depends on it."""
        return self.worst.required or self.worst.fatal


def checks(findings: Iterable[Finding]) -> list[Check]:
    """Findings grouped by model, attack and name.

    Failed checks come first, then those whose evidence is missing; among each, those that count for the verdict first.
    """
    grouped: dict[tuple[str, str, str], list[Finding]] = {}
    for each in findings:
        grouped.setdefault((each.model, each.label, each.name), []).append(each)
    made = [_merged_check(found) for found in grouped.values()]
    return sorted(made, key=lambda check: (_severity(check.worst), not check.counts, not check.worst.fatal))


def summary(made: Sequence[Check]) -> str:
    """The numbers of checks that failed, miss evidence and passed, as text."""
    counts = Counter({True: "passed", False: "failed", None: "missing"}[check.passed] for check in made)
    return ", ".join(f"{counts[name]} {name}" for name in ("failed", "missing", "passed") if counts[name]) or "none"


def deciding_findings(audit: AuditResult, model: str | None = None) -> list[Finding]:
    """The findings that decide the verdict: those about the models and about the quoted attacks."""
    about = ("", *audit.outcomes.quoted())
    return [each for each in audit.findings if each.label in about and model in (None, each.model)]


def model_verdict(audit: AuditResult, model: str) -> Verdict:
    """The verdict on one model's quoted claims."""
    claims: list[Claim] = [claim for claim in audit.claims if claim.model == model]
    return overall([each for each in audit.findings if each.model in ("", model)], claims)


def _merged_check(found: list[Finding]) -> Check:
    worst = min(found, key=lambda each: (_severity(each), -math.inf if math.isnan(each.value) else -each.value))
    return Check(worst, _radii(found, False), _radii(found, None))


def _severity(finding: Finding) -> int:
    return (False, None, True).index(finding.passed)


def _radii(found: list[Finding], passed: bool | None) -> tuple[float, ...]:
    radii = {each.strength for each in found if each.passed is passed and not math.isnan(each.strength)}
    return tuple(sorted(radii))
