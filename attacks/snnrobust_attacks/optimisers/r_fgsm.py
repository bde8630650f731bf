"""FGSM from a random start."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_share
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.plugin import State
from snnrobust.plugin.task import Task
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.optimisers.shared import check_norm


@dataclass(frozen=True)
class RFGSM:
    """A random step, then one gradient step (R+FGSM, Tramer et al. 2018, arXiv 1705.07204).

    L-inf: x' = clip(x0 + a sign(n)) with n normal, then x = clip(x' + (epsilon - a) sign(g(x'))), a = share epsilon.
    L2 and L1: x' uniform in the ball of radius a, then epsilon - a along the steepest direction of the norm.
    Where entries are whole numbers, a is rounded down to one: at epsilon 1 the gradient step takes all of it.

    Attributes:
        share: Share of epsilon that the random step takes.
    """

    share: float = 0.5

    needs: ClassVar[Literal["gradient"]] = "gradient"
    steps: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_share("share", self.share, "give a share of epsilon, or use 'fgsm'")

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` for a norm without a steepest direction."""
        check_norm(task, "linf", "l2", "l1")

    def init(self, x0: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> State:
        """Takes the random step."""
        length = self._random_length(threat)
        if threat.norm == "linf":
            noise = rng.on(x0).sub("start").normal(index, x0.shape[1:])
            return {"x": threat.project(x0 + length * noise.sign(), x0)}
        return {"x": replace(threat, epsilon=length).start(x0, rng.sub("start"), index)}

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
        """Takes the gradient step."""
        rest = threat.epsilon - self._random_length(threat)
        return {"x": threat.project(state["x"] + rest * threat.steepest(gradient), x0)}

    def _random_length(self, threat: ThreatModel) -> float:
        length = self.share * threat.epsilon
        return length if threat.domain == "real" else float(math.floor(length))
