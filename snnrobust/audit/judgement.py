"""The audit of a stored run: findings, claims and verdicts. Each finding states its threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from snnrobust.analysis.curves import accuracy_curve
from snnrobust.analysis.outcomes import Outcomes
from snnrobust.audit import attack_variants, corruption_findings, curvature, other_attacks, outcome_findings
from snnrobust.audit.audited_attack import AuditedAttack
from snnrobust.results.records import Claim, Finding, Verdict

#: Functions that return the findings about a model, about an attack on it, and about an attack at one positive radius.
MODEL_FINDINGS = (
    outcome_findings.model_findings,
    corruption_findings.corruption_findings,
    curvature.curvature_findings,
)
ATTACK_FINDINGS = (outcome_findings.attack_findings,)
CLAIM_FINDINGS = (other_attacks.other_attack_findings, attack_variants.attack_variant_findings)

_ORDER: tuple[Verdict, ...] = ("untrustworthy", "doubtful", "trusted")


@dataclass(frozen=True)
class AuditResult:
    """The outcomes of a run with their findings, claims and verdict.

    Attributes:
        outcomes: The stored outcomes.
        findings: All findings; those of the probe come first.
        claims: One claim for each robust accuracy at a positive radius, with its verdict.
        verdict: The worst verdict on the quoted claims.
    """

    outcomes: Outcomes
    findings: list[Finding]
    claims: list[Claim]
    verdict: Verdict


def audit_outcomes(outcomes: Outcomes) -> AuditResult:
    """Findings, claims and verdict of a run; no findings if it was evaluated with evidence="none"."""
    made = [*outcomes.probed(), *findings(outcomes)] if outcomes.run["evidence"] != "none" else []
    made_claims = claims(outcomes, made)
    return AuditResult(outcomes, made, made_claims, overall(made, made_claims))


def verdict(findings: Sequence[Finding]) -> Verdict:
    """ "untrustworthy" if a fatal finding failed; "trusted" if all required ones passed; else "doubtful".

    Without findings (evidence="none") the verdict is "doubtful".
    """
    if any(finding.passed is False and finding.fatal for finding in findings):
        return "untrustworthy"
    required = [finding for finding in findings if finding.required]
    return "trusted" if required and all(finding.passed for finding in required) else "doubtful"


def findings(outcomes: Outcomes) -> list[Finding]:
    """Findings about every model, its curvature and every attack on it, from stored outcomes alone."""
    found: list[Finding] = []
    for model in outcomes.models:
        for model_findings in MODEL_FINDINGS:
            found += model_findings(outcomes, model)
        for label in outcomes.labels("attack"):
            audited = AuditedAttack(outcomes, model, label)
            for attack_findings in ATTACK_FINDINGS:
                found += attack_findings(audited)
            for strength in audited.radii:
                for claim_findings in CLAIM_FINDINGS:
                    found += claim_findings(audited, strength)
    return found


def claims(outcomes: Outcomes, findings: Sequence[Finding]) -> list[Claim]:
    """One claim for each robust accuracy of a run at a positive radius, with the verdict from `findings`."""
    found = []
    for model in outcomes.models:
        quoted = outcomes.quoted()
        for label in outcomes.labels("attack"):
            curve = accuracy_curve(outcomes, label, model)
            for k, strength in enumerate(curve.strength):
                if strength > 0:
                    about = [each for each in findings if _concerns(each, model, label, strength)]
                    found.append(
                        Claim(
                            model=model,
                            data=outcomes.run["data"]["name"],
                            threat=curve.threat,
                            strength=strength,
                            label=label,
                            value=curve.value[k],
                            low=curve.low[k],
                            high=curve.high[k],
                            count=curve.count,
                            quoted=label in quoted,
                            verdict=verdict(about),
                            failed=tuple(each.name for each in about if each.passed is False and _decides(each)),
                            advice=tuple(each.name for each in about if each.passed is False and not _decides(each)),
                            missing=tuple(each.name for each in about if each.passed is None and each.required),
                            assumed=curve.assumed[k],
                        )
                    )
    return found


def overall(findings: Sequence[Finding], claims: Sequence[Claim]) -> Verdict:
    """The worst verdict on the quoted claims; "untrustworthy" if a fatal finding about a model failed."""
    worst = [each.verdict for each in claims if each.quoted] or ["doubtful"]
    if verdict([each for each in findings if not each.label]) == "untrustworthy":
        worst.append("untrustworthy")
    return min(worst, key=_ORDER.index)


def _decides(finding: Finding) -> bool:
    return finding.required or finding.fatal


def _concerns(finding: Finding, model: str, label: str, strength: float) -> bool:
    return (
        finding.model in ("", model)
        and finding.label in ("", label)
        and (math.isnan(finding.strength) or finding.strength == strength)
    )
