"""One attack on one model: the problem that is posed, the judge of its solutions, and what was found."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from snnrobust.data import Dataset
from snnrobust.draws import Draws
from snnrobust.model import SpikingModel
from snnrobust.oracle import Oracle
from snnrobust.pool import Pool
from snnrobust.threat import ThreatModel


@dataclass
class Found:
    """What a search found for some samples, judged on the user's own net.

    Attributes:
        rows: Positions in the data set, [n].
        x: The strongest example, [n, *].
        correct: Whether the net still gets it right, [n].
        voted: Whether most scoring draws get it right, [n].
        margin: True logit minus the best other at `x`, [n].
        rank: How strong the search itself held `x` to be (smaller is stronger), [n].
        last_x: The last iterate, [n, *].
        last_correct: Whether the net gets the last iterate right, [n].
        forwards: Forward passes per sample, [n].
        backwards: Backward passes per sample, [n].
        unchanged: Whether the last iterate equals the original, [n].
        disagreements: How often the search took an iterate for a success that the net then got right, [n].
    """

    rows: Tensor
    x: Tensor
    correct: Tensor
    voted: Tensor
    margin: Tensor
    rank: Tensor
    last_x: Tensor
    last_correct: Tensor
    forwards: Tensor
    backwards: Tensor
    unchanged: Tensor
    disagreements: Tensor


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


class Judge:
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


@dataclass
class Problem:
    """One attack on one model under one threat model.

    Attributes:
        judge: Scores on the user's net.
        oracle: Answers the attack's questions.
        data: The samples; `rows` below are positions in it.
        threat: What may change.
        rng: Keyed draws of this attack at this strength and restart.
        pool: Samples in flight at once.
        stop: Whether a sample is done at its first success ("nested"), or runs all its steps ("exhaustive").
        name: The attack's name for messages.
        transfer: Whether the oracle answers for another model than the judge's; nothing is then judged on the way.
    """

    judge: Judge
    oracle: Oracle
    data: Dataset
    threat: ThreatModel
    rng: Draws
    pool: Pool
    stop: bool
    name: str
    transfer: bool = False

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Inputs and labels on the model's device, sample ids and lengths for `rows`."""
        return taken(self.judge.model, self.data, rows)


def taken(model: SpikingModel, data: Dataset, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Inputs and labels of `rows` on the model's device, their sample ids and lengths."""
    x = data.x[rows].to(device=model.device, dtype=model.dtype)
    lengths = None if data.lengths is None else data.lengths[rows]
    return x, data.y[rows].to(model.device), data.index[rows], lengths


def keep_padding(x: Tensor, x0: Tensor, lengths: Tensor | None) -> Tensor:
    """Changed sequences x [N, T, *] with the steps past each one's length as in `x0`.

    Changing them would cost budget and do nothing, or reach a net that reads out over all steps by itself.
    """
    if lengths is None or x.shape != x0.shape:  # a wrong shape is for `verify` to report
        return x
    clock = torch.arange(x0.shape[1], device=x0.device)
    valid = clock < lengths.to(x0.device)[:, None]  # [N, T]
    return torch.where(valid.reshape(*valid.shape, *[1] * (x0.ndim - 2)), x, x0)
