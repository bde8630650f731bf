"""What stored evidence says about a report's numbers. Thresholds are stated in each finding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from snnrobust import comparisons
from snnrobust.results import NAN, Finding, Verdict

if TYPE_CHECKING:
    from snnrobust.report import Report

#: Points by which argmax and strict accuracy may differ.
TIE_GAP = 0.01
#: Points by which noise may beat an attack of the same radius.
NOISE_GAP = 0.0
#: Share of attempted samples that an attack may hand back unchanged.
UNCHANGED = 0.01


def verdict(findings: list[Finding]) -> Verdict:
    """ "untrustworthy" if a fatal finding failed; "trusted" if all required ones passed; else "doubtful".

    Without findings (evidence="none") nothing is known, which is doubtful.
    """
    if any(finding.passed is False and finding.fatal for finding in findings):
        return "untrustworthy"
    required = [finding for finding in findings if finding.required]
    return "trusted" if required and all(finding.passed for finding in required) else "doubtful"


def judge(report: Report) -> list[Finding]:
    """Findings about every model's attacks, from stored outcomes alone."""
    findings = []
    for model in report.models:
        findings += [_strict_accuracy(report, model)]
        attacks = report.labels("attack")
        for label in attacks:
            findings += [_moves(report, model, label), _agreement(report, model, label)]
            findings += _epsilon_zero(report, model, label)
            findings += _noise_not_stronger(report, model, label)
            findings += _averaged(report, model, label)
        findings += comparisons.judge(report, model) if attacks else [_not_attacked(model)]
    return findings


def _not_attacked(model: str) -> Finding:
    why = "whether any attack was run; without one, nothing can be said about robustness against an adversary"
    return Finding("attacked", None, NAN, 1.0, why, "add attacks, e.g. sr.load('pgd', epsilon=...)", model=model)


def _strict_accuracy(report: Report, model: str) -> Finding:
    clean = report.clean(model)
    gap = round(float(clean["correct"].mean() - (clean["correct"] & (clean["margin"] > 0)).mean()), 9)
    return Finding(
        "strict-accuracy",
        gap <= TIE_GAP,
        gap,
        TIE_GAP,
        "clean accuracy minus the accuracy that counts ties as wrong",
        "quote strict accuracy beside accuracy",
        required=False,
        model=model,
    )


def _moves(report: Report, model: str, label: str) -> Finding:
    """Whether an attack changes its inputs; one that breaks samples may leave alone those that it can't break."""
    unchanged = attempted = broken = 0
    for k, epsilon in enumerate(report.task(label)["strengths"]):
        if epsilon > 0:
            cell = report.cell(model, label, k)
            tried = (cell["correct"] >= 0) & report.clean(model)["correct"]
            attempted += int(tried.sum())
            unchanged += int((cell["unchanged"][tried] == 1).sum())
            broken += int((cell["correct"][tried] == 0).sum())
    share = unchanged / attempted if attempted else NAN
    return Finding(
        f"attack-moves:{label}",
        None if not attempted else share <= UNCHANGED,
        share,
        UNCHANGED,
        "share of attempted samples that the attack hands back unchanged; such an attack tests nothing",
        "look at the zero-gradient finding, start at random, or use another estimator or attack",
        required=attempted > 0 and broken == 0,
        fatal=attempted > 0 and share == 1.0,
        model=model,
    )


def _agreement(report: Report, model: str, label: str) -> Finding:
    cells = [report.cell(model, label, k) for k in range(len(report.task(label)["strengths"]))]
    attempted = sum(int((cell["correct"] >= 0).sum()) for cell in cells)
    share = sum(int((cell["disagreements"] > 0).sum()) for cell in cells) / attempted if attempted else 0.0
    return Finding(
        f"rescoring:{label}",
        share <= 0.001,
        share,
        0.001,
        "share of samples where the search and a fresh forward pass of the user's net disagree about a success",
        "fix batch size and thread count; look at the batch-of-one finding",
        model=model,
    )


def _epsilon_zero(report: Report, model: str, label: str) -> list[Finding]:
    strengths = report.task(label)["strengths"]
    if 0.0 not in strengths:
        return []
    robust = report.robust(label, model)[strengths.index(0.0)]
    apart = float((robust != report.clean(model)["correct"]).mean())
    return [
        Finding(
            f"epsilon-zero:{label}",
            apart == 0,
            apart,
            0.0,
            "share of samples whose outcome at epsilon 0 differs from the clean one, through the full attack path",
            "look for state or randomness that leaks into the attack",
            fatal=True,
            model=model,
        )
    ]


def _noise_not_stronger(report: Report, model: str, label: str) -> list[Finding]:
    """Uniform noise of size s is an L-inf attack of radius s that does not even look."""
    attack = report.task(label)
    if attack["attack"]["norm"] != "linf":
        return []
    gaps = []
    for noise in report.labels("noise"):
        task = report.task(noise)
        for k, severity in enumerate(task["strengths"] if task["name"] == "uniform" else []):
            if severity > 0 and severity in attack["strengths"]:
                robust = report.robust(label, model)[attack["strengths"].index(severity)]
                apart = robust - report.cell(model, noise, k)["fraction"].astype(np.float64)
                varies = np.ptp(apart) > 0
                chance = stats.ttest_1samp(apart, 0.0, alternative="greater").pvalue if varies else float(apart[0] <= 0)
                # Shares over draws are stored in float32.
                gaps.append(comparisons.Gap(round(float(apart.mean()), 6), float(chance)))
    if not gaps:
        return []
    passed, value = comparisons.conclude(gaps, NOISE_GAP)
    return [
        Finding(
            f"noise-not-stronger:{label}",
            passed,
            value,
            NOISE_GAP,
            "robust accuracy minus accuracy under uniform noise of the same size, at its largest; an attack that noise "
            "beats does not search" + (" (above 0, but chance may explain it)" if passed is None else ""),
            "use another estimator, more steps or restarts" if passed is not None else "evaluate more samples",
            fatal=True,
            model=model,
        )
    ]


def _averaged(report: Report, model: str, label: str) -> list[Finding]:
    if not report.run["models"][model]["stochastic"]:
        return []
    eot = report.task(label)["attack"]["eot"]
    return [
        Finding(
            f"eot:{label}",
            eot > 1,
            float(eot),
            2.0,
            "draws that each gradient of this stochastic model is averaged over",
            "pass eot=10 or more to the attack",
            model=model,
        )
    ]
