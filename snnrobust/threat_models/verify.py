"""An independent check that adversarial examples keep to their threat model.

Nothing here is shared with `ThreatModel.project`: everything is recomputed in float64 numpy from the definition, so
that a fault in a projection can't hide itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from snnrobust.errors import ViolationError
from snnrobust.threat_models.threat_model import ThreatModel

#: Slack for float32 rounding: relative to the budget, and absolute; large entries add their own unit of rounding.
RELATIVE, ABSOLUTE = 1e-4, 1e-6


def verify(x: Tensor, x0: Tensor, threat: ThreatModel, sample_ids: Sequence[int], plugin: str) -> None:
    """Raises if any of the examples `x` [N, *] is not allowed by `threat` around the originals `x0` [N, *].

    Checked in this order: shape, finite values, bounds, whole numbers (integer and binary domains), distance.

    Args:
        x: Adversarial examples.
        x0: Original inputs.
        threat: The threat model they were made under.
        sample_ids: Ids for the message.
        plugin: Name of the attack for the message.

    Raises:
        ViolationError: Naming plugin, sample and offending value.
    """
    if x.shape != x0.shape:
        raise ViolationError(
            f"expected examples of shape {tuple(x0.shape)} from '{plugin}', got {tuple(x.shape)}; "
            f"an attack must return one example per input"
        )
    if not len(x):
        return
    found = x.detach().double().cpu().numpy().reshape(len(x), -1)
    original = x0.detach().double().cpu().numpy().reshape(len(x), -1)

    finite = np.isfinite(found).all(axis=1)
    _reject(np.logical_not(finite), sample_ids, plugin, "finite values", lambda i: "NaN or infinity")

    rounding = max(torch.finfo(x.dtype).eps, torch.finfo(torch.float32).eps)
    slack = ABSOLUTE + rounding * np.maximum(np.abs(found), np.abs(original)).max(axis=1)
    low, high = threat.bounds
    below, above = found.min(axis=1), found.max(axis=1)
    _reject(
        (below < low - slack) | (above > high + slack),
        sample_ids,
        plugin,
        f"values within [{low:g}, {high:g}]",
        lambda i: f"values from {below[i]:.6g} to {above[i]:.6g}",
    )
    if threat.domain != "real":
        fraction = np.abs(found - np.rint(found)).max(axis=1)
        _reject(
            fraction > ABSOLUTE,
            sample_ids,
            plugin,
            f"whole numbers (domain '{threat.domain}')",
            lambda i: f"an entry {fraction[i]:.3g} away from one",
        )
    change = np.abs(found - original)
    distance = {
        "linf": lambda: change.max(axis=1),
        "l2": lambda: np.sqrt((change**2).sum(axis=1)),
        "l1": lambda: change.sum(axis=1),
        "l0": lambda: (change > 0).sum(axis=1),
    }[threat.norm]()
    # A count of entries has no rounding, but that of an epsilon computed in floats.
    limit = threat.epsilon + ABSOLUTE if threat.norm == "l0" else threat.epsilon * (1 + RELATIVE) + slack
    _reject(
        distance > limit,
        sample_ids,
        plugin,
        f"{threat.norm} distance <= {threat.epsilon:g}",
        lambda i: f"{distance[i]:.6g}",
    )


def _reject(wrong: np.ndarray, ids: Sequence[int], plugin: str, expected: str, got: object) -> None:
    if wrong.any():
        first = int(np.argmax(wrong))
        text = got(first) if callable(got) else got
        raise ViolationError(
            f"expected {expected} from '{plugin}', got {text} for sample {ids[first]} "
            f"({int(wrong.sum())} of {len(wrong)} samples); fix the attack or its threat model"
        )
