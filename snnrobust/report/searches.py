"""What attacks searched on, in words."""

from __future__ import annotations

from snnrobust.report.report import Report


def searches(report: Report, *, slow: bool = False) -> list[str]:
    """A line for each way of searching, with the models that were searched so.

    Args:
        report: A report.
        slow: Only those without fast kernels, with the reason.
    """
    models: dict[str, list[str]] = {}
    for model, way in report.run.get("search", {}).items():
        if model in report.models and (not slow or way.startswith("eager")):
            models.setdefault(way, []).append(model)
    return [f"{', '.join(names)}: {way}" for way, names in models.items()]
