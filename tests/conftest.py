"""What tests of several packages share: reports written by hand, attacks from a function, runs that are stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pytest
from torch import Tensor

import snnrobust as sr
from snnrobust import audit
from snnrobust.common.random import Draws
from snnrobust.plugin import State
from snnrobust.plugin.task import AttackSettings, Task
from snnrobust.report import Report
from snnrobust.results.artifacts import Artifact
from snnrobust.results.records import Finding, Record
from snnrobust.results.store import FORMAT, Store
from snnrobust.testing.tiny import tiny_model
from snnrobust.threat_models.threat_model import Norm, ThreatModel
from snnrobust_attacks.ensembles import Standard

#: A module whose factory builds the tiny net, with a pause of .3 s at each pass while there is a file "slow".
SLOW_FACTORY = """
import pathlib, time
import torch
from snnrobust.testing import tiny_model

class Slow(torch.nn.Module):
    def forward(self, x):
        time.sleep(0.3 if pathlib.Path("slow").exists() else 0)
        return x

def build():
    return torch.nn.Sequential(Slow(), tiny_model().net)
"""


@pytest.fixture
def slow_factory() -> str:
    return SLOW_FACTORY


class Handmade:
    """Settings and outcomes as an evaluation would have stored them."""

    @staticmethod
    def model(name: str, **more: Any) -> dict[str, Any]:
        settings = {"net": "Net", "bounds": [0.0, 1.0], "domain": "real", "stochastic": False, "parameters": 100}
        return {"name": name, "fingerprint": f"weights of {name}", **settings, **more}

    @staticmethod
    def task(label: str, kind: str, **more: Any) -> dict[str, Any]:
        """A task without factors of an attack."""
        named = {"name": label, "label": label, "kind": kind, "origin": "test", "plugin": "Test()", "parameters": {}}
        return {**named, "strengths": [], "attack": None, "members": [], "draws": 1, **more}

    @staticmethod
    def attack(label: str, strengths: Sequence[float] = (0.1,), **more: Any) -> dict[str, Any]:
        factors = {"norm": "linf", "objective": "Margin()", "gradient": "Own()", "restarts": 1, "eot": 1}
        factors |= {"source": None}
        factors |= {name: more.pop(name) for name in list(factors) if name in more}
        task = {"name": "pgd", "label": label, "kind": "attack", "origin": "test", "plugin": "PGD(steps=20)"}
        task |= {"parameters": {"steps": 20}}
        return {**task, "strengths": list(strengths), "attack": factors, "members": [], "draws": 1, **more}

    def ensemble(self, label: str, members: Sequence[str], strengths: Sequence[float] = (0.1,)) -> dict[str, Any]:
        parts = [self.attack(member, strengths) for member in members]
        shared = {"norm": "linf", "eot": 1, "source": None}
        return {
            **self.attack(label, strengths),
            "plugin": "Fast()",
            "parameters": {},
            "attack": shared,
            "members": parts,
        }

    @staticmethod
    def cell(*alone: Sequence[int], **more: Any) -> dict[str, np.ndarray]:
        """An attack's outcomes from those of its members [M, N]: 1 right, 0 broken, -1 not tried."""
        each = np.array(alone, dtype=np.int8)
        tried = each >= 0
        correct = np.where((each == 0).any(axis=0), 0, np.where(tried.any(axis=0), 1, -1)).astype(np.int8)
        zeros = np.zeros(each.shape[1], dtype=np.int32)
        cell = {
            "correct": correct,
            "voted": correct,
            "margin": np.where(correct > 0, 0.5, np.where(correct == 0, -0.5, np.nan)),
            "distance": np.full(each.shape[1], 0.01),
            "last_correct": correct,
            "unchanged": zeros,
            "disagreements": zeros,
            "member": np.where(correct < 0, -1, (each == 0).argmax(axis=0)),
            "member_correct": each,
            "member_forwards": 20 * tried.astype(np.int32),
            "member_backwards": 10 * tried.astype(np.int32),
            **{name: np.array(value) for name, value in more.items()},
        }
        return {"forwards": cell["member_forwards"].sum(0), "backwards": cell["member_backwards"].sum(0), **cell}

    def run(
        self, models: Sequence[dict[str, Any]], tasks: Sequence[dict[str, Any]], samples: int, **more: Any
    ) -> dict[str, Any]:
        """What a store knows of a run of these tasks, beside which stands clean accuracy."""
        wrapped = {each["name"]: each for each in models}
        return {
            "format": FORMAT,
            "fingerprint": "",
            "models": wrapped,
            "data": {"name": "numbers", "samples": samples},
            "tasks": [self.task("clean", "clean", plugin="None"), *tasks],
            "seed": 0,
            "mode": "nested",
            "evidence": "none",
            "environment": {},
            "evidence_tasks": {name: [] for name in wrapped},
            "rows": [],
            "sources": {},
            "skipped": {name: {} for name in wrapped},
            "quoted": [task["label"] for task in tasks if task["kind"] == "attack"],
            **more,
        }

    def report(
        self,
        tasks: list[dict[str, Any]],
        cells: dict[str, list[dict[str, np.ndarray]]] | dict[tuple[str, str], list[dict[str, np.ndarray]]],
        clean: Sequence[int],
        models: Sequence[dict[str, Any]] | None = None,
        measured: Mapping[str, tuple[list[Record], list[Artifact]]] | None = None,
        **more: Any,
    ) -> Report:
        """A report; cells by label where there is one model, else by (model, label); measured things of each model by
        label, which are tasks of their own."""
        tasks = [*tasks, *({**self.attack(each, ()), "kind": "measurement"} for each in measured or {})]
        run = self.run(models or [self.model("m")], tasks, len(clean), **more)
        wrapped = run["models"]
        store, right = Store(None, run), np.array(clean, dtype=bool)
        for model in wrapped:
            first = {"correct": right, "voted": right, "margin": np.where(right, 1.0, -1.0)}
            store.save_cell(model, "clean", 0, {**first, "tied": right & False, "silent": right & False}, 0.0)
            store.save_findings(model, [])
        for key, found in cells.items():
            model, label = key if isinstance(key, tuple) else (next(iter(wrapped)), key)
            for k, cell in enumerate(found):
                store.save_cell(model, label, k, cell, 0.0)
        for label, (records, artifacts) in (measured or {}).items():
            for model in wrapped:
                named = [replace(each, model=model, label=label) for each in artifacts]
                store.save_measurement(model, label, records, named, 1.0)
        return Report(store)

    @staticmethod
    def with_findings(report: Report, findings: list[Finding]) -> Report:
        """The report with these findings instead of its own."""
        claims = audit.claims(report.outcomes, findings)
        report.audit = audit.AuditResult(report.outcomes, findings, claims, audit.overall(findings, claims))
        return report


