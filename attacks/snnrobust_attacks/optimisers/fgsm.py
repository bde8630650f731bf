"""The fast gradient sign method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.plugin import State
from snnrobust.plugin.task import Task
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.optimisers.shared import check_norm


@dataclass(frozen=True)
class FGSM:
    """One step of full length along the steepest direction of the norm (Goodfellow et al. 2015, arXiv 1412.6572).

    L-inf: x = clip(x0 + epsilon sign(g)); L2 and L1: along g / |g|_2 and the largest entry of g.
    """

    needs: ClassVar[Literal["gradient"]] = "gradient"
    steps: ClassVar[int] = 1

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` for a norm without a steepest direction."""
        check_norm(task, "linf", "l2", "l1")

    def init(self, x0: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> State:
        """Starts at the original."""
        return {"x": x0.clone()}

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
        """Takes the step."""
        return {"x": threat.project(x0 + threat.epsilon * threat.steepest(gradient), x0)}
