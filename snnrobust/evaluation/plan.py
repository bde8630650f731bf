"""A checked evaluation, ready to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.evaluation.evidence_tasks import EvidenceTask
from snnrobust.evaluation.settings import EvaluationSettings
from snnrobust.plugin.task import Task
from snnrobust.wrapping.model import SpikingModel


@dataclass(frozen=True)
class Plan:
    """A checked evaluation, ready to run.

    Attributes:
        settings: What applies to all models and tasks.
        models: The evaluated models by name.
        sources: All models by name, those that only lend their examples included.
        data: Checked data, with the batch size.
        tasks: Tasks, "clean" first.
        evidence_tasks: What the audit of each model needs beside the tasks, by model.
        evidence_rows: Positions of the samples that these are run on.
        skipped: Labels of members of ensembles that a model does not allow, with the reason, by model.
        not_bisected: Labels of the tasks that mode="bisect" does not bisect, with the reason, by model.
        memory: How the batch size was measured; None where it was given.
    """

    settings: EvaluationSettings
    models: dict[str, SpikingModel]
    sources: dict[str, SpikingModel]
    data: EvaluationData
    tasks: list[Task]
    evidence_tasks: dict[str, list[EvidenceTask]]
    evidence_rows: Tensor
    skipped: dict[str, dict[str, str]]
    not_bisected: dict[str, dict[str, str]]
    memory: Mapping[str, object] | None

    @property
    def examples(self) -> int:
        """How many samples' examples are kept of each attack."""
        return min(self.settings.examples, len(self.data.test))

    @property
    def example_bytes(self) -> int:
        """About how large the kept examples are, at all strengths of all attacks on all models, before compression."""
        cells = 1 + sum(len(task.strengths) for task in self.tasks if task.kind == "attack")
        entries = self.examples * cells * (self.data.test.x[0].numel() + self.data.test.classes)
        return sum(entries * (8 if model.dtype == torch.float64 else 4) for model in self.models.values())
