"""Counts the forward and backward passes of an attack, per sample."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class PassCounter:
    """Passes so far; a batch of N samples counts N.

    Attributes:
        forwards: Forward passes.
        backwards: Backward passes.
    """

    forwards: int = 0
    backwards: int = 0

    def since(self, earlier: PassCounter) -> PassCounter:
        """What was spent after `earlier`, a copy of this counter."""
        return PassCounter(self.forwards - earlier.forwards, self.backwards - earlier.backwards)

    def copy(self) -> PassCounter:
        """The count as it is now."""
        return PassCounter(self.forwards, self.backwards)
