"""A bisection that was stopped goes on where it stopped, to the same result bytes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import snnrobust as sr
from snnrobust.results.store import Store
from snnrobust.search.queries import ModelQueries
from snnrobust.testing.tiny import tiny_data, tiny_model

ResultBytes = Callable[[Path], dict[str, bytes]]

RADII = [0.02, 0.05, 0.1, 0.15, 0.2]
MEMBERS: list[dict[str, Any]] = [
    {"name": "fgsm", "label": "first"},
    {"name": "pgd", "label": "second", "steps": 3, "gradient": "atan", "restarts": 2},
]


def evaluate(folder: Path) -> sr.Report:
    task = sr.load("union", epsilon=RADII, adaptive=MEMBERS)
    return sr.evaluate(tiny_model(), tiny_data(count=20), [task], out=folder, batch_size=8, mode="bisect")


@pytest.mark.parametrize("share", [0.1, 0.35, 0.6, 0.8, 0.98])
def test_an_interrupted_bisection_goes_on_where_it_stopped(
    share: float, counted: Callable[..., Any], result_bytes: ResultBytes, tmp_path: Path
) -> None:
    calls = counted(ModelQueries, "_evaluate")
    report = evaluate(tmp_path / "whole")
    assert any(report.cell("tiny", "union", k)["audited"].any() for k in range(len(RADII)))
    whole = calls.count
    calls.count, calls.stop_at = 0, round(share * whole)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path / "resumed")
    assert list((tmp_path / "resumed").rglob("*.partial.npz"))
    calls.count, calls.stop_at = 0, -1
    evaluate(tmp_path / "resumed")
    assert calls.count < whole - 0.5 * share * whole  # most of what was done is not done again
    assert result_bytes(tmp_path / "resumed") == result_bytes(tmp_path / "whole")
    assert (
        sr.Report.load(tmp_path / "resumed")
        .to_frame()
        .drop(columns="seconds")
        .equals(report.to_frame().drop(columns="seconds"))
    )


@pytest.mark.parametrize("kept", [1, 3])
def test_a_run_that_stopped_between_its_cells_goes_on(
    kept: int,
    counted: Callable[..., Any],
    result_bytes: ResultBytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = counted(ModelQueries, "_evaluate")
    evaluate(tmp_path / "whole")
    save, saved = Store.save_cell, 0

    def failing(store: Store, model: str, label: str, *more: Any) -> None:
        nonlocal saved
        if label == "union":
            saved += 1
            if saved > kept:
                raise KeyboardInterrupt
        save(store, model, label, *more)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "save_cell", failing)
        with pytest.raises(KeyboardInterrupt):
            evaluate(tmp_path / "resumed")
    calls.count = 0
    evaluate(tmp_path / "resumed")
    beforehand = len(MEMBERS)  # each member is tried out before anything starts
    assert calls.count == beforehand
    assert result_bytes(tmp_path / "resumed") == result_bytes(tmp_path / "whole")


SLOW_RUN = """
import sys, time
import snnrobust as sr
from snnrobust.evaluation import attack_cell
from snnrobust.search.queries import ModelQueries
from snnrobust.testing import tiny_data, tiny_model

attack_cell.SAVE_EVERY = 0.1
if "--slow" in sys.argv:
    gradient = ModelQueries.gradient
    def slow(self, *arguments):
        time.sleep(0.02)
        return gradient(self, *arguments)
    ModelQueries.gradient = slow
sr.evaluate(tiny_model(), tiny_data(count=40), [sr.load("pgd", epsilon=[0.02, 0.05, 0.1, 0.15, 0.2], steps=6)],
            out=sys.argv[1], batch_size=4, mode="bisect")
"""


@pytest.mark.slow
@pytest.mark.parametrize("partial", [1, 4])
def test_a_killed_bisection_resumes_to_the_same_bytes(
    partial: int,
    start_script: Callable[..., Any],
    kill_when: Callable[..., None],
    result_bytes: ResultBytes,
    tmp_path: Path,
) -> None:
    start = functools.partial(start_script, SLOW_RUN)
    assert start(tmp_path / "whole").wait(timeout=120) == 0
    process = start(tmp_path / "killed", "--slow")
    kill_when(process, lambda: len(list((tmp_path / "killed").rglob("pgd/*.partial.npz"))) >= partial)
    assert not list((tmp_path / "killed").rglob("pgd/?.npz"))
    assert list((tmp_path / "killed").rglob("pgd/?.partial.npz"))
    assert start(tmp_path / "killed").wait(timeout=120) == 0
    assert result_bytes(tmp_path / "killed") == result_bytes(tmp_path / "whole")