@dataclass(frozen=True)
class Moves:
    """An optimiser that starts at the input and goes where a function says."""

    name: str
    steps: int
    move: Callable[[Any], Tensor] = field(repr=False)  # of what `step` is given, and of `steps`
    needs: Literal["gradient", "loss"] = field(repr=False)

    norms: ClassVar[tuple[Norm, ...]] = get_args(Norm)

    def init(self, x0: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> State:
        return {"x": x0.clone()}

    def step(
        self,
        state: State,
        gradient: Tensor | None,
        loss: Tensor,
        x0: Tensor,
        k: Tensor,
        threat: ThreatModel,
        rng: Draws,
        index: Tensor,
    ) -> State:
        at = SimpleNamespace(x=state["x"], gradient=gradient, x0=x0, k=k, threat=threat, steps=self.steps)
        return {"x": self.move(at)}


class Calls:
    """Counts the calls of a method, and interrupts one of them."""

    def __init__(self, stop_at: int) -> None:
        self.count, self.stop_at = 0, stop_at

    def watch(self, owner: type, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        original = getattr(owner, name)

        def counted(*arguments: Any, **more: Any) -> Any:
            self.count += 1
            if self.count == self.stop_at:
                raise KeyboardInterrupt
            return original(*arguments, **more)

        monkeypatch.setattr(owner, name, counted)


@pytest.fixture(scope="session")
def made() -> Handmade:
    """Settings, outcomes, runs and reports written by hand."""
    return Handmade()


@pytest.fixture(scope="session")
def optimiser() -> Callable[..., Moves]:
    """Makes optimisers from functions."""

    def make(
        name: str, move: Callable[[Any], Tensor], steps: int, needs: Literal["gradient", "loss"] = "gradient"
    ) -> Moves:
        return Moves(name, steps, move, needs)

    return make


@pytest.fixture(scope="session")
def attack_task() -> Callable[..., Task]:
    """Makes the task of a plugin that is not installed: an attack on the cross entropy, in L-inf by default."""

    def make(name: str, plugin: object, *radii: float, gradient: str = "own", norm: Norm = "linf") -> Task:
        factors = AttackSettings(norm, sr.create("cross_entropy"), sr.create(gradient), 1, 1)
        return Task(name, name, "attack", "test", plugin, radii, factors)

    return make


@pytest.fixture(scope="session")
def poisson_model() -> Callable[..., sr.SpikingModel]:
    """Makes the tiny net with a stochastic encoder."""

    def make(steps: int = 4) -> sr.SpikingModel:
        return sr.wrap(tiny_model().net, steps=steps, encoder="poisson", name="poisson")

    return make


@pytest.fixture
def standard_members(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[dict[str, Any]]], None]:
    """Puts other members in the place of those of the ensemble "standard", which the audit takes its rivals from."""

    def put(members: list[dict[str, Any]]) -> None:
        monkeypatch.setattr(Standard, "members", lambda self, norm: members)

    return put


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Calls]:
    """Counts the calls of a method of a class, and interrupts the one that is asked for."""

    def watch(owner: type, name: str, stop_at: int = -1) -> Calls:
        calls = Calls(stop_at)
        calls.watch(owner, name, monkeypatch)
        return calls

    return watch


@pytest.fixture
def forbid(monkeypatch: pytest.MonkeyPatch) -> Callable[[type, str, str], None]:
    """Lets a test fail, with these words, where a method of a class is called."""

    def put(owner: type, name: str, words: str) -> None:
        def never(*_: object, **__: object) -> None:
            raise AssertionError(words)

        monkeypatch.setattr(owner, name, never)

    return put


@pytest.fixture(scope="session")
def result_bytes() -> Callable[[Path], dict[str, bytes]]:
    """Reads the result files of a run by relative path; timings apart."""

    def read(folder: Path) -> dict[str, bytes]:
        files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "timings.json")
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    return read


@pytest.fixture
def start_script(tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """Runs the text of a script in a process of its own, with a folder and options as its arguments."""

    def start(script: str, folder: Path, *options: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", script, str(folder), *options], cwd=tmp_path, env=os.environ)

    return start


@pytest.fixture(scope="session")
def kill_when() -> Callable[[subprocess.Popen[bytes], Callable[[], bool]], None]:
    """Kills a process as soon as a condition holds, or after a minute."""

    def kill(process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)

    return kill
