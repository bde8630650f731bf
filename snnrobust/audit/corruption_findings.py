"""Findings about noise: whether corruptions stay in the model's domain, and whether numbers of steps differ."""

from __future__ import annotations

import numpy as np

from snnrobust.analysis.outcomes import Outcomes
from snnrobust.results.records import Finding


def corruption_findings(outcomes: Outcomes, model: str) -> list[Finding]:
    """Findings about the data and the noise of a model, from stored outcomes alone.

    Runs of earlier versions, which did not record steps and departures from the domain, have none of them.
    """
    domain = [each for label in outcomes.labels("noise") for each in _corruption_domain(outcomes, model, label)]
    return [*domain, *_steps_mismatch(outcomes, model)]


def _corruption_domain(outcomes: Outcomes, model: str, label: str) -> list[Finding]:
    """Asked only where inputs are whole numbers: noise on real numbers is clipped by definition."""
    cells = outcomes.cells(model, label)
    if outcomes.run["models"][model]["domain"] == "real" or any("outside" not in cell for cell in cells):
        return []
    shares = [float(cell["outside"].mean()) for cell in cells]
    worst = int(np.argmax(shares))
    return [
        Finding(
            "corruption-domain",
            shares[worst] == 0,
            shares[worst],
            0.0,
            "Largest share of entries that the corruption left outside of the model's domain: fractions of an event, "
            f"negative counts, or counts above the bounds (at severity {outcomes.task(label)['strengths'][worst]:g}). "
            "They were clipped and rounded before the net saw them: the noise is not what its severity says.",
            "Let the corruption return whole numbers within the bounds; those of this package take high= for the "
            "greatest count. Check your own with sr.testing.check_plugin.",
            model=model,
            label=label,
        )
    ]


def _steps_mismatch(outcomes: Outcomes, model: str) -> list[Finding]:
    """Asked only about sequences; the number of steps of an encoder belongs to the wrapped model."""
    seen: dict[str, list[int]] = outcomes.run.get("steps", {})
    if "test" not in seen or outcomes.run["models"][model]["encoder"] is not None:
        return []
    known = "train" if "train" in seen else "test"
    found = [_steps(model, "", seen["test"], "the test data", seen["train"])] if known == "train" else []
    for label in outcomes.labels("noise"):
        steps = [cell["steps"] for cell in outcomes.cells(model, label) if "steps" in cell]
        if steps:
            fewest, most = min(int(each.min()) for each in steps), max(int(each.max()) for each in steps)
            # What holds for the test data itself is said about the model.
            if [fewest, most] != seen["test"]:
                found.append(_steps(model, label, [fewest, most], f"the data under '{label}'", seen[known], known))
    return found


def _steps(model: str, label: str, tested: list[int], what: str, seen: list[int], known: str = "train") -> Finding:
    """Whether the numbers of steps `tested` (fewest, most) are among those that were `seen`."""
    fewest, most = tested
    off = max(seen[0] - fewest, most - seen[1], 0)
    where = "the training data" if known == "train" else "the test data"
    return Finding(
        "steps-mismatch",
        off == 0,
        float(off),
        0.0,
        f"By how many steps {what} ({_range(tested)} steps) is shorter or longer than {where} ({_range(seen)}). "
        "Leak, read-out and firing rates depend on the number and width of steps: accuracy then measures how well the "
        "net generalises over them, beside what else is tested.",
        "Bin test and training data alike. If another number of steps is what you study, report it with the number.",
        required=False,
        model=model,
        label=label,
    )


def _range(steps: list[int]) -> str:
    fewest, most = steps
    return f"{fewest}" if fewest == most else f"{fewest} to {most}"
