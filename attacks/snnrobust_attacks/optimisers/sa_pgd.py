"""PGD with adaptive moments and a fixed schedule of step sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_count, check_flag
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.plugin import State
from snnrobust.plugin.task import Task
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.optimisers.shared import at_least_one_event, check_norm, checkpoints, per_sample

KEEP_FIRST, KEEP_SECOND = 0.5, 0.8


@dataclass(frozen=True)
class SAPGD:
    """Stable adaptive PGD under L-inf (SA-PGD, of the ASSG paper, CVPR 2026: a sign step that can be shorter).

    m <- .5 m + g / mean|g|;  v <- .8 v + g^2 / mean(g^2);  x <- P(x + clip(eta m / sqrt(v), -eta, eta))

    Means are over all entries of a sample. eta starts at epsilon and is halved at the checkpoints of APGD, after .22,
    .41, .57, .70 ... of the steps, whatever the objective. An entry whose gradient keeps its sign moves by eta, one
    whose gradient changes sign or shrinks moves less. The moments scale each entry separately, which fits L-inf only.

    Attributes:
        steps: Number of gradient steps.
        random_start: Whether to start at a random point of the ball rather than at the original.
    """

    steps: int = 100
    random_start: bool = True

    needs: ClassVar[Literal["gradient"]] = "gradient"

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_flag("random_start", self.random_start)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless the norm is L-inf."""
        check_norm(task, "linf")

    def init(self, x0: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> State:
        """Starts with empty moments."""
        x = threat.start(x0, rng.sub("start"), index) if self.random_start else x0.clone()
        return {"x": x, "first": torch.zeros_like(x0), "second": torch.zeros_like(x0)}

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
        """Moves each entry by at most eta."""
        # Scaled to a largest entry of 1 first, which changes nothing else: the square of 1e-25 is zero in float32.
        largest = per_sample(gradient.abs().flatten(1).amax(dim=1), x0)
        g = torch.where(largest > 0, gradient / largest, 0.0)
        mean = per_sample(g.abs().flatten(1).mean(dim=1), x0)
        square = per_sample(g.square().flatten(1).mean(dim=1), x0)
        first = KEEP_FIRST * state["first"] + torch.where(largest > 0, g / mean, 0.0)
        second = KEEP_SECOND * state["second"] + torch.where(largest > 0, g.square() / square, 0.0)

        ratio = torch.where(second > 0, first / second.sqrt(), 0.0).clamp(-1, 1)
        halvings = torch.bucketize(k, k.new_tensor(checkpoints(self.steps)), right=True)
        eta = at_least_one_event(threat.epsilon * 0.5 ** halvings.to(x0.dtype), threat)
        return {"x": threat.project(state["x"] + per_sample(eta, x0) * ratio, x0), "first": first, "second": second}
