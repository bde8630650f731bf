"""Without a C++ compiler everything works, and the report gives the reason for slower searches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import snnrobust as sr
from snnrobust.kernels import build
from snnrobust.kernels.backends import backends
from snnrobust.kernels.native import Native
from snnrobust.report import Report
from snnrobust.testing.tiny import tiny_data, tiny_model

REASON = "expected a C++ compiler on the PATH, got none; install g++ or clang++ for a faster search"
CONFIG = """
[models.tiny]
factory = "factory:build"
wrap = { steps = 4 }
[data]
file = "data.npz"
[[tasks]]
name = "pgd"
epsilon = [0.05, 0.1]
steps = 3
"""


def test_a_run_without_a_compiler_finds_the_same_and_says_why_it_is_slower(native: Native, tmp_path: Path) -> None:
    factory = "from snnrobust.testing import tiny_model\n\ndef build():\n    return tiny_model().net\n"
    (tmp_path / "factory.py").write_text(factory)
    (tmp_path / "study.toml").write_text(CONFIG)
    data = tiny_data(count=20)
    np.savez(tmp_path / "data.npz", x=data.x.numpy(), y=data.y.numpy())
    environment = {name: value for name, value in os.environ.items() if name not in ("CXX", "PATH")}
    environment |= {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "snnrobust", "run", "study.toml", "--out", "plain"]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert f"Slower search: tiny: eager, {REASON}" in ran.stdout.replace("\n", " ")
    page = (tmp_path / "plain" / "report.html").read_text()
    assert f"<dt>Search</dt><dd>tiny: eager, {REASON}</dd>" in page
    assert not (tmp_path / "cache" / "snnrobust").exists()

    model = sr.wrap(tiny_model().net, steps=4, name="tiny")
    fast = sr.evaluate(model, (data.x, data.y), [sr.load("pgd", epsilon=[0.05, 0.1], steps=3)])
    assert fast.execution_paths("tiny")["pgd"][0].kernels.keys() == {"native"}
    plain = Report.load(tmp_path / "plain")
    for label, position in (("clean", 0), ("pgd", 0), ("pgd", 1)):
        cells = [report.cell("tiny", label, position) for report in (fast, plain)]
        assert np.array_equal(cells[0]["correct"], cells[1]["correct"])
    assert not np.all(cells[0]["correct"])  # the attack finds examples


def test_nothing_is_built_or_compiled_on_import(tmp_path: Path) -> None:
    code = "import snnrobust, sys; print('torch._inductor' in sys.modules)"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    check = f"{code}; import os; print('TORCHINDUCTOR_CACHE_DIR' in os.environ)"
    ran = subprocess.run([sys.executable, "-c", check], env=environment, capture_output=True, text=True, timeout=300)
    assert ran.stdout.split() == ["False", "False"], ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_compiler_that_fails_is_no_error_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "false")
    monkeypatch.setattr("snnrobust.kernels.native.library", build.library.__wrapped__)
    found, reason = backends.__wrapped__("cpu")
    assert found == ()
    assert "to build the native kernel, got: status 1; the search is slower without" in reason
