"""Auto-PGD."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_count, check_flag, check_share
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.plugin import State
from snnrobust.plugin.task import Task
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.optimisers.shared import (
    at_least_one_event,
    check_norm,
    checkpoints,
    per_sample,
    sparse_step,
)

#: Share of a step that is the new direction; the rest is the last movement.
NEW = 0.75
#: Under L1: what divides step and sparsity, the least step as a share of epsilon, the relative change in sparsity that
#: counts, the first sparsity, and the share of the steps between checkpoints, in hundredths.
SHRINK, LEAST, SPARSER, DENSE, PERIOD = 1.5, 0.1, 0.95, 0.2, 4


@dataclass(frozen=True)
class APGD:
    """PGD that sets its own step size from the progress of each sample.

    L-inf and L2 (Croce & Hein 2020, arXiv 2003.01690), with d(g) the steepest direction of the norm:

        z = P(x[k] + eta d(g));  x[k+1] = P(x[k] + .75 (z - x[k]) + .25 (x[k] - x[k-1]))

    eta starts at 2 epsilon. At each checkpoint it is halved, and the search goes on from the best iterate, if fewer
    than a share `rho` of the steps since the last checkpoint raised the objective, or if neither eta nor the best
    objective changed since then.

    L1 (Croce & Hein 2021, arXiv 2103.01208, with one radius throughout): x <- P(x + eta s(g)), s(g) the signs of the
    q largest entries over q. Every .04 of the steps, q becomes the number of entries that the best iterate changes
    over 1.5; where that number fell by more than 5 %, eta is set back to epsilon and the search goes on from the
    best iterate; else eta is divided by 1.5, down to epsilon / 10. Two details are ours: q is rounded down, since
    2 / 1.5 rounded up is 2 for ever, and what the bounds cut off goes to the next largest entry.

    Where entries are whole numbers, a step is a whole number of events, without momentum.

    Attributes:
        steps: Number of gradient steps.
        random_start: Whether to start at a random point of the ball rather than at the original.
        rho: Share of steps that must raise the objective for eta to stay.
        ties: Whether an iterate as good as the best takes its place, so that the search drifts over the plateaus of a
            rate read-out. On a conv SNN (MNIST, T = 4, margin, epsilon .1, 50 steps, three starts) .11 stay robust with
            and .16 without, on an MLP as many. An equal objective is no progress for eta; counting it made the
            attack no stronger.
    """

    steps: int = 100
    random_start: bool = True
    rho: float = 0.75
    ties: bool = True

    needs: ClassVar[Literal["gradient"]] = "gradient"

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_flag("random_start", self.random_start)
        check_flag("ties", self.ties)
        check_share("rho", self.rho, "give a share of the steps", zero=True, one=True)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` for a norm without a steepest direction."""
        check_norm(task, "linf", "l2", "l1")

    def init(self, x0: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> State:
        """Starts with the largest step size."""
        x = threat.start(x0, rng.sub("start"), index) if self.random_start else x0.clone()
        unknown = torch.full((len(x0),), -torch.inf, dtype=x0.dtype, device=x0.device)  # [N]
        state = {
            "x": x,
            "best": x.clone(),
            "best_gradient": torch.zeros_like(x),
            "best_loss": unknown,
            "size": torch.full_like(unknown, 1.0 if threat.norm == "l1" else 2.0),  # eta / epsilon
        }
        if threat.norm == "l1":
            entries = x0[0].numel()
            return state | {
                "moving": torch.full_like(unknown, DENSE * entries),  # q
                "changed": torch.full_like(unknown, entries),  # entries that the best iterate changed at the checkpoint
            }
        return state | {
            "previous": x.clone(),
            "last_loss": -unknown,  # no first iterate rises above it
            "rises": torch.zeros_like(unknown),  # since the last checkpoint, like the next two
            "checked_loss": unknown.clone(),
            "halved": torch.zeros_like(unknown, dtype=torch.bool),
        }

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
        """Records the iterate, checks the progress at checkpoints, and takes a step."""
        better = loss >= state["best_loss"] if self.ties else loss > state["best_loss"]
        state = state | {
            "best": torch.where(per_sample(better, x0), state["x"], state["best"]),
            "best_gradient": torch.where(per_sample(better, x0), gradient, state["best_gradient"]),
            "best_loss": torch.maximum(loss, state["best_loss"]),
        }
        if threat.norm == "l1":
            return self._step_sparse(state, gradient, loss, x0, k, threat)
        return self._step_dense(state, gradient, loss, x0, k, threat)

    def _step_dense(
        self, state: State, gradient: Tensor, loss: Tensor, x0: Tensor, k: Tensor, threat: ThreatModel
    ) -> State:
        """A step under L-inf or L2."""
        marks = [0, *checkpoints(self.steps)]
        since = dict(zip(marks[1:], (b - a for a, b in pairwise(marks)), strict=True))
        period = k.new_tensor([since.get(step, 0) for step in range(self.steps)])[k]  # 0 where no checkpoint is due
        rises = state["rises"] + (loss > state["last_loss"]).to(loss)
        stuck = ~state["halved"] & (state["best_loss"] <= state["checked_loss"])
        back = (period > 0) & ((rises < self.rho * period) | stuck)
        size = torch.where(back, state["size"] / 2, state["size"])
        x, gradient, loss = _go_back(state, gradient, loss, back)

        eta = per_sample(at_least_one_event(threat.epsilon * size, threat), x0)
        z = threat.project(x + eta * threat.steepest(gradient), x0)
        # There is no movement before k = 0.
        new = per_sample(torch.where(k == 0, 1.0, NEW if threat.domain == "real" else 1.0), x0)
        moved = x + new.to(x0) * (z - x) + (1 - new).to(x0) * (x - state["previous"])
        noted = (period > 0) | (k == 0)
        return state | {
            "x": threat.project(moved, x0),
            "previous": x,
            "last_loss": loss,
            "size": size,
            "rises": torch.where(noted, 0.0, rises),
            "checked_loss": torch.where(noted, state["best_loss"], state["checked_loss"]),
            "halved": torch.where(noted, back, state["halved"]),
        }

    def _step_sparse(
        self, state: State, gradient: Tensor, loss: Tensor, x0: Tensor, k: Tensor, threat: ThreatModel
    ) -> State:
        """A step under L1."""
        due = (k > 0) & (k % max(1, PERIOD * self.steps // 100) == 0)
        changed = (state["best"] != x0).flatten(1).sum(dim=1).to(x0)
        sparser = changed < SPARSER * state["changed"]
        moving = torch.where(due, changed / SHRINK, state["moving"])
        size = torch.where(due, torch.where(sparser, 1.0, state["size"] / SHRINK).clamp_min(LEAST), state["size"])
        x, gradient, _ = _go_back(state, gradient, loss, due & sparser)

        eta = at_least_one_event(threat.epsilon * size, threat)
        return state | {
            "x": threat.project(x + sparse_step(gradient, x, threat, eta, moving.long()), x0),
            "size": size,
            "moving": moving,
            "changed": torch.where(due, changed, state["changed"]),
        }


def _go_back(state: State, gradient: Tensor, loss: Tensor, back: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Iterate, gradient and objective [N]; those of the best iterate for the samples that go back to it."""
    x = torch.where(per_sample(back, gradient), state["best"], state["x"])
    gradient = torch.where(per_sample(back, gradient), state["best_gradient"], gradient)
    return x, gradient, torch.where(back, state["best_loss"], loss)
