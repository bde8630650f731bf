"""Findings about a model's and an attack's own outcomes, over all radii."""

from __future__ import annotations

import numpy as np

from snnrobust.analysis.outcomes import Outcomes
from snnrobust.audit.audited_attack import AuditedAttack
from snnrobust.audit.remedies import another_estimator, load_call
from snnrobust.common.statistics import clopper_pearson
from snnrobust.results.records import NAN, Finding

#: Allowed difference between accuracy and strict accuracy.
TIE_GAP = 0.01
#: Allowed share of attempted samples whose input an attack returns unchanged.
UNCHANGED = 0.01
#: Allowed share of samples for which search and scoring disagree about a success.
DISAGREEMENT = 0.001
#: Allowed distance over radius, and the rounding error of a float32 distance for each unit of input.
BUDGET, ROUNDING = 1.001, 1e-6
#: Allowed share of the outcomes assumed by bisection that are wrong.
ASSUMED_WRONG = 0.005


def model_findings(outcomes: Outcomes, model: str) -> list[Finding]:
    """Findings about all numbers of a model."""
    found = [_strict_accuracy(outcomes, model), *_memory(outcomes, model)]
    if not outcomes.labels("attack"):
        why = "No attack was run, so there is no value: nothing is known about robustness against an adversary."
        remedy = "Add attacks, e.g. sr.load('standard', epsilon=...)."
        found.append(Finding("attacked", None, NAN, 1.0, why, remedy, model=model))
    return found


def attack_findings(audited: AuditedAttack) -> list[Finding]:
    """Findings about all numbers of an attack."""
    found = [_attack_moves(audited), _rescoring(audited), _budget(audited), *_skipped_members(audited)]
    found += [*_bisect_monotone(audited), *_defined_under_attack(audited)]
    return [*found, *([_eot(audited)] if audited.stochastic else [])]


def _defined_under_attack(audited: AuditedAttack) -> list[Finding]:
    """Asked only where there are samples with undefined logits or gradients: most nets have none."""
    undefined = np.zeros(len(audited.clean), dtype=bool)
    for epsilon, cell in zip(audited.task["strengths"], audited.cells, strict=True):
        # Of a minimum-norm attack, examples beyond the radius have no margin at it.
        within = ~(cell["distance"] > epsilon * BUDGET + ROUNDING)
        undefined |= (cell["correct"] >= 0) & np.isnan(cell["margin"]) & within
        undefined |= cell.get("undefined", np.zeros(1, dtype=np.int32)) > 0
    if not undefined.any():
        return []
    return [
        Finding(
            "defined-under-attack",
            False,
            float(undefined.mean()),
            0.0,
            "Share of samples with NaN logits at their example, or a NaN or infinite input gradient in a search. NaN "
            "logits count as withstood, and a search ends at such a gradient: robust accuracy may be too high.",
            "Look for divisions by zero, logarithms of zero and overflow in the net, and use a black-box attack, too.",
            model=audited.model,
            label=audited.label,
        )
    ]


def _strict_accuracy(outcomes: Outcomes, model: str) -> Finding:
    clean = outcomes.clean(model)
    gap = round(float(clean["correct"].mean() - (clean["correct"] & (clean["margin"] > 0)).mean()), 9)
    return Finding(
        "strict-accuracy",
        gap <= TIE_GAP,
        gap,
        TIE_GAP,
        "Clean accuracy minus clean accuracy with ties counted as wrong. A large value means that argmax decides many "
        "samples by the order of the classes.",
        "Report strict accuracy next to accuracy.",
        required=False,
        model=model,
    )


def _memory(outcomes: Outcomes, model: str) -> list[Finding]:
    """Whether memory ran out; a failure only if outcomes depend on the batch size."""
    sizes = outcomes.halved(model)
    if not sizes:
        return []
    depends = outcomes.run["chunk"] is not None
    consequence = (
        "This run has attacks, estimators or models whose outcomes depend on the batch size, so they can't be "
        "reproduced with another one."
        if depends
        else "Outcomes don't depend on the batch size."
    )
    return [
        Finding(
            "memory",
            not depends,
            float(len(sizes)),
            0.0,
            f"How often memory ran out. Each time the batch size was reduced; it was {sizes[-1]} in the end. "
            f"{consequence}",
            f"Pass batch_size={sizes[-1]}, which fits, or free memory.",
            required=False,
            model=model,
        )
    ]


def _attack_moves(audited: AuditedAttack) -> Finding:
    """Whether an attack changes its inputs. An attack that breaks samples may leave the others unchanged."""
    unchanged = attempted = broken = 0
    for epsilon, cell in zip(audited.task["strengths"], audited.cells, strict=True):
        if epsilon > 0:
            tried = (cell["correct"] >= 0) & audited.clean
            attempted += int(tried.sum())
            unchanged += int((cell["unchanged"][tried] == 1).sum())
            broken += int((cell["correct"][tried] == 0).sum())
    share = unchanged / attempted if attempted else NAN
    return Finding(
        "attack-moves",
        None if not attempted else share <= UNCHANGED,
        share,
        UNCHANGED,
        "Share of attempted samples whose input the attack returns unchanged. These samples were not attacked: they "
        "count as robust without evidence.",
        f"Check the zero-gradient finding, then {_attack_otherwise(audited)}",
        required=attempted > 0 and broken == 0,
        fatal=attempted > 0 and share == 1.0,
        model=audited.model,
        label=audited.label,
    )


