"""What all cells of one model share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from snnrobust.common.batching import BatchSizer
from snnrobust.common.files import Arrays
from snnrobust.common.progress import Progress
from snnrobust.data.dataset import Dataset
from snnrobust.evaluation.closest_examples import ClosestExamples
from snnrobust.evaluation.earlier_outcomes import EarlierOutcomes
from snnrobust.evaluation.settings import Effort, EvaluationSettings
from snnrobust.results.store import Store
from snnrobust.search.execution import CheckInputs
from snnrobust.search.scoring import Scorer
from snnrobust.wrapping.model import SpikingModel


@dataclass(frozen=True)
class CellContext:
    """What all cells of one model share.

    Attributes:
        model: The evaluated model.
        data: The samples.
        settings: Those of the evaluation.
        effort: How much of each search is done.
        scorer: Scores on the user's net.
        sizer: How many samples are active at once.
        store: Keeps outcomes.
        sources: All models by name, for transfer.
        skip: Labels of members of ensembles that the model does not allow.
        check_inputs: Samples on which accelerated models are compared with their nets.
        progress: Is told which search is running.
        prefix: What goes before a task's label in the store.
        clean: Clean outcomes of the samples, if `data` is a subset; None: read from the store.
        earlier: What the evaluation itself found with equal attacks; None: nothing is taken over.
        held_out: The samples that perturbations are fitted on; None where no attack is fitted.
        closest: What minimum-norm members have found so far.
    """

    model: SpikingModel
    data: Dataset
    settings: EvaluationSettings
    effort: Effort
    scorer: Scorer
    sizer: BatchSizer
    store: Store
    sources: Mapping[str, SpikingModel]
    skip: frozenset[str]
    check_inputs: CheckInputs
    progress: Progress
    prefix: str = ""
    clean: Arrays | None = None
    earlier: EarlierOutcomes | None = None
    held_out: Dataset | None = None
    closest: ClosestExamples = field(default_factory=ClosestExamples)

    @property
    def examples(self) -> int:
        """How many samples' examples are kept."""
        return 0 if self.prefix else min(self.settings.examples, len(self.data))
