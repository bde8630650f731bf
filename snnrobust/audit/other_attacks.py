"""Findings that compare an attack with other attacks and with random noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import stats

from snnrobust.audit.audited_attack import AuditedAttack, OtherAttack
from snnrobust.audit.gaps import Gap, compare_gaps
from snnrobust.audit.remedies import (
    FULL_EVIDENCE,
    MORE_SAMPLES,
    another_estimator,
    black_box,
    load_call,
    more_steps,
    other_objectives,
)
from snnrobust.plugin.usual_attacks import gradient_attack
from snnrobust.results.records import Finding

#: Allowed gap between the claimed robust accuracy and that under another gradient attack.
SURROGATE_GAP = 0.02
#: Allowed gap between robust accuracy under gradient attacks and that under a black-box or transfer attack or noise.
BLACK_BOX_GAP = 0.0


def other_attack_findings(audited: AuditedAttack, strength: float) -> list[Finding]:
    """Findings about the robust accuracy under an attack at one radius."""
    others = audited.other_attacks(strength)
    found = [
        _surrogate_gap(audited, strength, others),
        _black_box_not_stronger(audited, strength, others),
        _noise_not_stronger(audited, strength),
    ]
    return [*found, *_transfer_not_stronger(audited, strength, others)]


def _surrogate_gap(audited: AuditedAttack, strength: float, others: list[OtherAttack]) -> Finding:
    """Whether another gradient estimator breaks samples that the attack does not break."""
    robust = audited.robust(strength)
    own = frozenset(member["attack"]["gradient"] for member in audited.members)
    gaps = []
    for each in others:
        if each.gradients:
            gap = each.gap_below(robust[each.rows])
            # An attack with the same estimator counts only if it is stronger.
            if gap.value > SURROGATE_GAP or each.estimators - own or len(own) > 1:
                gaps.append(gap)
    result = compare_gaps(gaps, SURROGATE_GAP, "no attack with another estimator was run at this radius")
    stronger = f"Quote the ensemble instead: {load_call('standard', audited)}."
    if audited.task["members"]:
        stronger = "Add the stronger attack named above to the ensemble: adaptive=[...]."
    return Finding(
        "surrogate-gap",
        result.passed,
        result.value,
        SURROGATE_GAP,
        "Claimed robust accuracy minus robust accuracy under the strongest other gradient attack. Above the threshold, "
        "the gradient is masked by the estimator, or the attack is weak." + result.note,
        _remedy(bool(gaps), result.passed, stronger, _other_estimator_missing(audited)),
        fatal=True,
        model=audited.model,
        label=audited.label,
        strength=strength,
    )


def _black_box_not_stronger(audited: AuditedAttack, strength: float, others: list[OtherAttack]) -> Finding:
    """Whether a black-box attack breaks more samples than the gradient attacks."""
    compared = [each for each in others if not each.gradients and not each.transfer]
    gaps = _gaps_to_gradient_attacks(audited, strength, others, compared)
    result = compare_gaps(gaps, BLACK_BOX_GAP, "no black-box attack was run at this radius")
    return Finding(
        "black-box-not-stronger",
        result.passed,
        result.value,
        BLACK_BOX_GAP,
        f"Robust accuracy under {_gradient_attacks_in_words(audited, strength)} minus robust accuracy under "
        f"{'a' if audited.uses_gradients else 'another'} black-box attack. Above 0, the black-box attack breaks more "
        f"samples: gradients are masked.{result.note}",
        _remedy(bool(gaps), result.passed, other_objectives(audited), _black_box_missing(audited, strength)),
        fatal=True,
        model=audited.model,
        label=audited.label,
        strength=strength,
    )


def _transfer_not_stronger(audited: AuditedAttack, strength: float, others: list[OtherAttack]) -> list[Finding]:
    """Whether a transfer attack breaks more samples than gradient attacks; empty where no transfer attack was run."""
    transfer = [each for each in others if each.transfer]
    gaps = _gaps_to_gradient_attacks(audited, strength, others, transfer)
    if not gaps:
        return []
    result = compare_gaps(gaps, BLACK_BOX_GAP, "")
    return [
        Finding(
            "transfer-not-stronger",
            result.passed,
            result.value,
            BLACK_BOX_GAP,
            f"Robust accuracy under {_gradient_attacks_in_words(audited, strength)} minus robust accuracy under a "
            "transfer attack (examples made on another model). Above 0, the transfer attack breaks more samples: "
            "gradients are masked." + result.note,
            _remedy(True, result.passed, other_objectives(audited)),
            fatal=True,
            model=audited.model,
            label=audited.label,
            strength=strength,
        )
    ]


def _gaps_to_gradient_attacks(
    audited: AuditedAttack, strength: float, others: list[OtherAttack], compared: list[OtherAttack]
) -> list[Gap]:
    """The gaps between gradient attacks and each of the compared attacks.

    The gradient attacks are those of the audited attack; if it has none, all gradient attacks among `others` together.
    """
    own = _own_gradient_attacks(audited, strength)
    gradient_attacks = [own] if own is not None else [each for each in others if each.gradients]
    if not gradient_attacks:
        return []
    gaps = []
    for each in compared:
        robust = np.ones(len(each.rows), dtype=bool)
        known = np.zeros(len(each.rows), dtype=bool)
        for other in gradient_attacks:
            here, there = np.isin(each.rows, other.rows), np.isin(other.rows, each.rows)
            order = np.argsort(each.rows[here])
            values = other.robust[there][np.argsort(other.rows[there])]
            at = np.flatnonzero(here)[order]
            robust[at] &= values
            known[at] = True
        if known.any():
            gaps.append(replace(each, robust=each.robust[known], known=each.known[known]).gap_below(robust[known]))
    return gaps


def _own_gradient_attacks(audited: AuditedAttack, strength: float) -> OtherAttack | None:
    """The gradient attacks among an attack's members, as one attack; None where their outcomes are unknown."""
    longer = audited.evidence("steps-100")
    if longer is not None and longer.robust_to_gradient_attacks(strength) is not None:
        # An example found at a smaller radius counts here, as it does for the user's own attacks.
        smaller = (longer.robust_to_gradient_attacks(radius) for radius in longer.strengths if radius <= strength)
        robust = np.logical_and.reduce([each for each in smaller if each is not None])
        everywhere = np.ones(len(robust), dtype=bool)
        return OtherAttack(audited.label, longer.rows, robust, everywhere, True, frozenset(), False)
    if audited.task["members"] or not any(cell["backwards"].any() for cell in audited.cells):
        return None
    robust = audited.robust(strength)
    everywhere = np.ones(len(robust), dtype=bool)
    return OtherAttack(audited.label, np.arange(len(robust)), robust, everywhere, True, frozenset(), False)


