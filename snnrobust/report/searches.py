"""What attacks searched on, in words."""

from __future__ import annotations

from snnrobust.analysis.outcomes import Outcomes


def searches(outcomes: Outcomes, *, slow: bool = False) -> list[str]:
    """A line for each way of searching, with the models that were searched so, and the tasks where these differ.

    Args:
        outcomes: What a run stored.
        slow: Only of models without any search on fast kernels, with the reason.
    """
    found: dict[str, list[str]] = {}
    for model in outcomes.models:
        ways: dict[str, list[str]] = {}
        for label, several in outcomes.ways(model).items():
            for way in several:
                ways.setdefault(way, []).append(label)
        if slow and not all(way.startswith("eager") for way in ways):
            continue
        for way, labels in ways.items():
            found.setdefault(way, []).append(model if len(ways) == 1 else f"{model} ({', '.join(labels)})")
    return [f"{', '.join(names)}: {way}" for way, names in found.items()]
