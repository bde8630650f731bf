"""`scripts/bench/bench_event_driven.py` runs, and measures what it says."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("bench_event_driven")


def test_it_runs(bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["bench_event_driven.py", "--quick"])
    bench.main()
    printed = capsys.readouterr().out
    assert all(f"| {spikes} | {form} |" in printed for spikes in (1, 30) for form in ("native", "eager", "ratio"))
    assert "| 30 | 80 | 1 |" in printed


def test_medians_are_interleaved_and_the_first_round_is_left_out(bench: ModuleType) -> None:
    order: list[str] = []

    def call(name: str) -> None:
        time.sleep(0.2 if name not in order else 0.002)
        order.append(name)

    took = bench.seconds({name: lambda name=name: call(name) for name in "ab"}, 3)
    assert order == list("abababab")
    assert max(took.values()) < 0.1


def test_the_peak_is_that_of_the_call(bench: ModuleType) -> None:
    bench.peak_mib(lambda: torch.ones(1000))
    found = bench.peak_mib(lambda: torch.ones(50, 2**20 // 4).sum())
    if found != found:
        pytest.skip("the system does not tell its peak memory")
    assert 40 < found < 80
