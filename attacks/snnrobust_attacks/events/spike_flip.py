"""The spike-flip attack on spike trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_choice, check_count, check_share
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.plugin import State
from snnrobust.plugin.task import Task
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.events.changed_entries import check_whole_numbers, most_changes, target

Kept = Literal["gradient", "random"]


@dataclass(frozen=True)
class SpikeFlip:
    """Spike-flip attack of Liang et al. 2021 (arXiv 2001.01587), on binary spike trains.

    Each step draws a mask with P(entry) = |g| / max |g|, at the present iterate; the entries drawn are set to 1 where
    g > 0 and to 0 where g < 0 (event counts: to the bound). Where the whole gradient is zero, a random share `share` of
    the entries flips. This is the binary form that the study of functional roles (Yin et al. 2024, arXiv 2403.16674)
    reports in flips; the authors' own code perturbs pixels, see `spike-flip-pixels`.

    It differs from its source in this:
    - The source has no budget and reports how many entries had changed at the first success. Here each iterate is
      held to floor(epsilon) flips: of more, random ones stay (`keep` "random"), or those that the present gradient
      values most, x - x0 along g ("gradient"), a choice that repeats itself. An epsilon of all entries gives the
      source's attack.
    - The source counts a success only where the largest output is unique. Here the whole package's rule holds: the
      prediction (the first of equal outputs) is another class, or all outputs are silent.

    The gradient with a raised threshold in the penultimate layer is an estimator of its own: gradient
    "raised-threshold".

    Attributes:
        steps: Number of steps, each a forward and a backward pass.
        share: Share of the entries that flips where the gradient is zero.
        keep: Which flips stay when there are more than epsilon.
    """

    steps: int = 25
    share: float = 0.05
    keep: Kept = "random"

    needs: ClassVar[Literal["gradient"]] = "gradient"

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_share("share", self.share, "give a share of the entries", one=True)
        check_choice("keep", self.keep, get_args(Kept))

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are whole numbers and the norm counts changed entries."""
        check_whole_numbers(model, task)

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
        """Sets the entries that are drawn, and holds the iterate to the budget."""
        x, origin, g = state["x"].flatten(1), x0.flatten(1), gradient.flatten(1)
        unit = rng.on(x0).sub("spike-flip").uniform(index, (2, x.shape[1]), k)
        drawn, order = unit.unbind(dim=1)
        largest = g.abs().amax(dim=1, keepdim=True)
        flipped = torch.where(drawn < self.share, target(x, torch.zeros_like(g), threat), x)
        moved = torch.where((drawn < g.abs() / largest) & (g != 0), _bound(x, g, threat), x)
        x = torch.where(largest > 0, moved, flipped)

        budget = most_changes(threat, x.shape[1])
        worth = torch.zeros_like(g) if self.keep == "random" else (x - origin) * g
        # Two stable sorts: by worth, and of equal worth at random.
        by_chance = order.argsort(dim=1, stable=True)
        score = worth.masked_fill(x == origin, -torch.inf).gather(1, by_chance)
        ranked = by_chance.gather(1, score.argsort(dim=1, descending=True, stable=True))
        kept = torch.zeros_like(x, dtype=torch.bool).scatter_(1, ranked[:, :budget], True)
        return {"x": threat.project(torch.where(kept, x, origin).reshape(x0.shape), x0)}


def _bound(x: Tensor, gradient: Tensor, threat: ThreatModel) -> Tensor:
    """The bound that the gradient [N, D] points to; without an upper bound, one event more."""
    low, high = threat.bounds
    top = torch.full_like(x, high) if high < float("inf") else x + 1
    return torch.where(gradient > 0, top, low)
