"""What stored evidence says about a report's numbers. Thresholds are stated in each finding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from snnrobust.audit import compared, curvature, stored, varied
from snnrobust.audit.exhibits import Audited
from snnrobust.results import Claim, Finding, Verdict

if TYPE_CHECKING:
    from snnrobust.report import Report

_ORDER: tuple[Verdict, ...] = ("untrustworthy", "doubtful", "trusted")


def verdict(findings: Sequence[Finding]) -> Verdict:
    """ "untrustworthy" if a fatal finding failed; "trusted" if all required ones passed; else "doubtful".

    Without findings (evidence="none") nothing is known, which is doubtful.
    """
    if any(finding.passed is False and finding.fatal for finding in findings):
        return "untrustworthy"
    required = [finding for finding in findings if finding.required]
    return "trusted" if required and all(finding.passed for finding in required) else "doubtful"


def judge(report: Report) -> list[Finding]:
    """Findings about every model, its curvature and every attack on it, from stored outcomes alone."""
    findings = []
    for model in report.models:
        findings += stored.about_model(report, model)
        findings += curvature.about_model(report, model)
        for label in report.labels("attack"):
            audited = Audited(report, model, label)
            findings += stored.about_attack(audited)
            for strength in audited.radii:
                findings += compared.about_claim(audited, strength)
                findings += varied.about_claim(audited, strength)
    return findings


def claims(report: Report) -> list[Claim]:
    """Every robust accuracy of the report at a positive radius, with the verdict on it."""
    found = []
    for model in report.models:
        quoted = report.quoted()
        for label in report.labels("attack"):
            curve = report.curve(label, model)
            for k, strength in enumerate(curve.strength):
                if strength > 0:
                    about = [each for each in report.findings if _concerns(each, model, label, strength)]
                    found.append(
                        Claim(
                            model=model,
                            data=report.run["data"]["name"],
                            threat=curve.threat,
                            strength=strength,
                            label=label,
                            value=curve.value[k],
                            low=curve.low[k],
                            high=curve.high[k],
                            count=curve.count,
                            quoted=label in quoted,
                            verdict=verdict(about),
                            failed=tuple(each.name for each in about if each.passed is False and _counts(each)),
                            advice=tuple(each.name for each in about if each.passed is False and not _counts(each)),
                            missing=tuple(each.name for each in about if each.passed is None and each.required),
                            assumed=curve.assumed[k],
                        )
                    )
    return found


def overall(findings: Sequence[Finding], made: Sequence[Claim]) -> Verdict:
    """The worst verdict on the quoted claims, and on the models where there is none."""
    worst = [each.verdict for each in made if each.quoted] or ["doubtful"]
    if verdict([each for each in findings if not each.label]) == "untrustworthy":
        worst.append("untrustworthy")
    return min(worst, key=_ORDER.index)


def _counts(finding: Finding) -> bool:
    return finding.required or finding.fatal


def _concerns(finding: Finding, model: str, label: str, strength: float) -> bool:
    return (
        finding.model in ("", model)
        and finding.label in ("", label)
        and (math.isnan(finding.strength) or finding.strength == strength)
    )
