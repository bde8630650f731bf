"""Checks of measurements."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.evaluation.run_measurement import run_measurement
from snnrobust.plugin.protocols import Measurement
from snnrobust.results.artifacts import Artifact
from snnrobust.results.checkpoint import MeasurementCheckpoint
from snnrobust.results.records import Record
from snnrobust.testing.checks import accepted_model_and_data, check_promise, model_state, same_state


def check_measurement(name: str, plugin: Measurement) -> None:
    """Records or artifacts, the same from a second call and from one resumed after an interruption."""
    model, data = accepted_model_and_data(name, plugin)
    before = model_state(model)

    def run(kept: MeasurementCheckpoint) -> list[Record | Artifact]:
        return list(run_measurement(plugin, model, EvaluationData(data, data, data, 4), Draws(0, name), kept))

    with model.session():
        found, again = run(MeasurementCheckpoint()), run(MeasurementCheckpoint())
    check_promise(
        name, same_state(before, model_state(model)), "the model and torch's random state unchanged", "changed ones"
    )
    check_promise(name, bool(found), "at least one record or artifact", "none")
    for each in found:
        check_promise(name, isinstance(each, Record | Artifact), "records and artifacts", type(each).__name__)
    _require_equal_values(name, "the same numbers from a second call", found, again)
    for at in (1, 3) if getattr(plugin, "resumable", False) else ():
        kept = _Stopping(at)
        with model.session(), suppress(_Stopped):
            run(kept)
        check_promise(
            name, kept.puts > 0, "a resumable measurement to store intermediate results", "one that stores none"
        )
        check_promise(
            name, same_state(before, model_state(model)), "the model unchanged by an interruption", "a changed one"
        )
        with model.session():
            _require_equal_values(name, "the same numbers after an interruption", found, run(kept))


def _require_equal_values(
    name: str, expected: str, first: list[Record | Artifact], second: list[Record | Artifact]
) -> None:
    ours, theirs = (np.array([each.value for each in run if isinstance(each, Record)]) for run in (first, second))
    check_promise(
        name, np.array_equal(ours, theirs, equal_nan=True), expected, f"{ours.tolist()} and {theirs.tolist()}"
    )


class _Stopped(Exception):
    """The interruption of a measurement."""


class _Stopping(MeasurementCheckpoint):
    """Interrupts a measurement at its `at`-th call of `put`, counted from 1."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.puts = 0
        self._at = at

    def put(self, name: str, array: np.ndarray) -> None:
        """Stores a copy of `array`; may raise `_Stopped`."""
        super().put(name, array)
        self.puts += 1
        if self.puts == self._at:
            raise _Stopped
