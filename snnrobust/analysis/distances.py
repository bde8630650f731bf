"""How far each sample is from the closest example that an attack counted."""

from __future__ import annotations

import numpy as np

from snnrobust.analysis.outcomes import Outcomes


def distances(outcomes: Outcomes, label: str, model: str) -> np.ndarray:
    """Least distance, in the attack's norm, at which it broke each sample, [sample]."""
    outcomes.attack(label)
    closest = np.full(outcomes.clean(model)["correct"].shape, np.inf)
    for cell in outcomes.cells(model, label):
        closest = np.where(cell["correct"] == 0, np.fmin(closest, cell["distance"]), closest)
    return np.where(outcomes.clean(model)["correct"], closest, 0.0)
