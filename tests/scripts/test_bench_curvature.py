"""`scripts/bench/bench_curvature.py` on a small net, and its tables from known numbers."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

SCRIPTS = Path(__file__).parents[2] / "scripts" / "bench"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The modules of the benchmark, which import each other by name."""
    pytest.importorskip("pyhessian", reason="the baseline: pip install 'snnrobust[pyhessian]'")
    pytest.importorskip("sklearn", reason="needs real digits: pip install 'snnrobust[data]'")
    monkeypatch.syspath_prepend(str(SCRIPTS))
    names = ("bench_curvature", "bench_curvature_tables")
    return SimpleNamespace(**{name: importlib.import_module(name) for name in names})


def test_quick(scripts: SimpleNamespace, tmp_path: Path) -> None:
    import typer

    app = typer.Typer()
    app.command()(scripts.bench_curvature.main)
    done = CliRunner().invoke(app, ["--quick", "--out", str(tmp_path / "bench.json")], catch_exceptions=False)
    assert done.exit_code == 0
    found = json.loads((tmp_path / "bench.json").read_text())
    (row,) = found["eigenvalues"]
    assert row["ours"]["reached"]
    assert row["pyhessian"]["reached"]
    assert row["pyhessian"]["products"] > row["ours"]["products"] > 1
    assert max(each["ours"] / each["eigsh"] for each in found["products"]) <= 1.2
    (traced,) = found["traces"]
    assert traced["apart"] < 5  # standard errors of its mean
    assert "memory" not in found
    assert "| mlp | 1 |" in done.output


def test_a_net_that_is_not_known(scripts: SimpleNamespace) -> None:
    import typer

    app = typer.Typer()
    app.command()(scripts.bench_curvature.main)
    assert CliRunner().invoke(app, ["--net", "rnn"]).exit_code == 2


def test_tables_show_medians_and_what_was_not_reached(scripts: SimpleNamespace) -> None:
    def row(seed: int, ratio: float, reached: bool) -> dict[str, object]:
        ours = {"products": 10, "reached": True}
        return {"net": "conv", "k": 5, "seed": seed, "ratio": ratio, "ours": ours,
                "pyhessian": {"products": 100, "reached": reached}}  # fmt: skip

    result = {"accurate": 1e-4, "products": [], "traces": []}
    result["eigenvalues"] = [row(0, 9.0, True), row(1, 8.0, False), row(2, 30.0, True)]
    result["memory"] = [{"samples": 10, "mib": 100.0}, {"samples": 100, "mib": 104.0}]
    shown = scripts.bench_curvature_tables.tables(result)
    assert "| conv | 5 | 9.0 | 8.0 | 30.0 | 10 | 100 | 2 of 3 |" in shown
    assert "Peak memory over 100 samples is 1.04 times that over 10" in shown
