"""Findings that compare a number with what other attacks, or no attack, leave of it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy import stats

from snnrobust.audit.audited_attack import Audited, Rival
from snnrobust.audit.gaps import Gap, conclude
from snnrobust.results.records import Finding

#: Points of robust accuracy by which another gradient estimator may beat the claimed number.
SURROGATE_GAP = 0.02
#: Points by which an attack without gradients, or noise, may beat the gradients.
BLIND_GAP = 0.0


def about_claim(audited: Audited, strength: float) -> list[Finding]:
    """Findings about the robust accuracy under an attack at one radius."""
    rivals = audited.rivals(strength)
    found = [
        _surrogate_gap(audited, strength, rivals),
        _black_box(audited, strength, rivals),
        _noise(audited, strength),
    ]
    return [*found, *_transfer(audited, strength, rivals)]


def _surrogate_gap(audited: Audited, strength: float, rivals: list[Rival]) -> Finding:
    """Whether gradients through another estimator break what the attack leaves standing."""
    standing = audited.standing(strength)
    own = frozenset(member["attack"]["gradient"] for member in audited.members)
    gaps = []
    for each in rivals:
        if each.gradients:
            gap = Gap.between(standing[each.rows], each.standing, each.name)
            # That the same estimator finds no more says nothing.
            if gap.value > SURROGATE_GAP or each.estimators - own or len(own) > 1:
                gaps.append(gap)
    end = conclude(gaps, SURROGATE_GAP, "no attack was run with another estimator at this radius")
    return Finding(
        "surrogate-gap",
        end.passed,
        end.value,
        SURROGATE_GAP,
        "claimed robust accuracy minus that under the best other gradient attack; a gap means that the estimator masks "
        "the gradient, or that the attack is weak" + end.words,
        _remedy(bool(gaps), end.passed, "quote the ensemble 'standard' instead"),
        fatal=True,
        model=audited.model,
        label=audited.label,
        strength=strength,
    )


def _black_box(audited: Audited, strength: float, rivals: list[Rival]) -> Finding:
    """Whether an attack without gradients breaks more than those with them."""
    blind = [each for each in rivals if not each.gradients and not each.transfer]
    gaps = _against_gradients(audited, strength, rivals, blind)
    end = conclude(gaps, BLIND_GAP, "no attack without gradients was run at this radius")
    return Finding(
        "black-box-not-stronger",
        end.passed,
        end.value,
        BLIND_GAP,
        "robust accuracy under the gradient attacks minus that under an attack without gradients" + end.words,
        _remedy(
            bool(gaps),
            end.passed,
            "gradients are masked: add other estimators or objectives (adaptive=)",
            "evaluate with evidence='full', or add sr.load('square', ...)",
        ),
        fatal=True,
        model=audited.model,
        label=audited.label,
        strength=strength,
    )


def _transfer(audited: Audited, strength: float, rivals: list[Rival]) -> list[Finding]:
    """Whether another model's examples break more than gradients of the model itself; asked where there are any."""
    gaps = _against_gradients(audited, strength, rivals, [each for each in rivals if each.transfer])
    if not gaps:
        return []
    end = conclude(gaps, BLIND_GAP, "")
    return [
        Finding(
            "transfer-not-stronger",
            end.passed,
            end.value,
            BLIND_GAP,
            "robust accuracy under the gradient attacks minus that under another model's examples" + end.words,
            _remedy(True, end.passed, "gradients are masked: add other estimators or objectives (adaptive=)"),
            fatal=True,
            model=audited.model,
            label=audited.label,
            strength=strength,
        )
    ]


def _against_gradients(
    audited: Audited, strength: float, rivals: list[Rival], challengers: list[Rival]
) -> Iterable[Gap]:
    """How much more stands under the attack's own gradients (or, if it has none, under all others') than under each
    challenger."""
    own = _gradient_part(audited, strength)
    sighted = [own] if own is not None else [each for each in rivals if each.gradients]
    if not sighted:
        return []
    gaps = []
    for each in challengers:
        kept = np.ones(len(each.rows), dtype=bool)
        known = np.zeros(len(each.rows), dtype=bool)
        for other in sighted:
            here, there = np.isin(each.rows, other.rows), np.isin(other.rows, each.rows)
            order = np.argsort(each.rows[here])
            values = other.standing[there][np.argsort(other.rows[there])]
            at = np.flatnonzero(here)[order]
            kept[at] &= values
            known[at] = True
        if known.any():
            gaps.append(Gap.between(kept[known], each.standing[known], each.name))
    return gaps


def _gradient_part(audited: Audited, strength: float) -> Rival | None:
    """What the gradient attacks among an attack's members leave standing, where it is known."""
    exhibit = audited.exhibit("steps-100")
    if exhibit is not None and exhibit.under_gradients(strength) is not None:
        # An example found at a smaller radius is allowed here, as it is for the user's own attacks.
        smaller = (exhibit.under_gradients(radius) for radius in exhibit.strengths if radius <= strength)
        standing = np.logical_and.reduce([each for each in smaller if each is not None])
        return Rival(audited.label, exhibit.rows, standing, True, frozenset(), False)
    if audited.task["members"] or not any(cell["backwards"].any() for cell in audited.cells):
        return None
    standing = audited.standing(strength)
    return Rival(audited.label, np.arange(len(standing)), standing, True, frozenset(), False)


def _noise(audited: Audited, strength: float) -> Finding:
    """Random points of the ball are an attack of the same radius that does not even look."""
    gaps = []
    exhibit = audited.exhibit("noise", audited.norm)
    cell = None if exhibit is None else exhibit.at(strength)
    if exhibit is not None and cell is not None:
        fraction = cell["fraction"] * exhibit.clean  # what noise happens to put right is not broken by an attack
        gaps.append(_below_noise(audited.standing(strength)[exhibit.rows], fraction, "random points"))
    for noise in audited.outcomes.labels("noise"):
        task = audited.outcomes.task(noise)
        if task["name"] == "uniform" and audited.norm == "linf" and strength in task["strengths"]:
            fraction = audited.outcomes.cell(audited.model, noise, task["strengths"].index(strength))["fraction"]
            gaps.append(_below_noise(audited.standing(strength), fraction * audited.clean, noise))
    end = conclude(gaps, BLIND_GAP, "no noise of this size was tried")
    return Finding(
        "noise-not-stronger",
        end.passed,
        end.value,
        BLIND_GAP,
        "robust accuracy minus accuracy under random noise of the same size; an attack that noise beats does not "
        "search" + end.words,
        _remedy(bool(gaps), end.passed, "use another estimator, more steps or restarts"),
        fatal=True,
        model=audited.model,
        label=audited.label,
        strength=strength,
    )


def _below_noise(standing: np.ndarray, fraction: np.ndarray, name: str) -> Gap:
    apart = standing - fraction.astype(np.float64)
    varies = np.ptp(apart) > 0
    chance = stats.ttest_1samp(apart, 0.0, alternative="greater").pvalue if varies else float(apart[0] <= 0)
    return Gap(round(float(apart.mean()), 6), float(chance), name)  # shares over draws are stored in float32


def _remedy(compared: bool, passed: bool | None, cure: str, evidence: str = "evaluate with evidence='full'") -> str:
    if not compared:
        return evidence
    return "evaluate more samples" if passed is None else cure
