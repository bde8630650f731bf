"""Runs in a folder: read instead of computed again, gone on with where they stopped, and kept apart from others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import snnrobust as sr
from snnrobust.search.queries import ModelQueries
from snnrobust.testing.tiny import tiny_data, tiny_model

ResultBytes = Callable[[Path], dict[str, bytes]]

EPSILONS = [0.0, 0.05, 0.1, 0.2]


def test_a_finished_run_is_read_not_computed_again(result_bytes: ResultBytes, tmp_path: Path) -> None:
    tasks = [sr.load("pgd", epsilon=EPSILONS, steps=3), "activity"]
    first = sr.evaluate(tiny_model(), tiny_data(), tasks, out=tmp_path)
    bytes_before = result_bytes(tmp_path)
    again = sr.evaluate(tiny_model(), tiny_data(), tasks, out=tmp_path)
    assert result_bytes(tmp_path) == bytes_before
    loaded = sr.Report.load(tmp_path)
    for report in (again, loaded):
        assert report.findings == first.findings
        assert report.to_frame().equals(first.to_frame())


def test_save_and_load_round_trip(tmp_path: Path) -> None:
    report = sr.evaluate(tiny_model(), tiny_data(), [sr.load("pgd", epsilon=EPSILONS, steps=3), "activity"])
    report.save(tmp_path / "saved")
    loaded = sr.Report.load(tmp_path / "saved")
    assert loaded.to_frame().equals(report.to_frame())
    assert loaded.verdict == report.verdict
    assert np.array_equal(loaded.margins("pgd"), report.margins("pgd"), equal_nan=True)


def test_another_run_in_the_folder_is_refused_and_left_alone(result_bytes: ResultBytes, tmp_path: Path) -> None:
    sr.evaluate(tiny_model(), tiny_data(), ["clean"], out=tmp_path)
    before = result_bytes(tmp_path)
    with pytest.raises(sr.StoreError, match="another run"):
        sr.evaluate(tiny_model(), tiny_data(), ["clean"], seed=1, out=tmp_path)
    assert result_bytes(tmp_path) == before


def test_models_that_only_their_outputs_tell_apart_are_other_runs(tmp_path: Path) -> None:
    net, data = tiny_model().net, tiny_data()
    readouts = [lambda out, _: out.mean(dim=1), lambda out, _: out[:, 0]]
    sr.evaluate(sr.wrap(net, steps=4, readout=readouts[0]), data, ["clean"], out=tmp_path)
    sr.evaluate(sr.wrap(net, steps=4, readout=readouts[0]), data, ["clean"], out=tmp_path)
    with pytest.raises(sr.StoreError, match="other outputs"):
        sr.evaluate(sr.wrap(net, steps=4, readout=readouts[1]), data, ["clean"], out=tmp_path)


def test_an_interrupted_cell_goes_on_where_it_stopped(
    result_bytes: ResultBytes, counted: Callable[..., Any], tmp_path: Path
) -> None:
    data = tiny_data(count=40)
    tasks = [sr.load("pgd", epsilon=EPSILONS, steps=6, restarts=2)]
    sr.evaluate(tiny_model(), data, tasks, out=tmp_path / "whole", batch_size=4)

    model = tiny_model()
    calls = counted(ModelQueries, "gradient", stop_at=25)
    with pytest.raises(KeyboardInterrupt):
        sr.evaluate(model, data, tasks, out=tmp_path / "resumed", batch_size=4)
    assert list((tmp_path / "resumed").rglob("*.partial.npz"))
    calls.stop_at = -1
    sr.evaluate(model, data, tasks, out=tmp_path / "resumed", batch_size=4)
    assert result_bytes(tmp_path / "resumed") == result_bytes(tmp_path / "whole")


SLOW_RUN = """
import sys, time
import snnrobust as sr
from snnrobust.search.queries import ModelQueries
from snnrobust.testing import tiny_data, tiny_model

if "--slow" in sys.argv:
    gradient = ModelQueries.gradient
    def slow(self, *arguments):
        time.sleep(0.02)
        return gradient(self, *arguments)
    ModelQueries.gradient = slow
sr.evaluate(tiny_model(), tiny_data(count=40), [sr.load("pgd", epsilon=[0.0, 0.05, 0.1, 0.2], steps=6)],
            out=sys.argv[1], batch_size=4)
"""


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_same_bytes(
    result_bytes: ResultBytes, start_script: Callable[..., Any], kill_when: Callable[..., None], tmp_path: Path
) -> None:
    start = partial(start_script, SLOW_RUN)
    assert start(tmp_path / "whole").wait(timeout=120) == 0
    process = start(tmp_path / "killed", "--slow")
    kill_when(process, lambda: bool(list((tmp_path / "killed").rglob("pgd/1.npz"))))
    assert len(result_bytes(tmp_path / "killed")) < len(result_bytes(tmp_path / "whole"))
    assert start(tmp_path / "killed").wait(timeout=120) == 0
    assert result_bytes(tmp_path / "killed") == result_bytes(tmp_path / "whole")
