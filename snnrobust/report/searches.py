"""The execution paths of the searches of a run, as lines of text."""

from __future__ import annotations

from snnrobust.analysis.outcomes import Outcomes


def searches(outcomes: Outcomes, *, slow: bool = False) -> list[str]:
    """A line for each execution path with its models; with its tasks too if the tasks of a model differ.

    Args:
        outcomes: The stored outcomes.
        slow: Only models without any accelerated search.
    """
    found: dict[str, list[str]] = {}
    for model in outcomes.models:
        labels: dict[str, list[str]] = {}  # by execution path
        paths = outcomes.execution_paths(model)
        if slow and any(path.accelerated for several in paths.values() for path in several):
            continue
        for label, several in paths.items():
            for path in several:
                labels.setdefault(str(path), []).append(label)
        for path_text, on_it in labels.items():
            found.setdefault(path_text, []).append(model if len(labels) == 1 else f"{model} ({', '.join(on_it)})")
    return [f"{', '.join(names)}: {path_text}" for path_text, names in found.items()]
