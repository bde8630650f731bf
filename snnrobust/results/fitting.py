"""What a perturbation was fitted on, for the record of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fitting:
    """What a perturbation was fitted on, and with how many passes: all samples together, apart from the attack's own.

    Attributes:
        data: Name of the split.
        samples: Samples of the split.
        forwards: Forward passes.
        backwards: Backward passes.
    """

    data: str
    samples: int
    forwards: int
    backwards: int


def parse_fittings(plain: Any) -> dict[str, Fitting]:
    """What perturbations were fitted on, from fittings.json."""
    found = {name: Fitting(**each) for name, each in plain.items()}
    for each in found.values():
        counts = (each.samples, each.forwards, each.backwards)
        if not isinstance(each.data, str) or not all(isinstance(count, int) and count >= 0 for count in counts):
            raise ValueError("a fitting without data or counts")
    return found
