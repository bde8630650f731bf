"""The judge of what searches find: the user's own net, eager and freshly reset."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.data.dataset import Dataset
from snnrobust.wrapping.model import SpikingModel


@dataclass
class Score:
    """How the net does on some inputs.

    Attributes:
        logits: The mean over scoring draws, [N, K].
        correct: Whether these logits are right, [N].
        voted: Whether the net is right in most of the draws, [N]; the same as `correct` for a deterministic net.
    """

    logits: Tensor
    correct: Tensor
    voted: Tensor


class Scorer:
    """Scores inputs on the user's own net: eager, freshly reset, its spikes' gradients untouched.

    A stochastic net is scored on the mean logits over `draws` fresh draws that no search has seen.
    """

    def __init__(self, model: SpikingModel, seed: int, draws: int) -> None:
        self.model = model
        self.draws = draws if model.stochastic else 1
        self._first_draw = Draws(seed, "scoring").number()

    @torch.no_grad()
    def score(self, x: Tensor, y: Tensor, index: Tensor, lengths: Tensor | None) -> Score:
        """Scores inputs x [N, *] with labels y [N] of the samples `index` [N]."""
        found = [
            self._score(x[part], y[part], index[part], None if lengths is None else lengths[part])
            for part in self.model.parts(len(x))
        ]
        return Score(*(torch.cat([getattr(each, name) for each in found]) for name in ("logits", "correct", "voted")))

    def _score(self, x: Tensor, y: Tensor, index: Tensor, lengths: Tensor | None) -> Score:
        total, votes = torch.zeros((), device=y.device), torch.zeros_like(y)
        for draw in range(self.draws):
            logits = self.model.logits(x, keys=index, draw=self._first_draw + draw, lengths=lengths)
            total, votes = total + logits, votes + self.correct(logits, y)
        mean = total / self.draws
        return Score(mean, self.correct(mean, y), 2 * votes > self.draws)

    def correct(self, logits: Tensor, y: Tensor) -> Tensor:
        """Whether each sample is right, [N]. NaN is never taken for a successful attack."""
        return (self.model.predict(logits) == y) | ~torch.isfinite(logits).all(dim=1)


def taken(model: SpikingModel, data: Dataset, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Inputs and labels of `rows` on the model's device, their sample ids and lengths."""
    x = data.x[rows].to(device=model.device, dtype=model.dtype)
    lengths = None if data.lengths is None else data.lengths[rows]
    return x, data.y[rows].to(model.device), data.index[rows], lengths
