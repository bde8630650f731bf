"""The momentum iterative method."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_count, check_positive, check_share
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.plugin import State
from snnrobust.plugin.task import Task
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.optimisers.shared import check_norm, per_sample, sparse_step


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
        check_count("steps", self.steps)
        if self.step_size is not None:
            check_positive("step_size", self.step_size, "leave it out for epsilon / steps")
        check_share("decay", self.decay, "give the share that is kept in a step", zero=True, one=True)
        check_share("l1_share", self.l1_share, "give a share of the entries", one=True)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` for a norm without a steepest direction."""
        check_norm(task, "linf", "l2", "l1")

    def init(self, x0: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> State:
        """Starts at the original, with a sum of zero."""
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
        """Adds the gradient to the sum and takes a step along it."""
        length = gradient.abs().flatten(1).sum(dim=1)
        unit = torch.where(per_sample(length, x0) > 0, gradient / per_sample(length, x0), 0.0)
        total = self.decay * state["sum"] + unit
        size = threat.epsilon / self.steps if self.step_size is None else self.step_size
        if threat.domain != "real":
            size = max(size, 1.0)  # a shorter step would be rounded to no change
        if threat.norm == "l1":
            count = torch.full_like(k, math.ceil(self.l1_share * x0[0].numel()))
            moved = sparse_step(total, state["x"], threat, torch.full_like(loss, size), count)
        else:
            moved = size * threat.steepest(total)
        return {"x": threat.project(state["x"] + moved, x0), "sum": total}
