"""Random search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from snnrobust.draws import Draws
from snnrobust.errors import InputError
from snnrobust.plugin import State
from snnrobust.threat import ThreatModel


@dataclass(frozen=True)
class RandomSearch:
    """Random search over the vertices of the ball; asks for no gradient.

    Starts at a random vertex: each entry moved up or down by epsilon. A step gives a random share of the best iterate's
    entries new signs, and keeps the result if its objective is no lower. Ties count, since a rate read-out takes few
    values and most steps leave it where it is. Every iterate is projected onto the threat model.

    A sanity check for gradient attacks, and an attack for nets whose gradients fail: where it beats them, they are
    broken. It is no strong attack; its strong relative is the Square attack (Andriushchenko et al. 2020, arXiv
    1912.00049).

    Attributes:
        steps: Number of steps, each a forward pass.
        share: Probability that an entry gets a new sign in a step.
    """

    steps: int = 100
    share: float = 0.1

    needs: ClassVar[Literal["loss"]] = "loss"

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or isinstance(self.steps, bool) or self.steps < 1:
            raise InputError(f"expected steps to be a whole number >= 1, got {self.steps!r}; give the number of steps")
        if not 0 < self.share <= 1:
            raise InputError(f"expected share in (0, 1], got {self.share!r}; give a share of the entries")

    def init(self, x0: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> State:
        """Starts at a random vertex, with nothing found yet."""
        none = torch.full((len(x0),), -torch.inf, dtype=x0.dtype, device=x0.device)
        return {"x": _vertex(x0, threat, rng.sub("start"), index, 0), "best": x0.clone(), "loss": none}

    def step(
        self,
        state: State,
        gradient: Tensor | None,
        loss: Tensor,
        x0: Tensor,
        k: Tensor,
        threat: ThreatModel,
        rng: Draws,
        index: Tensor,
    ) -> State:
        """Keeps the iterate if it is no worse than the best, and proposes the next from the best."""
        better = (loss >= state["loss"]).reshape(-1, *[1] * (x0.ndim - 1))
        best = torch.where(better, state["x"], state["best"])
        drawn = rng.on(x0).sub("where").uniform(index, x0.shape[1:], k) < self.share
        proposal = torch.where(drawn, _vertex(x0, threat, rng.sub("sign"), index, k), best)
        return {"x": threat.project(proposal, x0), "best": best, "loss": torch.maximum(loss, state["loss"])}


def _vertex(x0: Tensor, threat: ThreatModel, rng: Draws, index: Tensor, draw: int | Tensor) -> Tensor:
    """x0 +- epsilon with random signs, projected onto the threat model."""
    up = rng.on(x0).uniform(index, x0.shape[1:], draw) < 0.5
    return threat.project(x0 + torch.where(up, threat.epsilon, -threat.epsilon).to(x0), x0)
