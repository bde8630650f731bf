"""Scores inputs on the user's own net, eager and freshly reset: what decides whether an attack succeeded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.data.batch import Batch
from snnrobust.wrapping.decision import Correctness
from snnrobust.wrapping.model import SpikingModel


@dataclass
class Score:
    """Scores of some inputs.

    Attributes:
        logits: The mean over scoring draws, [N, K].
        withstands: Whether the net withstands them by these logits, [N]: it is right, or they are not finite.
        voted: The same for most of the draws, [N]; equal to `withstands` for a deterministic net.
    """

    logits: Tensor
    withstands: Tensor
    voted: Tensor


class Scorer:
    """Scores inputs on the user's own net: eager, freshly reset, with its own surrogates.

    A stochastic net is scored on the mean logits over `draws` fresh draws that no search has used.
    """

    def __init__(self, model: SpikingModel, seed: int, draws: int) -> None:
        self.model = model
        self.draws = draws if model.stochastic else 1
        self.first_draw = Draws(seed, "scoring").number()

    @torch.no_grad()
    def score(self, batch: Batch) -> Score:
        """Scores the inputs of a batch."""
        found = [self._score(batch.select(part)) for part in self.model.parts(len(batch))]
        return Score(
            torch.cat([each.logits for each in found]),
            torch.cat([each.withstands for each in found]),
            torch.cat([each.voted for each in found]),
        )

    def _score(self, batch: Batch) -> Score:
        total, votes = torch.zeros((), device=batch.y.device), torch.zeros_like(batch.y)
        for draw in range(self.draws):
            logits = self.model.logits(batch.x, keys=batch.index, draw=self.first_draw + draw, lengths=batch.lengths)
            total, votes = total + logits, votes + Correctness(logits, batch.y).withstands
        mean = total / self.draws
        return Score(mean, Correctness(mean, batch.y).withstands, 2 * votes > self.draws)
