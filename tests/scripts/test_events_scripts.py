"""`scripts/bench/bench_events.py` runs; the annealing and the table of `scripts/studies/binary_rivals.py` are right."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.data import Dataset

SCRIPTS = Path(__file__).parents[2] / "scripts"


def script(path: str) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, SCRIPTS / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_benchmark_of_events_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = script("bench/bench_events.py")
    assert module.events(3, 250).flatten(1).sum(dim=1).tolist() == [250.0] * 3
    monkeypatch.setattr("sys.argv", ["bench_events.py", "--quick"])
    module.main()
    printed = capsys.readouterr().out
    assert printed.count("| `retiming`, 3 steps |") == len(module.BUDGETS)
    assert "| `sda` | l0 <= 200 | 2 |" in printed
    assert "| 250 |" in printed


class Weighted(nn.Module):
    """Two logits whose difference is a weighted sum."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 2] of inputs [T, N, F]."""
        score = (x * self.weight).sum(dim=(0, 2)) + 3.5
        return torch.stack([score, -score], dim=1)


def test_annealing_ends_at_the_fewest_flips() -> None:
    """With weights -1 the net is wrong from four spikes on; the start has ten, two of them of no use."""
    module = script("studies/binary_rivals.py")
    weight = -torch.ones(3, 1, 4)
    weight[2, 0, 2:] = 0
    model = sr.wrap(Weighted(weight), encoder=None, domain="binary", out_layout="N")
    data = Dataset.of(torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.long))
    start = torch.ones(2, 3, 4)
    start[:, 0, :2] = 0
    result, _ = module.anneal(model, data, start, np.array([True, True]), 400)
    assert result.flips.tolist() == [4.0, 4.0]
    assert module.strict(model, start, data.y).all()


def test_a_mean_with_samples_that_were_not_broken_is_a_lower_bound() -> None:
    module = script("studies/binary_rivals.py")
    result = module.Result(np.array([2.0, 8.0, np.inf, 4.0]), np.array([True, True, True, False]), (10.0, 5.0), 1.0)
    assert module.row("x", result, (2, 4, 8)) == "| x | 0.25 | 0.50 | 0.75 | 0.50 | >= 5.50 | 10 / 5 |"


def test_a_row_is_kept_for_a_run_that_goes_on(tmp_path: Path) -> None:
    module = script("studies/binary_rivals.py")
    result = module.Result(np.array([2.0, np.inf]), np.array([True, False]), (10.0, 5.0), 1.5)

    def again() -> None:
        raise AssertionError("searched twice")

    module.kept(tmp_path / "rows", "`standard`, another seed", lambda: (result, torch.eye(2)))
    held, examples = module.kept(tmp_path / "rows", "`standard`, another seed", again)
    assert (held.flips.tolist(), held.strict.tolist(), held.passes) == ([2.0, np.inf], [True, False], (10.0, 5.0))
    assert examples.equal(torch.eye(2))
