"""What a change common to all samples does to the samples that it is fitted on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.objectives.logits import margin
from snnrobust.plugin.protocols import Queries
from snnrobust.threat_models.selection import largest_mask

#: Weight of an entry against the mean gradient, beside the mean gain's 1.
FLOOR = 0.3
#: The id that draws which belong to no sample are keyed by.
NO_SAMPLE = torch.zeros(1, dtype=torch.long)


@dataclass(frozen=True)
class Judged:
    """What is left of the net's decisions on changed samples.

    Attributes:
        loss: Share of the samples that are right, plus their mean margin, each as a share of that of the originals; the
            margin of a wrong sample counts as 0. Smaller is stronger.
        right: How many samples are right.
        gradient: Objective gradients [N, *] at unit length. Those of samples that are wrong already count too, or the
            next change would set them right.
    """

    loss: float
    right: int
    gradient: Tensor


class Judge:
    """Judges changes of the same samples.

    Args:
        oracle: The queries.
        x: Samples [N, *].
        y: Labels [N].
        index: Ids [N].
    """

    def __init__(self, oracle: Queries, x: Tensor, y: Tensor, index: Tensor) -> None:
        self._oracle = oracle
        self.x, self.y, self.index = x, y, index
        margins = margin(oracle.logits(x, index), y).double()
        self._right = max(1, int((margins > 0).sum()))
        self._margin = max(1e-12, float(margins.clamp_min(0).mean()))

    def __call__(self, x: Tensor, query: int) -> Judged:
        """What is left at the changed samples x [N, *]."""
        gradient, _, logits = self._oracle.gradient(x, self.y, self.index, query)
        loss, right = self._left(logits)
        length = gradient.flatten(1).norm(dim=1).reshape(-1, *[1] * (x.ndim - 1))
        unit = torch.where(length > 0, gradient / length.clamp_min(torch.finfo(x.dtype).tiny), 0.0)
        return Judged(loss, right, unit)

    def loss(self, x: Tensor, query: int) -> float:
        """`Judged.loss` alone, without a gradient."""
        return self._left(self._oracle.logits(x, self.index, query))[0]

    def _left(self, logits: Tensor) -> tuple[float, int]:
        margins = margin(logits, self.y).double()
        right = int((margins > 0).sum())
        return right / self._right + float(margins.clamp_min(0).mean()) / self._margin, right


def some_of(index: Tensor, count: int, rng: Draws) -> Tensor:
    """Positions of `count` random samples of the ids `index` [N], in their order; all where there are no more."""
    order = rng.sub("samples").uniform(index, (1,))[:, 0].argsort(stable=True)
    return order[:count].sort().values.cpu()


def exchanged(
    held: Tensor,
    worth: Tensor,
    gain: Tensor,
    undoes: Tensor,
    back: int,
    wanted: int,
    unit: Tensor,
    *,
    heat: float,
    along: bool,
) -> tuple[Tensor, Tensor]:
    """A set without `back` of its entries of small worth, and entries of large gain until it has `wanted`.

    Both are chosen with Gumbel noise (Gumbel-top-k): score + heat * noise, where the score is the logarithm of the
    worth or gain in units of its mean.

    Args:
        held: Which entries are in the set, [D].
        worth: What each entry of the set is worth to first order, [D].
        gain: What each other entry would be worth, [D].
        undoes: Which entries must not be taken in again at once, [D].
        back: How many entries leave.
        wanted: How many entries there are then, at most.
        unit: Uniform numbers [2, D].
        heat: Strength of the noise.
        along: Whether only entries with a positive gain enter, if there are any.

    Returns:
        Which entries stay, and which enter, [D] each.
    """
    wrong_way = torch.where(worth < 0, 2, 1)  # harmful entries leave before useless ones
    leaving = heat * gumbel(unit[0]) - log_share(worth, held, FLOOR) * wrong_way
    removed = held & largest_mask(leaving.masked_fill(~held, -torch.inf)[None], back)[0]
    kept = held & ~removed
    others = ~kept & ~(removed & undoes)
    positive = others & (gain > 0)
    eligible = positive if along and bool(positive.any()) else others
    entering = (log_share(gain, eligible, FLOOR) + heat * gumbel(unit[1])).masked_fill(~eligible, -torch.inf)
    return kept, eligible & largest_mask(entering[None], wanted - int(kept.sum()))[0]


def gumbel(unit: Tensor) -> Tensor:
    """Gumbel noise from uniform numbers: the largest of score + noise is drawn with probability ~ exp(score)."""
    return -torch.log(-torch.log(unit.clamp(1e-7, 1 - 1e-7)))


def log_share(gain: Tensor, among: Tensor, floor: float) -> Tensor:
    """The logarithm of gains [D], in units of the mean positive gain of the entries `among`, at least log `floor`."""
    positive = gain.clamp_min(0) * among
    mean = positive.sum() / (positive > 0).sum().clamp_min(1)
    return torch.log(torch.where(mean > 0, positive / mean, 0.0).clamp_min(floor))
