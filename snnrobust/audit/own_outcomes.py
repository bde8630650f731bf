"""Findings about a model's and an attack's own outcomes, over all radii."""

from __future__ import annotations

import numpy as np

from snnrobust.analysis.outcomes import Outcomes
from snnrobust.audit.audited_attack import Audited
from snnrobust.common.statistics import clopper_pearson
from snnrobust.results.records import NAN, Finding

#: Points by which argmax and strict accuracy may differ.
TIE_GAP = 0.01
#: Share of attempted samples that an attack may hand back unchanged.
UNCHANGED = 0.01
#: Share of samples where search and scoring may disagree about a success.
DISAGREEMENT = 0.001
#: Distance over radius that counts as within it, and what float32 adds to a distance for each unit of input.
BUDGET, ROUNDING = 1.001, 1e-6
#: Share of the outcomes assumed by a bisection that may turn out wrong where they are attacked after all.
ASSUMED_WRONG = 0.005


def about_model(outcomes: Outcomes, model: str) -> list[Finding]:
    """What holds for all numbers of a model."""
    found = [_strict_accuracy(outcomes, model), *_memory(outcomes, model)]
    if not outcomes.labels("attack"):
        why = "whether any attack was run; without one, nothing can be said about robustness against an adversary"
        remedy = "add attacks, e.g. sr.load('standard', epsilon=...)"
        found.append(Finding("attacked", None, NAN, 1.0, why, remedy, model=model))
    return found


def about_attack(audited: Audited) -> list[Finding]:
    """What holds for all numbers of an attack."""
    found = [_moves(audited), _agreement(audited), _budget(audited), *_members(audited), *_bisection(audited)]
    return [*found, *([_averaged(audited)] if audited.stochastic else [])]


def _strict_accuracy(outcomes: Outcomes, model: str) -> Finding:
    clean = outcomes.clean(model)
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


def _memory(outcomes: Outcomes, model: str) -> list[Finding]:
    """Whether memory ran out, which only matters where outcomes depend on the batch."""
    sizes = outcomes.halved(model)
    if not sizes:
        return []
    depends = outcomes.run["chunk"] is not None
    consequence = (
        "this run has attacks, estimators or models whose outcomes depend on the batch, and these can't be repeated "
        "with another size"
        if depends
        else "outcomes don't depend on it"
    )
    return [
        Finding(
            "memory",
            not depends,
            float(len(sizes)),
            0.0,
            f"times that memory ran out, so that fewer samples were in flight, {sizes[-1]} in the end; {consequence}",
            f"pass batch_size={sizes[-1]}, or free memory",
            required=False,
            model=model,
        )
    ]


def _moves(audited: Audited) -> Finding:
    """Whether an attack changes its inputs; one that breaks samples may leave alone those that it can't break."""
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
        "share of attempted samples that the attack hands back unchanged; such an attack tests nothing",
        "look at the zero-gradient finding, start at random, or use another estimator or attack",
        required=attempted > 0 and broken == 0,
        fatal=attempted > 0 and share == 1.0,
        model=audited.model,
        label=audited.label,
    )


def _agreement(audited: Audited) -> Finding:
    attempted = sum(int((cell["correct"] >= 0).sum()) for cell in audited.cells)
    disagreed = sum(int((cell["disagreements"] > 0).sum()) for cell in audited.cells)
    share = disagreed / attempted if attempted else 0.0
    return Finding(
        "rescoring",
        share <= DISAGREEMENT,
        share,
        DISAGREEMENT,
        "share of samples where the search and a fresh forward pass of the user's net disagree about a success",
        "fix batch size and thread count; look at the batch-of-one finding",
        model=audited.model,
        label=audited.label,
    )


def _budget(audited: Audited) -> Finding:
    """Distances are recomputed from the examples that were kept, apart from the attack and its projection."""
    ratios = [NAN]
    slack = ROUNDING * max(1.0, *map(abs, audited.outcomes.run["models"][audited.model]["bounds"]))
    for epsilon, cell in zip(audited.task["strengths"], audited.cells, strict=True):
        counted = cell["distance"][(cell["correct"] == 0) & np.isfinite(cell["distance"])]
        if epsilon > 0 and len(counted):
            ratios.append((float(counted.max()) - slack) / epsilon)
    largest = max(0.0, float(np.nanmax(ratios))) if len(ratios) > 1 else 0.0
    return Finding(
        "budget",
        largest <= BUDGET,
        largest,
        BUDGET,
        "largest distance of a counted example over the radius it was allowed",
        "fix the attack: it breaks its threat model",
        fatal=True,
        model=audited.model,
        label=audited.label,
    )


def _members(audited: Audited) -> list[Finding]:
    """An ensemble that is not whole: nets of no known framework have no spikes whose gradient could be swapped."""
    if not audited.skipped:
        return []
    label, reason = next(iter(audited.skipped.items()))
    return [
        Finding(
            "members",
            None,
            float(len(audited.skipped)),
            0.0,
            f"members of the ensemble that this net does not allow: {', '.join(audited.skipped)} ({label}: {reason})",
            "use spiking nodes of a known framework, or add members of your own that fit (adaptive=)",
            model=audited.model,
            label=audited.label,
        )
    ]


def _bisection(audited: Audited) -> list[Finding]:
    """What withstands a radius is assumed to withstand smaller ones: asked of those that were attacked there after all.

    The pairs of one sample hang together, so that the bound is on samples, which are what was drawn.
    """
    if "audited" not in audited.cells[0]:
        return []
    asked = np.stack([cell["audited"] for cell in audited.cells])  # (strength, sample)
    wrong = asked & np.stack([cell["correct"] == 0 for cell in audited.cells])
    pairs, samples = int(asked.sum()), int(asked.any(axis=0).sum())
    lapses, affected = int(wrong.sum()), int(wrong.any(axis=0).sum())
    share = lapses / pairs if pairs else NAN if audited.assumed.any() else 0.0
    bound = clopper_pearson(affected, samples)[1] if samples else NAN
    seen = (
        f"{lapses:,} of {pairs:,}, in {affected:,} of {samples:,} samples (95 % interval: at most {bound:.1%} of them)"
    )
    return [
        Finding(
            "bisect-monotone",
            None if np.isnan(share) else share <= ASSUMED_WRONG,
            share,
            ASSUMED_WRONG,
            "share of the outcomes that bisection assumes right, since the sample withstands a larger radius, that an "
            f"attack turns wrong: {seen if samples else 'none was attacked'}",
            "evaluate with mode='nested': the search misses with more room what it finds with less",
            model=audited.model,
            label=audited.label,
        )
    ]


def _averaged(audited: Audited) -> Finding:
    eot = min(member["attack"]["eot"] for member in audited.members)
    return Finding(
        "eot",
        eot > 1,
        float(eot),
        2.0,
        "draws that each gradient of this stochastic model is averaged over",
        "pass eot=10 or more to the attack",
        model=audited.model,
        label=audited.label,
    )
