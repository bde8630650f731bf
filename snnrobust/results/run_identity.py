"""Whether the content of two run.json describes the same run, so that one can be resumed as the other, and whether it
is whole."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from snnrobust.common.files import from_json, to_json

#: Entries of run.json that do not decide any outcome.
FREE = ("fingerprint", "signature", "batch_size", "not_bisected", "notes", "environment", "example_bytes")


def run_checksum(run: dict[str, Any]) -> str:
    """The checksum of a run.json's content: of all its entries as JSON holds them, in any order."""
    text = json.dumps(from_json(to_json(run)), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def is_same_run(held: dict[str, Any], run: dict[str, Any]) -> bool:
    """Whether two runs have equal fingerprints, and their models the same logits on a few samples.

    Logits are compared with a tolerance, for the rounding of another thread count or device.

    Args:
        held: The content of a run.json as it was read.
        run: The content of another one.
    """
    if held.get("fingerprint") != run["fingerprint"]:
        return False
    ours, theirs = from_json(to_json(run)).get("signature", {}), held.get("signature", {})
    return ours.keys() == theirs.keys() and all(_close(ours[name], theirs[name]) for name in ours)


def run_difference(held: dict[str, Any], run: dict[str, Any]) -> str:
    """Which of the entries that decide the outcomes differ between two runs, for an error message."""
    run = from_json(to_json(run))  # as the held one was read
    names = [name for name in run if name not in FREE and held.get(name) != run[name]]
    return f"different in: {', '.join(names)}" if names else "its models give other outputs"


def _close(ours: Any, theirs: Any) -> bool:
    try:
        first, second = np.array(ours, float), np.array(theirs, float)
    except (TypeError, ValueError):  # no table of numbers
        return False
    return first.shape == second.shape and np.allclose(first, second, rtol=1e-3, atol=1e-3, equal_nan=True)
