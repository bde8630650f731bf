"""The equation of a leaky integrate-and-fire node, as numbers."""

from __future__ import annotations

from typing import NamedTuple


class Equation(NamedTuple):
    """u[t] = k v[t-1] + gain x[t], with a spike where u[t] >= threshold and v[t] = u[t] where there is none.

    Attributes:
        leak: The share k of the membrane potential that a step keeps.
        gain: What the input is multiplied by.
        threshold: Membrane potential at which the node fires.
    """

    leak: float
    gain: float
    threshold: float
