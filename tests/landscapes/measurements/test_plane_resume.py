"""Planes that are killed, interrupted or run out of memory go on to the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import snnrobust as sr
from snnrobust.results import checkpoint
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust_landscapes.loss.landscape import LossValues
from snnrobust_landscapes.loss.weights import WeightLandscape

ResultBytes = Callable[[Path], dict[str, bytes]]

POINTS = 7

RUN = """
import sys, time
import snnrobust as sr
from snnrobust.results import checkpoint
from snnrobust.testing import tiny_data, tiny_model
from snnrobust_landscapes.loss.weights import WeightLandscape

if "--slow" in sys.argv:
    loss = WeightLandscape.loss
    def slow(self, offset):
        time.sleep(0.05)
        return loss(self, offset)
    WeightLandscape.loss = slow
    checkpoint.MeasurementCheckpoint.__init__.__defaults__ = (None, 0.1)  # written more often, for a fast test
data = tiny_data()
sr.evaluate(tiny_model(), {"test": data, "train": data}, [sr.load("plane", points=7, second="adversarial")],
            out=sys.argv[1], evidence="none")
"""


def run(folder: Path, batch_size: int | None = None) -> sr.Report:
    data = tiny_data()
    task = sr.load("plane", points=POINTS, second="adversarial")
    splits = {"test": data, "train": data}
    return sr.evaluate(tiny_model(), splits, [task], out=folder, evidence="none", batch_size=batch_size)


def chunk_sizes(monkeypatch: pytest.MonkeyPatch, stop_at: int, error: BaseException) -> list[int]:
    """The samples at once of each point that is computed; raises `error` at one of them."""
    calls: list[int] = []
    loss = WeightLandscape.loss

    def counting(self: WeightLandscape, offset: torch.Tensor) -> LossValues:
        calls.append(len(self.chunks[0].y))
        if len(calls) == stop_at:
            raise error
        return loss(self, offset)

    monkeypatch.setattr(WeightLandscape, "loss", counting)
    return calls


def test_an_interrupted_plane_goes_on_where_it_stopped(
    result_bytes: ResultBytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole")
    calls = chunk_sizes(monkeypatch, 30, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "resumed")
    (path,) = (tmp_path / "resumed").rglob("*.partial.npz")
    with np.load(path) as kept:
        (values,) = (kept[name] for name in kept.files if name.startswith("chunks"))
    assert int((~np.isnan(values[:, 0])).sum()) == 29  # all that was computed
    calls.clear()
    calls.extend([0] * 1000)  # past the interruption
    run(tmp_path / "resumed")
    assert len(calls) - 1000 == POINTS**2 + 16 - 29  # and nothing twice
    assert result_bytes(tmp_path / "resumed") == result_bytes(tmp_path / "whole")


def test_memory_that_runs_out_makes_smaller_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tmp_path / "whole", batch_size=8)
    calls = chunk_sizes(monkeypatch, 30, MemoryError("none left"))
    halved = run(tmp_path / "halved", batch_size=8)
    assert calls == [8] * 30 + [4] * (POINTS**2 + 16)  # points of other chunks are computed again
    (surface,) = halved.artifacts
    assert "chunks of 4" in surface.caption
    ours, theirs = (each.to_frame().query("label == 'plane'")["value"].to_numpy() for each in (halved, whole))
    assert np.allclose(ours, theirs, atol=1e-6)


def test_a_damaged_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunk_sizes(monkeypatch, 30, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    (path,) = tmp_path.rglob("*.partial.npz")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(sr.StoreError, match="delete it and resume"):
        run(tmp_path)


@pytest.mark.slow
def test_a_killed_plane_resumes_to_the_same_bytes(
    result_bytes: ResultBytes, start_script: Callable[..., Any], kill_when: Callable[..., None], tmp_path: Path
) -> None:
    start = partial(start_script, RUN)

    def measured(folder: Path, pattern: str) -> list[Path]:
        return list((tmp_path / folder).rglob(pattern))

    process = start(tmp_path / "killed", "--slow")
    kill_when(process, lambda: bool(measured(Path("killed"), "measure.partial.npz")))
    assert measured(Path("killed"), "measure.partial.npz")
    assert not measured(Path("killed"), "measure.json")  # it was in the middle
    run(tmp_path / "killed")
    run(tmp_path / "whole")
    assert not measured(Path("killed"), "measure.partial.npz")
    assert result_bytes(tmp_path / "killed") == result_bytes(tmp_path / "whole")


def test_writes_are_seconds_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Any] = []
    monkeypatch.setattr(checkpoint, "write", lambda path, content: written.append(path))
    run(tmp_path)
    assert len(written) <= 3  # 65 points in less than a few seconds