def _attack_otherwise(audited: AuditedAttack) -> str:
    """What to do about an attack that returns inputs unchanged, as the rest of a sentence."""
    if audited.task["members"]:
        advice = another_estimator(audited)
        return advice[0].lower() + advice[1:]
    standard = f"attack with {load_call('standard', audited)}, which includes a black-box attack."
    start = "pass random_start=True, or " if audited.task["parameters"].get("random_start") is False else ""
    return start + standard


def _rescoring(audited: AuditedAttack) -> Finding:
    attempted = sum(int((cell["correct"] >= 0).sum()) for cell in audited.cells)
    disagreed = sum(int((cell["disagreements"] > 0).sum()) for cell in audited.cells)
    share = disagreed / attempted if attempted else 0.0
    return Finding(
        "rescoring",
        share <= DISAGREEMENT,
        share,
        DISAGREEMENT,
        "Share of samples for which the search found a success that a new forward pass of the original net did not "
        "confirm. The search then optimises another function than the one that is scored.",
        "Wrap with accelerate=False, and fix batch_size= and the number of threads. Check the batch-of-one finding.",
        model=audited.model,
        label=audited.label,
    )


def _budget(audited: AuditedAttack) -> Finding:
    """Whether counted examples are within their radius; distances are computed independently of the attack."""
    ratios = [0.0]
    slack = ROUNDING * max(1.0, *map(abs, audited.outcomes.run["models"][audited.model]["bounds"]))
    for epsilon, cell in zip(audited.task["strengths"], audited.cells, strict=True):
        counted = cell["distance"][(cell["correct"] == 0) & np.isfinite(cell["distance"])]
        if epsilon > 0 and len(counted):
            ratios.append((float(counted.max()) - slack) / epsilon)
    largest = max(ratios)
    return Finding(
        "budget",
        largest <= BUDGET,
        largest,
        BUDGET,
        "Largest ratio of a counted example's distance to its radius. Above 1, the example is outside the threat model "
        "and must not count.",
        "Fix the attack: project its examples into the ball with threat.project.",
        fatal=True,
        model=audited.model,
        label=audited.label,
    )


def _skipped_members(audited: AuditedAttack) -> list[Finding]:
    """Whether members of the ensemble were left out, e.g. estimators for a net whose spiking nodes are unknown."""
    if not audited.skipped:
        return []
    label, reason = next(iter(audited.skipped.items()))
    return [
        Finding(
            "members",
            None,
            float(len(audited.skipped)),
            0.0,
            "Number of members of the ensemble that were left out because they don't fit this net. The ensemble is "
            f"weaker without them. Left out: {', '.join(audited.skipped)} ({label}: {reason}).",
            "Use SpikingJelly nodes. Otherwise add members that fit this net (adaptive=): the attack is then stronger, "
            "but this finding stays.",
            model=audited.model,
            label=audited.label,
        )
    ]


def _bisect_monotone(audited: AuditedAttack) -> list[Finding]:
    """Whether outcomes that bisection assumes are right, on the samples that were attacked at these radii nevertheless.

    Outcomes of one sample at several radii are dependent, so the confidence bound is on samples.
    """
    if "audited" not in audited.cells[0]:
        return []
    attacked = np.stack([cell["audited"] for cell in audited.cells])  # (strength, sample)
    wrong = attacked & np.stack([cell["correct"] == 0 for cell in audited.cells])
    pairs, samples = int(attacked.sum()), int(attacked.any(axis=0).sum())
    wrong_pairs, wrong_samples = int(wrong.sum()), int(wrong.any(axis=0).sum())
    share = wrong_pairs / pairs if pairs else NAN if audited.assumed.any() else 0.0
    bound = clopper_pearson(wrong_samples, samples)[1] if samples else NAN
    seen = (
        f"{wrong_pairs:,} of {pairs:,}, in {wrong_samples:,} of {samples:,} samples "
        f"(95 % interval: at most {bound:.1%} of them)"
    )
    return [
        Finding(
            "bisect-monotone",
            None if np.isnan(share) else share <= ASSUMED_WRONG,
            share,
            ASSUMED_WRONG,
            "Share of outcomes assumed robust by bisection, because the sample is robust at a larger radius, that an "
            f"attack then broke: {seen if samples else 'none was attacked'}. Above the threshold, robust accuracy "
            "by bisection is too high.",
            "Evaluate with mode='nested', which attacks at every radius.",
            model=audited.model,
            label=audited.label,
        )
    ]


def _eot(audited: AuditedAttack) -> Finding:
    eot = min(member["attack"]["eot"] for member in audited.members)
    return Finding(
        "eot",
        eot > 1,
        float(eot),
        2.0,
        "Number of random draws over which each gradient, loss or logit that the attack uses is averaged for this "
        "stochastic model (expectation over transformation, EOT). At least 2 are needed: one draw is too noisy.",
        "Pass eot=10 or more to the attack.",
        model=audited.model,
        label=audited.label,
    )
