"""Random flips: the control that every attack on spikes has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_count
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.plugin import State
from snnrobust.plugin.task import Task
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.events.changed_entries import check_whole_numbers, most_changes


@dataclass(frozen=True)
class RandomFlips:
    """Sets of exactly floor(epsilon) random flips, the strongest of which is kept: no gradient, no search.

    Every entry has the same chance; event counts change to any other value with the same chance. The sets are
    independent of each other. What a gradient attack breaks beyond this it owes to its gradient and its search.

    Attributes:
        steps: Number of sets, each a forward pass; the original takes one more.
    """

    steps: int = 100

    needs: ClassVar[Literal["loss"]] = "loss"

    def __post_init__(self) -> None:
        check_count("steps", self.steps)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are whole numbers and the norm counts changed entries."""
        check_whole_numbers(model, task)

    def init(self, x0: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> State:
        """Starts at the original."""
        return {"x": x0.clone()}

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
        """The next random set, from the original."""
        origin, count = x0.flatten(1), x0[0].numel()
        budget = most_changes(threat, count)
        if not budget:
            return {"x": x0.clone()}
        unit = rng.on(x0).sub("random-flips").uniform(index, (2, count), k)  # where, and the value
        order = unit[:, 0].argsort(dim=1, stable=True)
        chosen = torch.zeros_like(origin, dtype=torch.bool).scatter_(1, order[:, :budget], True)
        x = torch.where(chosen, _other_value(origin, unit[:, 1], threat), origin)
        return {"x": threat.project(x.reshape(x0.shape), x0)}


def _other_value(x: Tensor, unit: Tensor, threat: ThreatModel) -> Tensor:
    """Another whole value for each entry of x [N, D], by a uniform number in [0, 1) for each; for spikes, the flip.

    Without an upper bound, one more or one fewer.
    """
    low, high = threat.bounds
    if high == float("inf"):
        return torch.where((unit < 0.5) | (x <= low), x + 1, x - 1)
    value = low + (unit * (high - low)).floor().clamp_max(high - low - 1)  # one value fewer: not the present one
    return torch.where(value >= x, value + 1, value)
