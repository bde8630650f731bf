"""Projected gradient descent."""

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
from snnrobust_attacks.optimisers.shared import check_norm, sparse_step


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
        check_count("steps", self.steps)
        if self.step_size is not None:
            check_positive("step_size", self.step_size, "leave it out for 2.5 epsilon / steps")
        check_share("l1_share", self.l1_share, "give a share of the entries", one=True)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` for a norm without a steepest direction."""
        check_norm(task, "linf", "l2", "l1")

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
            size = max(size, 1.0)  # a shorter step would be rounded to no change
        x = state["x"]
        if threat.norm == "l1":
            count = torch.full_like(k, math.ceil(self.l1_share * x[0].numel()))
            moved = sparse_step(gradient, x, threat, torch.full_like(loss, size), count)
        else:
            moved = size * threat.steepest(gradient)
        return {"x": threat.project(x + moved, x0)}
