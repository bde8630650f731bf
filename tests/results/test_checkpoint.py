"""What a measurement keeps on the way: whole or absent on disk, copies in memory, handed to those that ask for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import snnrobust as sr
from snnrobust.errors import PluginError, StoreError
from snnrobust.evaluation.run_measurement import run_measurement
from snnrobust.plugin import Measurement, registry
from snnrobust.plugin.registry import PluginInfo
from snnrobust.plugin.task import Task
from snnrobust.results.checkpoint import MeasurementCheckpoint
from snnrobust.results.records import Record
from snnrobust.testing import conformance as testing
from snnrobust.testing.tiny import tiny_data, tiny_model


@dataclass(frozen=True)
class Counting:
    """Sums 1 + 2 + ... + 5 in steps that it keeps."""

    forgets: bool = False
    drifts: bool = False
    resumable: ClassVar[bool] = True
    steps: ClassVar[list[int]] = []

    def measure(self, model: Any, data: Any, rng: Any, kept: MeasurementCheckpoint) -> Iterable[Record]:
        held = kept.get("sum")
        total, first = (0.0, 1) if held is None else (float(held[0]), int(held[1]) + 1)
        if self.drifts and held is not None:
            total += 0.5
        for k in range(first, 6):
            self.steps.append(k)
            total += k
            if not self.forgets:
                kept.put("sum", np.array([total, k]))
        yield Record("sum", total)


def test_arrays_are_copies() -> None:
    kept, array = MeasurementCheckpoint(), np.zeros(2)
    kept.put("a", array)
    array[0] = 1.0
    held = kept.get("a")
    assert held is not None
    assert held[0] == 0.0
    held[1] = 1.0
    assert np.array_equal(kept.get("a"), [0.0, 0.0])  # type: ignore[arg-type]  # it is there


def test_what_was_put_is_there_for_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "measure.partial.npz"
    kept = MeasurementCheckpoint(path, every=1000.0)
    kept.put("a", np.array([1.0, np.nan]))
    assert not path.exists()  # it is not time yet
    kept.write()
    again = MeasurementCheckpoint(path)
    assert np.array_equal(again.get("a"), [1.0, np.nan], equal_nan=True)  # type: ignore[arg-type]  # it is there
    assert again.get("b") is None
    MeasurementCheckpoint(path, every=0.0).put("b", np.ones(1))
    third = MeasurementCheckpoint(path)
    assert third.get("a") is not None
    assert third.get("b") is not None


def test_it_is_written_on_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "measure.partial.npz"
    kept = MeasurementCheckpoint(path, every=1000.0)

    def interrupted() -> None:
        with kept.written():
            kept.put("a", np.ones(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert MeasurementCheckpoint(path).get("a") is not None


def test_nothing_new_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "measure.partial.npz"
    MeasurementCheckpoint(path).write()
    assert not path.exists()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "measure.partial.npz"
    path.write_bytes(b"no archive")
    with pytest.raises(StoreError, match=r"measure\.partial\.npz.*delete it"):
        MeasurementCheckpoint(path)


def test_only_what_is_resumable_is_handed_it() -> None:
    class Plain:
        def measure(self, model: Any, data: Any, rng: Any) -> Iterable[Record]:
            yield Record("plain", 1.0)

    assert [each.value for each in run_measurement(Plain(), None, None, None, MeasurementCheckpoint())] == [1.0]  # type: ignore[arg-type, union-attr]  # it looks at none of them


def test_a_run_goes_on_from_what_was_kept_and_leaves_none_of_it(tmp_path: Path) -> None:
    def evaluate(folder: Path) -> sr.Report:
        task = Task("counting", "counting", "measurement", "", Counting())
        return sr.evaluate(tiny_model(), tiny_data(), [task], out=folder, evidence="none")

    Counting.steps.clear()
    evaluate(tmp_path / "whole")
    assert Counting.steps == [1, 2, 3, 4, 5]
    assert not list(tmp_path.rglob("*.partial.npz"))
    (tmp_path / "resumed").mkdir()
    (tmp_path / "resumed" / "run.json").write_bytes((tmp_path / "whole" / "run.json").read_bytes())
    path = tmp_path / "resumed" / "cells" / "tiny" / "counting" / "measure.partial.npz"
    kept = MeasurementCheckpoint(path)
    kept.put("sum", np.array([6.0, 3]))
    kept.write()
    Counting.steps.clear()
    evaluate(tmp_path / "resumed")
    assert Counting.steps == [4, 5]
    assert not path.exists()
    ours, theirs = (tmp_path / each / "cells/tiny/counting" for each in ("resumed", "whole"))
    for name in ("measure.json", "measure.npz"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({}, None), ({"forgets": True}, "store intermediate results"), ({"drifts": True}, "after an interruption")],
)
def test_conformance_of_resumable_measurements(
    settings: dict[str, bool], message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "create", lambda name, **parameters: Counting(**parameters))
    monkeypatch.setattr(registry, "plugin_info", lambda name: PluginInfo("counting", "measurements", "here", "tests"))
    assert isinstance(Counting(), Measurement)
    if message is None:
        testing.check_plugin("counting", **settings)
        return
    with pytest.raises(PluginError, match=message):
        testing.check_plugin("counting", **settings)


def test_progress_is_told() -> None:
    told: list[tuple[str, float]] = []
    kept = MeasurementCheckpoint(on_put=lambda what, share: told.append((what, share)))
    kept.put("loss", np.array([1.0, np.nan, np.nan, 2.0]))
    assert told == [("loss", 0.5)]
