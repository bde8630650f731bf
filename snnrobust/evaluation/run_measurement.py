"""Runs a measurement, or resumes one that was interrupted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.results.artifacts import Artifact
from snnrobust.results.checkpoint import MeasurementCheckpoint
from snnrobust.results.records import Record
from snnrobust.wrapping.model import SpikingModel


def run_measurement(
    plugin: Any, model: SpikingModel, data: EvaluationData, rng: Draws, kept: MeasurementCheckpoint
) -> Iterable[Record | Artifact]:
    """What a measurement yields; one with `resumable = True` gets the checkpoint of an earlier attempt."""
    found: Iterable[Record | Artifact]
    if getattr(plugin, "resumable", False):
        with kept.written():
            found = list(plugin.measure(model, data, rng, kept))
    else:
        found = plugin.measure(model, data, rng)
    return found
