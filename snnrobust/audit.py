"""What stored evidence says about a report's numbers. Thresholds are stated in each finding."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from snnrobust.results import NAN, Finding, Verdict

if TYPE_CHECKING:
    from snnrobust.report import Report

#: Points of robust accuracy by which another gradient estimator may beat the model's own surrogate.
SURROGATE_GAP = 0.02
#: Points that doubling an attack's steps may cost.
STEPS_GAP = 0.01
#: Points by which an attack without gradients may beat one with.
BLACK_BOX_GAP = 0.0
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
        if attacks:
            findings += [check(report, model, attacks) for check in (_surrogate_gap, _steps_converged, _black_box)]
    return findings


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
    unchanged = attempted = 0
    for k, epsilon in enumerate(report.task(label)["strengths"]):
        if epsilon > 0:
            cell = report.cell(model, label, k)
            tried = cell["correct"] >= 0
            attempted += int(tried.sum())
            unchanged += int((cell["unchanged"][tried] == 1).sum())
    share = unchanged / attempted if attempted else NAN
    return Finding(
        f"attack-moves:{label}",
        None if not attempted else share <= UNCHANGED,
        share,
        UNCHANGED,
        "share of attempted samples that the attack hands back unchanged; such an attack tests nothing",
        "look at the zero-gradient finding, start at random, or use another estimator or attack",
        required=attempted > 0,
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
    worst, seen = NAN, False
    for noise in report.labels("noise"):
        if report.task(noise)["name"] != "uniform":
            continue
        for k, severity in enumerate(report.task(noise)["strengths"]):
            if severity in attack["strengths"]:
                robust = report.robust(label, model)[attack["strengths"].index(severity)]
                gap = float(robust.mean() - report.cell(model, noise, k)["fraction"].mean())
                worst, seen = gap if not seen else max(worst, gap), True
    if not seen:
        return []
    return [
        Finding(
            f"noise-not-stronger:{label}",
            worst <= NOISE_GAP,
            worst,
            NOISE_GAP,
            "robust accuracy minus accuracy under uniform noise of the same size, at its largest; an attack that noise "
            "beats does not search",
            "use another estimator, more steps or restarts",
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


def _surrogate_gap(report: Report, model: str, attacks: list[str]) -> Finding:
    """Whether the same attack with another estimator breaks what the own surrogate's gradient leaves standing."""
    gaps = []
    for group in _alike(report, attacks, "gradient"):
        own = [label for label in group if report.task(label)["attack"]["gradient"] == "Own()"]
        others = [label for label in group if label not in own]
        gaps += [_largest_gap(report, model, a, b) for a in own for b in others]
    worst = max(gaps, default=NAN)
    return Finding(
        "surrogate-gap",
        worst <= SURROGATE_GAP if gaps else None,
        worst,
        SURROGATE_GAP,
        "robust accuracy with the model's own surrogate minus that with another estimator, at its largest; a gap means "
        "that the own surrogate masks the gradient" + ("" if gaps else " (not compared)"),
        "quote the worst case over estimators"
        if gaps
        else "add the same attack with another estimator, e.g. sr.load('pgd', label='pgd-atan', gradient='atan', ...)",
        fatal=True,
        model=model,
    )


def _steps_converged(report: Report, model: str, attacks: list[str]) -> Finding:
    """Whether at least twice the steps of the same attack find much more."""
    gaps = []
    for group in _alike(report, attacks, "steps"):
        by_steps = {steps: label for label in group if (steps := _steps(report.task(label))) is not None}
        for few in by_steps:
            gaps += [_largest_gap(report, model, by_steps[few], by_steps[many]) for many in by_steps if many >= 2 * few]
    # The longest comparison counts: 50 against 100 steps may have converged where 10 against 20 have not.
    best = min(gaps, default=NAN)
    return Finding(
        "steps-converged",
        best <= STEPS_GAP if gaps else None,
        best,
        STEPS_GAP,
        "robust accuracy that an attack loses when its steps are at least doubled"
        + ("" if gaps else " (no attack was run with two numbers of steps)"),
        "quote the longer attack, and double its steps once more"
        if gaps
        else "add the same attack with twice the steps under another label",
        model=model,
    )


def _black_box(report: Report, model: str, attacks: list[str]) -> Finding:
    """Whether an attack without gradients breaks what those with gradients leave standing."""
    blind = [label for label in attacks if _spent(report, model, label) == (True, False)]
    gaps = []
    for label in blind:
        rivals = [other for other in attacks if other not in blind and _shared(report, label, other)]
        if rivals:
            gaps.append(min(_largest_gap(report, model, other, label) for other in rivals))
    worst = max(gaps, default=NAN)
    return Finding(
        "black-box-not-stronger",
        worst <= BLACK_BOX_GAP if gaps else None,
        worst,
        BLACK_BOX_GAP,
        "robust accuracy under the strongest gradient attack minus that under an attack without gradients, at its "
        "largest" + ("" if gaps else " (no attack without gradients was run at a shared radius)"),
        "gradients are masked: use other estimators"
        if gaps
        else "add an attack that needs no gradient at the same epsilons",
        fatal=True,
        model=model,
    )


def _spent(report: Report, model: str, label: str) -> tuple[bool, bool]:
    """Whether an attack made any forward pass, and any backward pass."""
    cells = [report.cell(model, label, k) for k in range(len(report.task(label)["strengths"]))]
    return any(cell["forwards"].any() for cell in cells), any(cell["backwards"].any() for cell in cells)


def _shared(report: Report, a: str, b: str) -> list[float]:
    """Positive radii that two attacks of one norm have in common."""
    first, second = report.task(a), report.task(b)
    if first["attack"]["norm"] != second["attack"]["norm"]:
        return []
    return [radius for radius in first["strengths"] if radius > 0 and radius in second["strengths"]]


def _largest_gap(report: Report, model: str, a: str, b: str) -> float:
    """Robust accuracy under `a` minus that under `b`, at the radius in common where it is largest."""
    strengths = report.task(a)["strengths"], report.task(b)["strengths"]
    shares = [report.robust(label, model).mean(axis=1) for label in (a, b)]
    gap = max(shares[0][strengths[0].index(r)] - shares[1][strengths[1].index(r)] for r in _shared(report, a, b))
    return round(float(gap), 9)  # 0.5 - 0.48 is 2 points, not 2 and a rounding error


def _alike(report: Report, attacks: list[str], but: str) -> list[list[str]]:
    """Groups of attacks that are the same `but` for their gradient estimator or their number of steps."""
    groups: dict[str, list[str]] = {}
    for label in attacks:
        task = report.task(label)
        factors = {name: value for name, value in task["attack"].items() if name != but}
        plugin = re.sub(r"\bsteps=\d+", "", task["plugin"]) if but == "steps" else task["plugin"]
        groups.setdefault(repr((task["name"], plugin, factors)), []).append(label)
    return [
        group for group in groups.values() if len(group) > 1 and all(_shared(report, group[0], each) for each in group)
    ]


def _steps(task: dict[str, Any]) -> int | None:
    found = re.search(r"\bsteps=(\d+)", task["plugin"])
    return int(found[1]) if found else None
