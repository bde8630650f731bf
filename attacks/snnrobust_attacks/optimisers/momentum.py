"""The momentum iterative method."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from snnrobust.draws import Draws
from snnrobust.errors import InputError
from snnrobust.plugin import State
from snnrobust.threat import ThreatModel
from snnrobust_attacks.optimisers._common import check_norm, check_steps, column, sparse_step

if TYPE_CHECKING:
    from snnrobust.evaluation_data import EvaluationData
    from snnrobust.model import SpikingModel
    from snnrobust.task import Task


@dataclass(frozen=True)
class Momentum:
    """Gradient ascent along a running sum of normalised gradients (MI-FGSM, Dong et al. 2018, arXiv 1710.06081).

    m <- decay m + g / |g|_1;  x <- P(x + step_size d(m)), from the original, with d the steepest direction of the norm
    and P the projection onto the threat model. Under L1, d(m) is shared by the `l1_share` largest entries, as in PGD.

    Attributes:
        steps: Number of gradient steps.
        step_size: Length of a step in input units; epsilon / steps where left out.
        decay: What is kept of the running sum (the paper's mu).
        l1_share: Share of the entries that move in a step under L1.
    """

    steps: int = 20
    step_size: float | None = None
    decay: float = 1.0
    l1_share: float = 0.05

    needs: ClassVar[Literal["gradient"]] = "gradient"

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if self.step_size is not None and not (self.step_size > 0 and math.isfinite(self.step_size)):
            raise InputError(f"expected step_size > 0, got {self.step_size!r}; leave it out for epsilon / steps")
        if not 0 <= self.decay <= 1:
            raise InputError(f"expected decay in [0, 1], got {self.decay!r}; give the share that is kept in a step")
        if not 0 < self.l1_share <= 1:
            raise InputError(f"expected l1_share in (0, 1], got {self.l1_share!r}; give a share of the entries")

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Defined for the norms that have a steepest direction."""
        check_norm(task, "linf", "l2", "l1")

    def init(self, x0: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> State:
        """Starts at the original, at rest."""
        return {"x": x0.clone(), "sum": torch.zeros_like(x0)}

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
        """Adds the gradient to the sum and follows it."""
        length = gradient.abs().flatten(1).sum(dim=1)
        unit = torch.where(column(length, x0) > 0, gradient / column(length, x0), 0.0)
        total = self.decay * state["sum"] + unit
        size = threat.epsilon / self.steps if self.step_size is None else self.step_size
        if threat.domain != "real":
            size = max(size, 1.0)  # anything shorter is cut to no change at all
        if threat.norm == "l1":
            count = torch.full_like(k, math.ceil(self.l1_share * x0[0].numel()))
            moved = sparse_step(total, state["x"], threat, torch.full_like(loss, size), count)
        else:
            moved = size * threat.steepest(total)
        return {"x": threat.project(state["x"] + moved, x0), "sum": total}
