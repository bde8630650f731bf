"""How far each sample is from the closest example that an attack counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from snnrobust.report.members import attack

if TYPE_CHECKING:
    from snnrobust.report import Report


def distances(report: Report, label: str, model: str) -> np.ndarray:
    """Least distance, in the attack's norm, at which it broke each sample, [sample]."""
    strengths = attack(report, label)["strengths"]
    closest = np.full(report.clean(model)["correct"].shape, np.inf)
    for k in range(len(strengths)):
        cell = report.cell(model, label, k)
        closest = np.where(cell["correct"] == 0, np.fmin(closest, cell["distance"]), closest)
    return np.where(report.clean(model)["correct"], closest, 0.0)
