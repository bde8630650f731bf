"""An independent check that adversarial examples keep to their threat model.

Nothing here is shared with `ThreatModel.project`: everything is recomputed in float64 numpy from the definition, so
that a fault in a projection can't hide itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from snnrobust.errors import ViolationError
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust.threat_models.verify_event_lists import event_list_fault
from snnrobust.threat_models.verify_shifts import shift_fault

#: Slack for float32 rounding: relative to the budget, and absolute; large entries add their own unit of rounding.
RELATIVE, ABSOLUTE = 1e-4, 1e-6


def verify(
    x: Tensor,
    x0: Tensor,
    threat: ThreatModel,
    sample_ids: Sequence[int],
    plugin: str,
    lengths: Tensor | None = None,
) -> None:
    """Raises if any of the examples `x` [N, *] is not allowed by `threat` around the originals `x0` [N, *].

    Checked in this order: shape, finite values, padding, bounds, entries that may not change, whole numbers (integer
    and binary domains), distance.

    Args:
        x: Adversarial examples.
        x0: Original inputs.
        threat: The threat model they were made under.
        sample_ids: Ids for the message.
        plugin: Name of the attack for the message.
        lengths: Valid steps of padded sequences, [N]; nothing may change behind them.

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

    if lengths is not None:
        behind = np.arange(x.shape[1]) >= lengths.cpu().numpy()[:, None]  # (N, T)
        moved = (found != original).reshape(len(x), x.shape[1], -1).any(axis=2) & behind
        _reject(
            moved.any(axis=1),
            sample_ids,
            plugin,
            "padding as it was",
            lambda i: f"a change of step {moved[i].argmax()}",
        )
    if threat.sensor is not None:
        budgets, sensor = threat.budgets, threat.sensor
        _reject_faults(
            [event_list_fault(each, before, budgets, sensor) for each, before in zip(*_rows(x, x0), strict=True)],
            sample_ids,
            plugin,
        )
        return

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
    if threat.silent is not None:
        fixed = original.astype(np.float32) == np.float32(threat.silent)  # data is float32
        revived = np.where(fixed, np.abs(found - original), 0).max(axis=1)
        _reject(
            revived > 0,
            sample_ids,
            plugin,
            f"entries of {threat.silent:g} as they were",
            lambda i: f"one that moved by {revived[i]:.6g}",
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
    if threat.norm not in _DISTANCES:
        faults = [shift_fault(each, before, threat.budgets) for each, before in zip(*_rows(x, x0), strict=True)]
        _reject_faults(faults, sample_ids, plugin)
        return
    change = found - original
    for norm, most in threat.budgets.items():
        distance = _DISTANCES[norm](change.reshape(len(x), x.shape[1], -1))
        # A count of entries has no rounding, but that of an epsilon computed in floats.
        counted = norm not in ("linf", "l2", "l1")
        limit = most + ABSOLUTE if counted else most * (1 + RELATIVE) + slack
        _reject(
            distance > limit,
            sample_ids,
            plugin,
            f"{norm} distance <= {most:g}",
            lambda i, distance=distance: f"{distance[i]:.6g}",
        )


#: Changes [N, T, entries of a step] -> distances [N].
_DISTANCES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linf": lambda change: np.abs(change).max(axis=(1, 2)),
    "l2": lambda change: np.sqrt((change**2).sum(axis=(1, 2))),
    "l1": lambda change: np.abs(change).sum(axis=(1, 2)),
    "l0": lambda change: np.count_nonzero(change, axis=(1, 2)),
    "l0-step": lambda change: np.count_nonzero(change, axis=2).max(axis=1),
    "additions": lambda change: np.where(change > 0, change, 0).sum(axis=(1, 2)),
    "deletions": lambda change: np.where(change < 0, -change, 0).sum(axis=(1, 2)),
    "events": lambda change: np.abs(change.sum(axis=(1, 2))),
}


def _rows(x: Tensor, x0: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Examples and originals [N, *] in float64, in their own shape."""
    return x.detach().double().cpu().numpy(), x0.detach().double().cpu().numpy()


def _reject_faults(faults: Sequence[str | None], ids: Sequence[int], plugin: str) -> None:
    """Raises if any sample has a fault, in words."""
    wrong = np.array([fault is not None for fault in faults])
    _reject(wrong, ids, plugin, "an allowed example", lambda i: str(faults[i]))


def _reject(wrong: np.ndarray, ids: Sequence[int], plugin: str, expected: str, got: object) -> None:
    if wrong.any():
        first = int(np.argmax(wrong))
        text = got(first) if callable(got) else got
        raise ViolationError(
            f"expected {expected} from '{plugin}', got {text} for sample {ids[first]} "
            f"({int(wrong.sum())} of {len(wrong)} samples); fix the attack or its threat model"
        )
