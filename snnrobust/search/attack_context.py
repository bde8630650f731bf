"""One attack on one model: the problem that is posed, the judge of its solutions, and what was found."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from snnrobust.common.batching import BatchSizer
from snnrobust.common.random import Draws
from snnrobust.data.dataset import Dataset
from snnrobust.search.oracle import Oracle
from snnrobust.search.scoring import Scorer, taken
from snnrobust.threat_models.threat_model import ThreatModel


@dataclass
class SearchResult:
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
class AttackContext:
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

    judge: Scorer
    oracle: Oracle
    data: Dataset
    threat: ThreatModel
    rng: Draws
    pool: BatchSizer
    stop: bool
    name: str
    transfer: bool = False

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Inputs and labels on the model's device, sample ids and lengths for `rows`."""
        return taken(self.judge.model, self.data, rows)
