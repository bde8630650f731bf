"""A third-party optimiser: a separate distribution with an entry point."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = '''
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Momentum:
    """Iterative FGSM with momentum."""

    steps: int = 10
    decay: float = 1.0
    needs: ClassVar[str] = "gradient"

    def init(self, x0, threat, rng, index):
        return {"x": x0.clone(), "g": x0 * 0}

    def step(self, state, gradient, loss, x0, k, threat, rng, index):
        size = gradient.abs().flatten(1).mean(1).clamp_min(1e-30).reshape(-1, *[1] * (x0.ndim - 1))
        g = self.decay * state["g"] + gradient / size
        step = 2.5 * threat.epsilon / self.steps * threat.steepest(g)
        return {"x": threat.project(state["x"] + step, x0), "g": g}
'''
USE = """
import snnrobust as sr
from snnrobust.testing import check_plugin, tiny_data, tiny_model

check_plugin("stranger-momentum", steps=3)
report = sr.evaluate(tiny_model(), tiny_data(count=40), [sr.load("stranger-momentum", epsilon=[0.0, 0.2], steps=8)])
curve = report.curve("stranger-momentum")
assert curve.value[0] == 1.0 and curve.value[1] < 0.8, curve
assert report.records[-1].origin == "stranger 1.0"
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An installed distribution, as by pip: a module and its metadata on the path."""
    (tmp_path / "stranger.py").write_text(SOURCE)
    metadata = tmp_path / "stranger-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[snnrobust.optimisers]\nstranger-momentum = stranger:Momentum\n")
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def test_it_is_listed_passes_the_check_and_runs(environment: dict[str, str], tmp_path: Path) -> None:
    listing = [sys.executable, "-m", "snnrobust", "list", "--json"]
    listed = subprocess.run(listing, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert {"name": "stranger-momentum", "kind": "optimisers", "origin": "stranger 1.0"}.items() <= next(
        plugin for plugin in json.loads(listed.stdout) if plugin["name"] == "stranger-momentum"
    ).items()
    used = subprocess.run([sys.executable, "-c", USE], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert used.returncode == 0, used.stderr
