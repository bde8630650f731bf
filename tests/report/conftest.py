"""Fixtures for tests of reports: reports with made-up outcomes, and the contents of pages and the terminal."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from snnrobust.report import Report
from snnrobust.results.artifacts import Artifact, Surface
from snnrobust.results.format_3 import upgrade_record
from snnrobust.results.records import Finding, Record
from snnrobust.results.store import Store

VOID = {"meta", "img", "br", "hr", "link", "input"}
EPSILONS = (1 / 255, 2 / 255, 4 / 255, 8 / 255)


class Page(HTMLParser):
    """The open tags, headings, links and pictures of a page, and whether its tags balance."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[tuple[int, str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and re.fullmatch("h[1-6]", self.open[-1]):
            self.headings.append((int(self.open[-1][1]), data.strip()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def cascade(state: np.ndarray, members: int) -> dict[str, np.ndarray]:
    """Outcomes of members that break the broken samples in turns."""
    turn = np.arange(len(state)) % members
    alone = np.where(state == 0, (turn[None] != np.arange(members)[:, None]).astype(np.int8), state)
    alone = np.where((state == 0) & (turn < np.arange(members)[:, None]), -1, alone).astype(np.int8)
    spent = 20 * (alone >= 0).astype(np.int32)
    member = np.where(state == 0, turn, np.where(state > 0, 0, -1)).astype(np.int16)
    return {"member": member, "member_correct": alone, "member_forwards": spent, "member_backwards": spent}


def typed(*records: Record) -> list[Record]:
    """The records with the typed fields that their text implies."""
    return [Record(**upgrade_record(asdict(each))) for each in records]


def activity(m: int) -> tuple[list[Record], list[Artifact]]:
    rng = np.random.default_rng(m)
    layers = ["conv1.lif", "conv2.lif", "fc.lif"] + (["recurrent.lif"] if m > 2 else [])
    records = [
        Record(f"firing_rate:{layer}", rng.uniform(0.02, 0.4), count=200, quantity="firing_rate", layer=layer)
        for layer in layers
    ]
    records += [
        Record(f"silent_neurons:{layer}", rng.uniform(0, 0.5), count=200, quantity="silent_neurons", layer=layer)
        for layer in layers
    ]
    for step in range(1, 9):
        value = 0.95 - 0.7 * np.exp(-step / (1.5 + m / 3))
        records.append(Record("accuracy_at_step", value, value - 0.03, value + 0.03, 200, strength=step, unit="step"))
    records += [Record("synops", 123456.0 * (m + 1)), Record("macs", 98000.0)]
    return typed(*records, Record("energy_pj", 561910.4, threat="45 nm, 4.6 pJ a MAC (Horowitz 2014)")), []


def landscape(m: int, model: str) -> tuple[list[Record], list[Artifact]]:
    operator = "Hessian of the mean cross entropy, surrogate gradients, 1,000 training samples"
    records = [Record(f"eigenvalue:{i}", 40.0 / i + m, 39.0 / i, 41.0 / i + m, threat=operator) for i in (1, 2)]
    records += [Record("trace", 512.5, 480.0, 545.0, threat=operator), Record("flatness", 1.7, strength=0.5, unit="r")]
    grid = np.linspace(-1, 1, 21)
    bowl = (1 + m / 4) * (grid[None] ** 2 + 2 * grid[:, None] ** 2 + 0.4 * grid[None] * grid[:, None]) + 0.05
    values = {"loss": bowl, "accuracy": 0.97 * np.exp(-bowl)}
    axes = ("first direction / share of the weights", "second direction / share of the weights")
    return typed(*records), [Surface(grid, grid, values, axes, "Mean cross entropy on a random plane.", model, "plane")]


def findings(m: int, model: str) -> list[Finding]:
    why, remedy = "largest relative change of the logits when the batch is reversed", "check layout="
    return [
        Finding("order", True, 1e-7, 1e-5, why, remedy, fatal=True, model=model),
        Finding(
            "ties", m < 2, 0.01 * m, 0.01, "share of samples with a tie", "read strict accuracy", False, model=model
        ),
        Finding("zero-gradient", m != 1, 0.2, 0.01, "share of samples without a gradient", "use atan", model=model),
        Finding("reset", None if m == 3 else True, float("nan"), 0.0, "state carried over", "pass reset=", model=model),
    ]


class MadeUp:
    """Tasks, and reports on them with made-up outcomes: later models are more robust, later tasks are stronger."""

    def __init__(self, made: Any) -> None:
        self.made = made
        self.measurements = [self.task("activity", "measurement"), self.task("plane", "measurement")]
        #: Three attacks, three kinds of noise and two measurements, with findings and a note.
        self.everything: dict[str, Any] = {
            "tasks": [
                *(self.attack(label) for label in ("fgsm", "pgd", "torchattacks:MIFGSM")),
                self.noise("gaussian", [0.05, 0.1, 0.2, 0.4]),
                self.noise("uniform", [0.1, 0.2, 0.4, 0.8]),
                self.noise("salt-and-pepper", [0.01, 0.05, 0.1, 0.2]),
                *self.measurements,
            ],
            "evidence": "basic",
            "notes": ["torchattacks is not installed: DeepFool was left out; pip install 'snnrobust[torchattacks]'"],
        }

    def task(self, label: str, kind: str, **more: Any) -> dict[str, Any]:
        return dict(self.made.task(label, kind, **{"origin": "snnrobust", "plugin": "None", **more}))

    def attack(self, label: str, norm: str = "linf", epsilons: tuple[float, ...] = EPSILONS) -> dict[str, Any]:
        plugin = "PGD(steps=20, step_size=None, random_start=True, l1_share=0.05)"
        factors = {"norm": norm, "objective": "CrossEntropy()", "name": label, "origin": "snnrobust"}
        return dict(self.made.attack(label, epsilons, plugin=plugin, **factors))

    def noise(self, label: str, severities: list[float]) -> dict[str, Any]:
        return self.task(label, "noise", plugin=f"{label.capitalize()}()", strengths=severities, draws=10)

    def model(self, name: str) -> dict[str, Any]:
        wrapped = {"layout": "TN", "steps": 8, "encoder": "repeat", "readout": "mean", "decide": "argmax"}
        rest = {"normalize": None, "framework": "spikingjelly", "parameters": 101770}
        fingerprint = "9f86d081884c7d659a2feaa0c55ad015"
        return dict(self.made.model(name, net="Sequential", fingerprint=fingerprint, **wrapped, **rest))

    def run(self, models: list[str], tasks: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        packages = {"python": "3.12.1", "torch": "2.8.0", "packages": {"numpy": "2.1.0", "spikingjelly": "2.0.0"}}
        data = {"name": "mnist5k", "samples": 200, "classes": 10, "fingerprint": "aa55" * 8}
        settings = {"fingerprint": "d41d8cd98f00b204e9800998ecf8427e", "data": data, "batch_size": 100}
        described = [self.model(name) for name in models]
        return dict(self.made.run(described, tasks, 200, **settings, environment=packages, chunk=None, **more))

    def report(self, models: list[str], tasks: list[dict[str, Any]], samples: int = 200, **more: Any) -> Report:
        store, rng = Store(None, self.run(models, tasks, **more)), np.random.default_rng(0)
        for m, model in enumerate(models):
            limit = rng.exponential(0.012 * (1 + m / 2), samples).astype(np.float32)
            right = rng.random(samples) < 0.95 - 0.02 * m
            tied = rng.random(samples) < 0.01 * m
            margin = np.where(tied, 0, np.where(right, 1, -1) * limit).astype(np.float32)
            ones, zeros = np.ones(samples, np.int32), np.zeros(samples, np.int32)
            clean = {"correct": right, "voted": right, "margin": margin, "tied": tied, "silent": ~right & tied}
            clean |= {"forwards": ones}
            store.save_cell(model, "clean", 0, clean, 0.4)
            for t, each in enumerate(tasks):
                for k, value in enumerate(each["strengths"]):
                    if each["kind"] == "attack":
                        reach = value * rng.uniform(0.5 + t / 4, 1, samples)
                        state = np.where(right, limit > reach, -1).astype(np.int8)
                        cell = {"correct": state, "margin": np.where(right, limit - reach, np.nan).astype(np.float32)}
                        cell |= {"last_correct": np.maximum(state, 0), "unchanged": np.zeros(samples, np.int8)}
                        cell |= {"forwards": 20 * ones, "backwards": 20 * ones, "disagreements": zeros}
                        cell |= {"distance": np.where(state == 0, value, np.nan), "voted": state}
                        cell |= cascade(state, max(1, len(each["members"])))
                        store.save_cell(model, each["label"], k, cell, 3.0)
                    elif each["kind"] == "noise":
                        share = right * rng.beta(8, 1 + 12 * value / (1 + m / 3), samples)
                        cell = {"fraction": share.astype(np.float32), "forwards": 10 * ones, "backwards": zeros}
                        store.save_cell(model, each["label"], k, cell, 1.0)
                if each["kind"] == "measurement":
                    records, surfaces = activity(m) if each["label"] == "activity" else landscape(m, model)
                    store.save_measurement(model, each["label"], records, surfaces, 2.0)
            store.save_findings(model, findings(m, model) if more.get("evidence", "none") != "none" else [])
        return Report(store)


@pytest.fixture(scope="session")
def made_up(made: Any) -> MadeUp:
    """Tasks, and reports on them with made-up outcomes."""
    return MadeUp(made)


@pytest.fixture(scope="session")
def full(made_up: MadeUp) -> Report:
    """A made-up report with every kind of content, on three models; read-only."""
    return made_up.report(["lif", "no-leak", "soft reset"], **made_up.everything)


@pytest.fixture(scope="session")
def measured_report(made: Any) -> Callable[..., Report]:
    """Makes reports of measurements alone: label -> (records, artifacts), on each of the models."""

    def make(measured: dict[str, tuple[list[Record], list[Artifact]]], *models: str) -> Report:
        full = {label: (typed(*records), artifacts) for label, (records, artifacts) in measured.items()}
        report: Report = made.report([], {}, np.ones(50), [made.model(each) for each in models or ("m",)], full)
        return report

    return make


@pytest.fixture
def html(tmp_path: Path) -> Callable[..., str]:
    """Writes the page of a report into a folder, by default the test's, and reads it."""

    def read(report: Report, folder: Path = tmp_path) -> str:
        return report.to_html(folder / "report.html").read_text(encoding="utf-8")

    return read


@pytest.fixture
def page_of(html: Callable[..., str]) -> Callable[..., Page]:
    """Parses the page of a report."""

    def read(*report_and_folder: Any) -> Page:
        return Page(html(*report_and_folder))

    return read


@pytest.fixture(scope="session")
def page(full: Report, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of the full report."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    return Page(full.to_html(path).read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def printed() -> Callable[..., str]:
    """Prints tables on a terminal with these settings."""

    def show(*tables: Any, **settings: Any) -> str:
        console = Console(**settings)
        with console.capture() as captured:
            console.print(*tables)
        return captured.get()

    return show
