"""Search over events that move in time, led by the input gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_count, check_share
from snnrobust.errors import InputError
from snnrobust.plugin import State
from snnrobust.threat_models.threat_model import SHIFTS, Norm, ThreatModel
from snnrobust_attacks.optimisers.retimings import propose
from snnrobust_attacks.optimisers.shared import from_original


@dataclass(frozen=True)
class Retiming:
    """Moves events in time, and adds or removes none: the gradient says where an event is worth most.

    The objective grows by about sum_i (a_i - x_i) g_i if the input x becomes a, and among all allowed retimings a the
    projection of the gradient g is the one of largest sum_i a_i g_i. Each step projects scores

        u = g / mean |g| + T n  on lines that are free,  a large constant at the events of the best retiming elsewhere,

    where n is Gumbel noise (perturb and maximise) and T uniform in [0, temperature) for each proposal, so that some
    proposals are greedy and some are not. g is the gradient at the best retiming so far, averaged with earlier ones by
    `momentum`. The result is kept if the measured objective is no lower. The first step frees all lines, a later one a
    random share of them, at most p_k = exchange (1 - k / steps), and one line at least.

    After the spike-retiming attack (Yu et al. 2026), which optimises logits over the shifts of each spike and projects
    at the end; its relaxed projection, which its targeted mode returns, allows illegal grids. Here every iterate is an
    allowed retiming, in the targeted mode too.

    For norms "shift-linf", "shift-l1", "shift-l0", alone or as limits of each other.

    Attributes:
        steps: Number of steps, each a forward and a backward pass.
        exchange: Greatest share of the lines that a step frees.
        temperature: Greatest strength of the noise.
        momentum: Share of the earlier gradients in the average.
    """

    steps: int = 50
    exchange: float = 0.5
    temperature: float = 1.0
    momentum: float = 0.5

    needs: ClassVar[Literal["gradient"]] = "gradient"
    norms: ClassVar[tuple[Norm, ...]] = SHIFTS

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_share("exchange", self.exchange, "give a share of the lines", zero=True, one=True)
        check_share("momentum", self.momentum, "give the share of earlier gradients", zero=True)
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"expected temperature >= 0, got {self.temperature!r}; 0 follows the gradient alone")

    def init(self, x0: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> State:
        """Starts at the original, whose gradient makes the first proposal."""
        return from_original(x0)

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
        """Keeps the iterate if it is no worse than the best, and proposes the next from the best."""
        wide = (-1, *[1] * (x0.ndim - 1))
        better = loss >= state["loss"]
        best = torch.where(better.reshape(wide), state["x"], state["best"])
        scale = gradient.flatten(1).abs().mean(dim=1).reshape(wide)
        unit = torch.where(scale > 0, gradient / scale, 0.0)  # no gradient, no preference
        averaged = torch.where(
            (k == 0).reshape(wide), unit, self.momentum * state["gradient"] + (1 - self.momentum) * unit
        )
        averaged = torch.where(better.reshape(wide), averaged, state["gradient"])

        draws = rng.on(x0)
        heat, part = draws.sub("heat").uniform(index, (2,), k).unbind(dim=1)
        noise = draws.sub("noise").uniform(index, x0.shape[1:], k).clamp(1e-7, 1 - 1e-7)
        gumbel = -torch.log(-torch.log(noise))
        # The first proposal follows the gradient alone, and so do some later ones; without a gradient, noise is all.
        strength = torch.where(k == 0, 0.0, self.temperature * (2 * heat - 1).clamp_min(0)).reshape(wide)
        strength = torch.where(averaged.flatten(1).any(dim=1).reshape(wide), strength, 1.0)
        share = torch.where(k == 0, 1.0, self.exchange * (1 - k / self.steps) * part.square())
        x = propose(best, x0, averaged + strength * gumbel, share, threat, draws, index, k)
        return {"x": x, "best": best, "gradient": averaged, "loss": torch.maximum(loss, state["loss"])}
