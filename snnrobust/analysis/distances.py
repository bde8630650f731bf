"""The distance of each sample to the closest adversarial example that an attack found."""

from __future__ import annotations

import numpy as np

from snnrobust.analysis.outcomes import Outcomes


def distances(outcomes: Outcomes, label: str, model: str) -> np.ndarray:
    """Distance, in the attack's norm, of the closest example found for each sample, [sample]; infinity if none."""
    outcomes.attack(label)
    closest = np.full(outcomes.clean(model)["correct"].shape, np.inf)
    for cell in outcomes.cells(model, label):
        closest = np.where(cell["correct"] == 0, np.fmin(closest, cell["distance"]), closest)
    return np.where(outcomes.clean(model)["correct"], closest, 0.0)
