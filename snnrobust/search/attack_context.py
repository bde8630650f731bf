"""One attack on one model under one threat model: what a search needs, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from torch import Tensor

from snnrobust.common.batching import BatchSizer
from snnrobust.common.random import Draws
from snnrobust.data.batch import Batch
from snnrobust.data.dataset import Dataset
from snnrobust.plugin.protocols import State
from snnrobust.search.queries import ModelQueries
from snnrobust.search.scoring import Scorer
from snnrobust.threat_models.threat_model import ThreatModel


@dataclass
class SearchResult:
    """What a search found for some samples, scored on the user's own net.

    Attributes:
        rows: Positions in the data set, [n].
        x: The strongest example, [n, *].
        logits: The net's logits at `x` (the mean over scoring draws), [n, K].
        withstands: Whether the net withstands `x`, [n].
        voted: The same for most scoring draws, [n].
        margin: True logit minus the best other at `x`, [n].
        rank: Rank by which the searches of one sample are compared (smaller is stronger), [n].
        last_x: The last iterate, [n, *].
        last_withstands: Whether the net withstands the last iterate, [n].
        forwards: Forward passes per sample, [n].
        backwards: Backward passes per sample, [n].
        unchanged: Whether the last iterate equals the original, [n].
        disagreements: Iterates misclassified by the search's model but not by the user's net, [n].
        undefined: Whether the search met a gradient of NaN or infinity, [n].
    """

    rows: Tensor
    x: Tensor
    logits: Tensor
    withstands: Tensor
    voted: Tensor
    margin: Tensor
    rank: Tensor
    last_x: Tensor
    last_withstands: Tensor
    forwards: Tensor
    backwards: Tensor
    unchanged: Tensor
    disagreements: Tensor
    undefined: Tensor

    def select(self, mask: Tensor) -> SearchResult:
        """The part of the samples in `mask` [n]."""
        return SearchResult(**{each.name: getattr(self, each.name)[mask] for each in fields(self)})


@dataclass(frozen=True)
class AttackContext:
    """One attack on one model under one threat model.

    Attributes:
        scorer: Scores on the user's net.
        queries: Answers the attack's queries.
        data: The samples; rows are positions in it.
        threat: The threat model.
        rng: Keyed draws of this attack at this strength and restart.
        sizer: How many samples are active at once.
        stop: Whether a sample is done at its first success ("nested"), or runs all its steps ("exhaustive").
        name: The attack's name for messages.
        transfer: Whether the queries go to another model than the scored one; success is then known after scoring.
        targets: Target classes [N] of all samples of `data`, for a targeted objective.
        fitted: What a `Fitted` perturbation was fitted to; None for all others.
    """

    scorer: Scorer
    queries: ModelQueries
    data: Dataset
    threat: ThreatModel
    rng: Draws
    sizer: BatchSizer
    stop: bool
    name: str
    transfer: bool = False
    targets: Tensor | None = None
    fitted: State | None = None

    def batch(self, rows: Tensor) -> Batch:
        """The samples at the positions `rows`, on the model's device."""
        model = self.scorer.model
        samples = Batch.of(self.data, rows, model.device, model.input_dtype)
        return samples if self.targets is None else replace(samples, targets=self.targets[rows].to(model.device))

    @property
    def scored_in_the_end(self) -> bool:
        """Whether only the final scoring decides success: it uses other draws or another model than the search."""
        return self.transfer or self.scorer.model.stochastic