def _noise_not_stronger(audited: AuditedAttack, strength: float) -> Finding:
    """Whether random points of the ball break more samples than the attack."""
    gaps = []
    noise = audited.evidence("noise", audited.budget)
    cell = None if noise is None else noise.at(strength)
    if noise is not None and cell is not None:
        fraction = cell["fraction"] * noise.clean  # samples that are wrong when clean count as broken
        gaps.append(_gap_to_noise(audited.robust(strength)[noise.rows], fraction, "random points of the ball"))
    for label in audited.outcomes.labels("noise"):
        task = audited.outcomes.task(label)
        if task["name"] == "uniform" and audited.norm == "linf" and strength in task["strengths"]:
            fraction = audited.outcomes.cell(audited.model, label, task["strengths"].index(strength))["fraction"]
            gaps.append(_gap_to_noise(audited.robust(strength), fraction * audited.clean, label))
    result = compare_gaps(gaps, BLACK_BOX_GAP, "no noise of this radius was evaluated")
    return Finding(
        "noise-not-stronger",
        result.passed,
        result.value,
        BLACK_BOX_GAP,
        "Robust accuracy minus accuracy under uniform noise of the same radius. Above 0, random noise breaks more "
        "samples than the attack: the attack is not optimising." + result.note,
        _remedy(bool(gaps), result.passed, _optimise_better(audited)),
        fatal=True,
        model=audited.model,
        label=audited.label,
        strength=strength,
    )


def _gap_to_noise(robust: np.ndarray, fraction: np.ndarray, name: str) -> Gap:
    """The gap between an attack and noise, from the share of draws at which each sample is correct under noise."""
    difference = robust - fraction.astype(np.float64)
    varies = np.ptp(difference) > 0
    p_value = stats.ttest_1samp(difference, 0.0, alternative="greater").pvalue if varies else float(difference[0] <= 0)
    return Gap(round(float(difference.mean()), 6), float(p_value), name)  # shares over draws are stored in float32


def _gradient_attacks_in_words(audited: AuditedAttack, strength: float) -> str:
    """The gradient attacks that `_gaps_to_gradient_attacks` compares with others."""
    if _own_gradient_attacks(audited, strength) is not None:
        return "the gradient attacks"
    if audited.task["members"] and audited.uses_gradients:
        return "all other gradient attacks together (those of this ensemble were not run by themselves)"
    return "all other gradient attacks together (this attack uses no gradients)"


def _other_estimator_missing(audited: AuditedAttack) -> str:
    """What to do where no attack with another estimator was run."""
    if audited.outcomes.run["evidence"] != "full":
        return FULL_EVIDENCE
    # With full evidence the members of `standard` were run: none with another estimator fits the net.
    own = load_call(gradient_attack(audited.norm, audited.domain), audited, "gradient=...")
    return f"Use spiking nodes of SpikingJelly, or add an attack with an estimator of your own: {own}."


def _black_box_missing(audited: AuditedAttack, strength: float) -> str:
    """What to do where no black-box attack was compared with gradient attacks."""
    full, known = audited.outcomes.run["evidence"] == "full", _own_gradient_attacks(audited, strength) is not None
    if known:
        return f"{'Add' if full else FULL_EVIDENCE[:-1] + ', or add'} {black_box(audited)}."
    return f"Evaluate {load_call('standard', audited)} as well." if full else FULL_EVIDENCE


def _optimise_better(audited: AuditedAttack) -> str:
    """What to do about an attack that is weaker than noise."""
    if audited.task["members"] or not audited.uses_gradients:
        return more_steps(audited)
    return f"{more_steps(audited)} {another_estimator(audited)}"


def _remedy(compared: bool, passed: bool | None, remedy: str, no_evidence: str = FULL_EVIDENCE) -> str:
    if not compared:
        return no_evidence
    return MORE_SAMPLES if passed is None else remedy
