"""The shipped conformance checks, over every installed plugin; and plugins that must not pass them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import snnrobust as sr
from snnrobust.common.random import Draws
from snnrobust.plugin import State, registry
from snnrobust.testing import check_plugin
from snnrobust.testing.tiny import tiny_model
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust_attacks.corruptions.gaussian import Gaussian
from snnrobust_attacks.optimisers.pgd import PGD

SMALL: dict[str, dict[str, Any]] = {
    "pgd": {"steps": 3},
    "retiming": {"steps": 3},
    "spikefool": {"steps": 2, "inner": 4},
    "gumbel-events": {"steps": 3},
    "patch": {"steps": 2, "samples": 4},
    "universal": {"steps": 2, "samples": 4},
    "event-pattern": {"steps": 2},
    "accuracy-over-time": {"samples": 8},
    "apgd": {"steps": 5},
    "sa-pgd": {"steps": 5},
    "momentum": {"steps": 3},
    "square": {"steps": 20},
    "random-search": {"steps": 5},
    "flips": {"steps": 5},
    "minimum-norm": {"steps": 8},
    "hop-skip-jump": {"steps": 2, "queries": 8, "starts": 2},
    "threshold-margins": {"samples": 8},
    "event-margins": {"samples": 8},
    "plane": {"points": 3, "samples": 8},
    "line": {"points": 3, "samples": 8},
    "activity": {"samples": 8},
    "pyhessian": {"samples": 8, "probes": 3, "iterations": 5, "directions": 8, "draws": 2},
    "eigenvalues": {"samples": 8, "directions": 8, "draws": 2},
    "sharpness": {"samples": 8, "directions": 4, "steps": 4},
    "trace": {"samples": 8, "directions": 8, "draws": 2, "products": 16},
    "density": {"samples": 8, "directions": 8, "draws": 2, "probes": 2, "steps": 5},
}
NEEDS = {
    "torchattacks": "torchattacks",
    "pyhessian": "pyhessian",
    **dict.fromkeys(("blur", "brightness", "contrast", "rotation", "occlusion"), "torchvision"),
}


@pytest.mark.parametrize("name", [plugin.name for plugin in sr.plugins()])
def test_every_installed_plugin_conforms(name: str, tmp_path: Path) -> None:
    if name in NEEDS and find_spec(NEEDS[name]) is None:
        pytest.skip(f"needs the extra {NEEDS[name]}: pip install 'snnrobust[all]'")
    if name == "torchattacks":
        check_plugin("torchattacks:FGSM")
        check_plugin("torchattacks:MIFGSM", steps=3)
        check_plugin("torchattacks:Square", n_queries=10)
        return
    if name == "connectivity":
        torch.save(tiny_model().net.state_dict(), tmp_path / "end.pt")
        check_plugin(name, checkpoint=str(tmp_path / "end.pt"), points=3)
        return
    check_plugin(name, **SMALL.get(name, {}))


@dataclass(frozen=True)
class Careless(PGD):
    """Draws from torch's global generator."""

    def init(self, x0: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> State:
        return {"x": threat.project(x0 + threat.epsilon * (2 * torch.rand_like(x0) - 1), x0)}


@dataclass(frozen=True)
class Overshoot(PGD):
    """Leaves the ball."""

    def step(self, state: State, *arguments: Any) -> State:
        return {"x": (state["x"] * 0.0 + 1.0).clamp(0, 1)}


@dataclass
class Thawed:
    """A dataclass that is not frozen."""

    steps: int = 3
    needs = "gradient"

    def init(self, *arguments: Any) -> State:
        return {}

    def step(self, *arguments: Any) -> State:
        return {}


@dataclass(frozen=True)
class Unkeyed(Gaussian):
    """Noise that depends on the batch."""

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        return x + severity * x.mean() + severity * rng.normal(index, x.shape[1:])


@dataclass(frozen=True)
class Loud:
    """An objective that is NaN at ties."""

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        top = logits.topk(2, dim=1).values
        return (top[:, 0] - top[:, 1]) / (top[:, 0] - top[:, 1])


@pytest.mark.parametrize(
    ("kind", "plugin", "error", "message"),
    [
        ("optimisers", Careless(steps=3), sr.PluginError, "random state|every batch size"),
        ("optimisers", Overshoot(steps=3), sr.ViolationError, "linf distance"),
        ("optimisers", Thawed(), sr.PluginError, "frozen dataclass"),
        ("corruptions", Unkeyed(), sr.PluginError, "does not depend on the batch"),
        ("objectives", Loud(), sr.PluginError, "finite values and gradients at ties"),
    ],
)
def test_plugins_that_break_their_promises_are_caught(
    kind: str, plugin: Any, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = registry.PluginInfo("bad", kind, "test", "test")
    monkeypatch.setattr(registry, "create", lambda name, **_: plugin)
    monkeypatch.setattr(registry, "plugin_info", lambda name: info)
    with pytest.raises(error, match=message):
        check_plugin("bad")
