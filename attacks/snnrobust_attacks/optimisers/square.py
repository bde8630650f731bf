"""The Square attack."""

from __future__ import annotations

from dataclasses import dataclass
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
from snnrobust_attacks.optimisers.shared import check_norm, per_sample
from snnrobust_attacks.optimisers.windows import Window, fold, sides, tiles, unfold

#: The steps, of 10000, after which p is halved: those of the authors' own runs.
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)

#: The least side of a window under L2: a pair of bumps needs as much.
LEAST = 3


@dataclass(frozen=True)
class Square:
    """Random search over windows of the input, without gradients (Andriushchenko et al. 2020, arXiv 1912.00049).

    A step changes the best iterate inside a random window that covers a share p of a channel, and keeps the result if
    the objective is no lower. p falls from `p` by halves over the steps.

    L-inf: starts at vertical stripes x0 +- epsilon of random sign; the window of each channel becomes x0 + epsilon or
        x0 - epsilon. A window that would change nothing gets the opposite signs instead (the paper draws again).
    L2: starts at bumps of random sign on a grid; the change in a second window is moved to the first, where a pair of
        bumps of opposite sign is added to what was there, and the whole is scaled to length epsilon. Its changes keep
        the bumps' shape: 1000 steps on a linear objective reach .46 (784 inputs) to .9 (16) of the optimum.

    A window is a box over all axes but the channels', with sides in the proportions of the input: a square of an image
    [N, C, H, W], an interval of a vector [N, F], a stretch of time and features of [N, T, F], a stretch of time and
    a square of [N, T, C, H, W]. The first windows cover nearly all times; letting all of them do so made no difference
    (a rate-coded MLP, MNIST, T = 4, 500 steps: robust .72 for both).

    Attributes:
        steps: Number of steps, each a forward pass.
        p: Share of the entries in the first window. The paper has .05, AutoAttack .8; 500 steps leave an MLP on MNIST
            (T = 4, epsilon .06) .85 and .72 robust accuracy.
        ties: Whether an iterate with an equal objective is kept. A rate read-out takes few values, and most windows
            leave it where it is: without ties that MLP keeps .82.
    """

    steps: int = 1000
    p: float = 0.8
    ties: bool = True

    needs: ClassVar[Literal["loss"]] = "loss"

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_flag("ties", self.ties)
        check_share("p", self.p, "give the share of the entries in the first window", one=True)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless the norm is L-inf or L2."""
        check_norm(task, "linf", "l2")

    def init(self, x0: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> State:
        """Starts at stripes or bumps."""
        origin, rng = fold(x0), rng.on(x0).sub("start")
        if threat.norm == "linf":
            shape = (origin.shape[1], *[1] * (origin.ndim - 3), origin.shape[-1])  # a sign per channel and column
            change = threat.epsilon * _signs(rng.uniform(index, shape))
        else:
            change = _lengthened(tiles(origin, rng, index), threat.epsilon)
        x = threat.project(unfold(origin + change, x0), x0)
        return {"x": x, "best": x.clone(), "loss": torch.full_like(x0.flatten(1)[:, 0], -torch.inf)}

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
        """Keeps the iterate if it is better than the best (with `ties`: no worse), and proposes the next."""
        better = loss >= state["loss"] if self.ties else loss > state["loss"]
        best = torch.where(per_sample(better, x0), state["x"], state["best"])
        origin, at = fold(x0), fold(best)
        axes, channels = origin.ndim - 2, origin.shape[1]
        # All numbers of a step in one draw: a corner for each of two windows, an axis, a sign per channel.
        unit = rng.on(x0).sub("window").uniform(index, (2 * axes + 1 + channels,), k)
        size = sides(origin, self.share(k), least=1 if threat.norm == "linf" else LEAST)
        here = Window.at(origin, size, unit[:, :axes])
        signs = _signs(unit[:, -channels:]).reshape(*origin.shape[:2], *[1] * axes)  # [N, C, 1, ...]
        if threat.norm == "linf":
            x = self._paint(at, origin, here, signs, threat)
        else:
            there = Window.at(origin, size, unit[:, axes : 2 * axes])
            bump = here.bumps((unit[:, 2 * axes] * axes).long().clamp_max(axes - 1))
            x = origin + _moved(at - origin, here, there, signs * bump, threat.epsilon)
        return {
            "x": threat.project(unfold(x, x0), x0),
            "best": best,
            "loss": torch.maximum(loss, state["loss"]),
        }

    def share(self, k: Tensor) -> Tensor:
        """The share of the entries that the window has at steps k [N], [N]."""
        times = torch.tensor(HALVINGS, device=k.device)
        passed = torch.div(10000 * k, self.steps, rounding_mode="floor")[:, None] > times
        return self.p * 0.5 ** passed.sum(dim=1).double()

    def _paint(self, best: Tensor, origin: Tensor, window: Window, signs: Tensor, threat: ThreatModel) -> Tensor:
        """`best` with the window at distance epsilon of the original."""
        painted = [
            torch.where(window.inside, threat.project(origin + sign * threat.epsilon, origin), best)
            for sign in (signs, -signs)
        ]
        idle = (painted[0] == best).flatten(1).all(dim=1)
        return torch.where(per_sample(idle, best), painted[1], painted[0])


def _moved(change: Tensor, here: Window, there: Window, bump: Tensor, epsilon: float) -> Tensor:
    """The change [N, C, *] with what window `there` holds moved to window `here`, of length epsilon (Algorithm 3)."""
    inside, either = here.inside.to(change), (here.inside | there.inside).to(change)
    channels = change.shape[1]
    held = _norms(change * either)  # [N, C, 1, ...]
    unused = (epsilon**2 - change.flatten(1).square().sum(dim=1)).clamp_min(0)  # lost to the bounds
    direction = bump + change * inside / _norms(change * inside).clamp_min(1e-12)
    length = (held.square() + per_sample(unused, change) / channels).sqrt()
    new = direction * inside / _norms(direction * inside).clamp_min(1e-12) * length
    return _lengthened(new + change * (1 - either), epsilon)


def _lengthened(change: Tensor, epsilon: float) -> Tensor:
    """The change [N, *] of every sample at L2 length epsilon; zero stays zero."""
    return change * per_sample(epsilon / change.flatten(1).norm(dim=1).clamp_min(1e-12), change)


def _norms(change: Tensor) -> Tensor:
    """The L2 length in each channel of [N, C, *], in a shape that broadcasts with it."""
    lengths: Tensor = change.flatten(2).norm(dim=2)
    return lengths.reshape(*change.shape[:2], *[1] * (change.ndim - 2))


def _signs(unit: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) as -1 or 1."""
    return torch.where(unit < 0.5, -1.0, 1.0).to(unit)
