"""Projected gradient descent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from snnrobust.draws import Draws
from snnrobust.errors import InputError
from snnrobust.plugin import State
from snnrobust.threat import ThreatModel


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent on the objective (Madry et al. 2018, arXiv 1706.06083).

    x <- P(x + step_size d(g)), with d(g) the steepest direction of the norm and P the projection onto the threat
    model. Under L1, d(g) is shared by the `l1_share` largest entries that can still move, after SLIDE (Tramer & Boneh
    2019, arXiv 1904.13000): a single entry a step would need one step per pixel.

    Attributes:
        steps: Number of gradient steps.
        step_size: Length of a step in input units; 2.5 epsilon / steps where left out.
        random_start: Whether to start at a random point of the ball rather than at the original.
        l1_share: Share of the entries that move in a step under L1.
    """

    steps: int = 20
    step_size: float | None = None
    random_start: bool = True
    l1_share: float = 0.05

    needs: ClassVar[Literal["gradient"]] = "gradient"

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or isinstance(self.steps, bool) or self.steps < 1:
            raise InputError(f"expected steps to be a whole number >= 1, got {self.steps!r}; give the number of steps")
        if self.step_size is not None and not (self.step_size > 0 and math.isfinite(self.step_size)):
            raise InputError(f"expected step_size > 0, got {self.step_size!r}; leave it out for 2.5 epsilon / steps")
        if not 0 < self.l1_share <= 1:
            raise InputError(f"expected l1_share in (0, 1], got {self.l1_share!r}; give a share of the entries")

    def init(self, x0: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> State:
        """Starts at a random allowed point, or at the original."""
        return {"x": threat.start(x0, rng.sub("start"), index) if self.random_start else x0.clone()}

    def step(
        self,
        state: State,
        gradient: Tensor,
        loss: Tensor,
        x0: Tensor,
        k: Tensor,
        threat: ThreatModel,
        rng: Draws,
        index: Tensor,
    ) -> State:
        """One projected step."""
        size = 2.5 * threat.epsilon / self.steps if self.step_size is None else self.step_size
        if threat.domain != "real":
            size = max(size, 1.0)  # anything shorter is cut to no change at all
        x = state["x"]
        direction = self._slide(gradient, x, threat) if threat.norm == "l1" else threat.steepest(gradient)
        return {"x": threat.project(x + size * direction, x0)}

    def _slide(self, gradient: Tensor, x: Tensor, threat: ThreatModel) -> Tensor:
        """The sign of the largest entries of g that are not held by a bound, scaled to L1 length 1."""
        low, high = threat.bounds
        held = ((x <= low) & (gradient < 0)) | ((x >= high) & (gradient > 0))
        size = gradient.abs().masked_fill(held, 0).flatten(1)
        count = max(1, math.ceil(self.l1_share * size.shape[1]))
        least = size.topk(count, dim=1).values[:, -1:].clamp_min(torch.finfo(size.dtype).tiny)
        moving = (size >= least).to(gradient.dtype)
        moving = moving / moving.sum(dim=1, keepdim=True).clamp_min(1)
        return gradient.sign() * moving.reshape(gradient.shape)
