"""What stored evidence says about a run's numbers. Thresholds are stated in each finding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from snnrobust.analysis.curves import accuracy_curve
from snnrobust.analysis.outcomes import Outcomes
from snnrobust.audit import attack_variants, curvature, other_attacks, own_outcomes
from snnrobust.audit.audited_attack import Audited
from snnrobust.results.records import Claim, Finding, Verdict

#: What is asked about each model, about each attack on it, and about each of the attack's positive radii.
ABOUT_MODEL = (own_outcomes.about_model, curvature.about_model)
ABOUT_ATTACK = (own_outcomes.about_attack,)
ABOUT_CLAIM = (other_attacks.about_claim, attack_variants.about_claim)

_ORDER: tuple[Verdict, ...] = ("untrustworthy", "doubtful", "trusted")


@dataclass(frozen=True)
class Judged:
    """A run and what its evidence says about it.

    Attributes:
        outcomes: What the run stored.
        findings: Checks of the evidence, the probe's first.
        claims: Every robust accuracy at a positive radius, each with a verdict of its own.
        verdict: The worst verdict on the quoted claims.
    """

    outcomes: Outcomes
    findings: list[Finding]
    claims: list[Claim]
    verdict: Verdict


def judge(outcomes: Outcomes) -> Judged:
    """Findings, claims and the verdict of a run; without findings where no evidence was asked for."""
    made = [*outcomes.probed(), *findings(outcomes)] if outcomes.run["evidence"] != "none" else []
    about = claims(outcomes, made)
    return Judged(outcomes, made, about, overall(made, about))


def verdict(findings: Sequence[Finding]) -> Verdict:
    """ "untrustworthy" if a fatal finding failed; "trusted" if all required ones passed; else "doubtful".

    Without findings (evidence="none") nothing is known, which is doubtful.
    """
    if any(finding.passed is False and finding.fatal for finding in findings):
        return "untrustworthy"
    required = [finding for finding in findings if finding.required]
    return "trusted" if required and all(finding.passed for finding in required) else "doubtful"


def findings(outcomes: Outcomes) -> list[Finding]:
    """Findings about every model, its curvature and every attack on it, from stored outcomes alone."""
    found: list[Finding] = []
    for model in outcomes.models:
        for about_model in ABOUT_MODEL:
            found += about_model(outcomes, model)
        for label in outcomes.labels("attack"):
            audited = Audited(outcomes, model, label)
            for about_attack in ABOUT_ATTACK:
                found += about_attack(audited)
            for strength in audited.radii:
                for about_claim in ABOUT_CLAIM:
                    found += about_claim(audited, strength)
    return found


def claims(outcomes: Outcomes, findings: Sequence[Finding]) -> list[Claim]:
    """Every robust accuracy of a run at a positive radius, with the verdict of `findings` on it."""
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
