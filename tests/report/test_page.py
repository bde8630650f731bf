from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from snnrobust.report import Report
from snnrobust.report.tables import number, percent, strength
from snnrobust.report.terminal import terminal_table
from snnrobust.results.artifacts import Artifact, Surface
from snnrobust.results.records import Finding, Record
from snnrobust.results.store import FORMAT, Store

VOID = {"meta", "img", "br", "hr", "link", "input"}
EPSILONS = [1 / 255, 2 / 255, 4 / 255, 8 / 255]


def attack(
    label: str, norm: str = "linf", epsilons: list[float] = EPSILONS, source: str | None = None
) -> dict[str, Any]:
    factors = {"norm": norm, "objective": "CrossEntropy()", "gradient": "Own()", "restarts": 1, "eot": 1}
    factors |= {"source": source}
    plugin = "PGD(steps=20, step_size=None, random_start=True, l1_share=0.05)"
    return {**task(label, "attack"), "plugin": plugin, "strengths": epsilons, "attack": factors}


def ensemble(label: str, *members: str) -> dict[str, Any]:
    shared = {"norm": "linf", "eot": 1, "source": None}
    return {**attack(label), "plugin": "Standard()", "attack": shared, "members": [attack(each) for each in members]}


def noise(label: str, severities: list[float]) -> dict[str, Any]:
    return {**task(label, "noise"), "plugin": f"{label.capitalize()}()", "strengths": severities, "draws": 10}


def task(label: str, kind: str) -> dict[str, Any]:
    factors: dict[str, Any] = {"strengths": [], "attack": None, "draws": 1, "plugin": "None", "origin": "snnrobust"}
    factors |= {"members": []}
    return {"name": label, "label": label, "kind": kind, **factors}


def settings(name: str) -> dict[str, Any]:
    wrapped = {
        "layout": "TN",
        "steps": 8,
        "encoder": "repeat",
        "bounds": [0.0, 1.0],
        "domain": "real",
        "readout": "mean",
    }
    rest = {
        "decide": "argmax",
        "normalize": None,
        "stochastic": False,
        "framework": "spikingjelly",
        "parameters": 101770,
    }
    return {"name": name, "net": "Sequential", **wrapped, **rest, "fingerprint": "9f86d081884c7d659a2feaa0c55ad015"}


def run_of(models: list[str], tasks: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    packages = {"python": "3.12.1", "torch": "2.8.0", "packages": {"numpy": "2.1.0", "spikingjelly": "2.0.0"}}
    return {
        "format": FORMAT,
        "fingerprint": "d41d8cd98f00b204e9800998ecf8427e",
        "models": {name: settings(name) for name in models},
        "tasks": [task("clean", "clean"), *tasks],
        "data": {"name": "mnist5k", "samples": 200, "classes": 10, "fingerprint": "aa55" * 8},
        "seed": 0,
        "mode": "nested",
        "evidence": "none",
        "batch_size": 100,
        "environment": packages,
        "exhibits": {name: [] for name in models},
        "rows": [],
        "sources": {},
        "skipped": {model: {} for model in models},
        "quoted": [each["label"] for each in tasks if each["kind"] == "attack"],
        **more,
    }


def report_of(models: list[str], tasks: list[dict[str, Any]], samples: int = 200, **more: Any) -> Report:
    """A report with made-up outcomes: later models are more robust, later tasks are stronger."""
    store, rng = Store(None, run_of(models, tasks, **more)), np.random.default_rng(0)
    for m, model in enumerate(models):
        limit = rng.exponential(0.012 * (1 + m / 2), samples).astype(np.float32)
        right = rng.random(samples) < 0.95 - 0.02 * m
        tied = rng.random(samples) < 0.01 * m
        margin = np.where(tied, 0, np.where(right, 1, -1) * limit).astype(np.float32)
        ones, zeros = np.ones(samples, np.int32), np.zeros(samples, np.int32)
        clean = {"correct": right, "margin": margin, "tied": tied, "silent": ~right & tied, "forwards": ones}
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


def cascade(state: np.ndarray, members: int) -> dict[str, np.ndarray]:
    """Members that break in turns what is broken at all: the k-th of them every k-th sample."""
    turn = np.arange(len(state)) % members
    alone = np.where(state == 0, (turn[None] != np.arange(members)[:, None]).astype(np.int8), state)
    alone = np.where((state == 0) & (turn < np.arange(members)[:, None]), -1, alone).astype(np.int8)
    spent = 20 * (alone >= 0).astype(np.int32)
    member = np.where(state == 0, turn, np.where(state > 0, 0, -1)).astype(np.int16)
    return {"member": member, "member_correct": alone, "member_forwards": spent, "member_backwards": spent}


def activity(m: int) -> tuple[list[Record], list[Artifact]]:
    rng = np.random.default_rng(m)
    layers = ["conv1.lif", "conv2.lif", "fc.lif"] + (["recurrent.lif"] if m > 2 else [])
    records = [Record(f"firing_rate:{layer}", rng.uniform(0.02, 0.4), count=200) for layer in layers]
    records += [Record(f"silent_neurons:{layer}", rng.uniform(0, 0.5), count=200) for layer in layers]
    for step in range(1, 9):
        value = 0.95 - 0.7 * np.exp(-step / (1.5 + m / 3))
        records.append(Record("accuracy_at_step", value, value - 0.03, value + 0.03, 200, strength=step, unit="step"))
    records += [Record("synops", 123456.0 * (m + 1)), Record("macs", 98000.0)]
    return [*records, Record("energy_pj", 561910.4, threat="45 nm, 4.6 pJ a MAC (Horowitz 2014)")], []


def landscape(m: int, model: str) -> tuple[list[Record], list[Artifact]]:
    operator = "Hessian of the mean cross entropy, surrogate gradients, 1,000 training samples"
    records = [Record(f"eigenvalue:{i}", 40.0 / i + m, 39.0 / i, 41.0 / i + m, threat=operator) for i in (1, 2)]
    records += [Record("trace", 512.5, 480.0, 545.0, threat=operator), Record("flatness", 1.7, strength=0.5, unit="r")]
    grid = np.linspace(-1, 1, 21)
    bowl = (1 + m / 4) * (grid[None] ** 2 + 2 * grid[:, None] ** 2 + 0.4 * grid[None] * grid[:, None]) + 0.05
    values = {"loss": bowl, "accuracy": 0.97 * np.exp(-bowl)}
    axes = ("first direction / share of the weights", "second direction / share of the weights")
    return records, [Surface(grid, grid, values, axes, "Mean cross entropy on a random plane.", model, "plane")]


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


FULL: dict[str, Any] = {
    "tasks": [
        *(attack(label) for label in ("fgsm", "pgd", "torchattacks:MIFGSM")),
        noise("gaussian", [0.05, 0.1, 0.2, 0.4]),
        noise("uniform", [0.1, 0.2, 0.4, 0.8]),
        noise("salt-and-pepper", [0.01, 0.05, 0.1, 0.2]),
        task("activity", "measurement"),
        task("plane", "measurement"),
    ],
    "evidence": "basic",
    "notes": ["torchattacks is not installed: DeepFool was left out; pip install 'snnrobust[torchattacks]'"],
}


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


@pytest.fixture(scope="module")
def full() -> Report:
    return report_of(["lif", "no-leak", "soft reset"], **FULL)


@pytest.fixture(scope="module")
def page(full: Report, tmp_path_factory: pytest.TempPathFactory) -> Page:
    path = tmp_path_factory.mktemp("page") / "report.html"
    return Page(full.to_html(path).read_text(encoding="utf-8"))


def test_the_page_is_balanced_and_its_headings_are_in_order(page: Page) -> None:
    assert page.open == []
    ranks = [rank for rank, _ in page.headings]
    assert ranks[0] == 1
    assert ranks.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(ranks))
    assert page.all("html")[0]["lang"] == "en"
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))


def test_every_section_is_there_and_every_link_leads_to_one(page: Page) -> None:
    titles = [title for rank, title in page.headings if rank == 2]
    wanted = (
        "Summary,Notes,Findings,Noise,Surfaces,Curvature,Activity and energy,Other measurements,Compute cost,Settings"
    )
    assert set(wanted.split(",")) < set(titles)
    assert "Attacks: linf in [0, 1], real" in titles
    anchors = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {link["href"] for link in page.all("a")} == {f"#{anchor}" for anchor in anchors}


def test_the_page_needs_nothing_from_outside(page: Page) -> None:
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))
    assert not page.all("script")
    assert not page.all("link")
    assert not re.search(r"url\(|@import", page.text)


def test_every_picture_has_words(page: Page) -> None:
    pictures = page.all("img")
    assert len(pictures) == 4 + 3 + 6 + 3 + 3  # attacks, noise, surfaces (two each), eigenvalues, activity
    assert len(page.all("figcaption")) == len(page.all("figure")) == len(pictures)
    assert all(picture["alt"] and picture["width"] and picture["height"] for picture in pictures)


def test_every_table_says_what_its_headers_head(page: Page) -> None:
    assert len(page.all("caption")) == len(page.all("table")) > 8
    assert all(header["scope"] in ("col", "row", "rowgroup") for header in page.all("th"))


def test_the_numbers_of_the_report_are_on_the_page(full: Report, page: Page) -> None:
    curve = full.curve("pgd", "no-leak")
    assert f"{percent(curve.value[-1])}{100 * curve.low[-1]:.1f} to {100 * curve.high[-1]:.1f}" in page.text
    worst = full.worst_case("lif")
    assert worst.attribution["pgd"] > 0
    assert f"pgd {worst.attribution['pgd']}" in page.text
    assert "8/255" in page.text
    assert "zero-gradient" in page.text
    assert "torchattacks is not installed" in page.text


def test_a_finding_that_failed_stands_before_one_that_lacks_evidence_and_one_that_passed(page: Page) -> None:
    states = re.findall(r"[✗?✓] (failed|missing|passed) +", page.text.replace("\n", " "))
    assert {"failed", "missing", "passed"} == set(states)
    own = page.text[page.text.index("no-leak: ") :]
    assert own.index("✗ failed") < own.index("✓ passed")


def test_equal_reports_give_equal_bytes(full: Report, page: Page, tmp_path: Path) -> None:
    first = full.to_html(tmp_path / "a" / "report.html")
    second = report_of(full.models, **FULL).to_html(tmp_path / "b" / "report.html")
    assert first.read_bytes() == second.read_bytes()
    names = sorted(path.name for path in (tmp_path / "a" / "report_files").iterdir())
    assert len(names) == len(page.all("img"))
    for name in names:
        beside = (tmp_path / "a" / "report_files" / name).read_bytes()
        assert beside == (tmp_path / "b" / "report_files" / name).read_bytes()
        assert beside.startswith(b"\x89PNG")


def test_a_report_from_disk_gives_the_same_page(full: Report, tmp_path: Path) -> None:
    full.save(tmp_path / "run")
    loaded = Report.load(tmp_path / "run")
    seconds = re.compile(r"<td>[0-9.–]+</td></tr>")  # those of the last column of the compute table
    first, second = (each.to_html(tmp_path / "report.html").read_text("utf-8") for each in (full, loaded))
    assert seconds.sub("", first) == seconds.sub("", second)


def test_a_section_without_content_is_left_out(tmp_path: Path) -> None:
    bare = Page(report_of(["lif"], []).to_html(tmp_path / "report.html").read_text(encoding="utf-8"))
    assert [title for _, title in bare.headings] == [
        "Robustness of lif",
        "Summary",
        "Compute cost",
        "How to read this page",
        "Settings",
    ]
    assert not bare.all("img")
    assert "No evidence was collected" in bare.text
    assert not (tmp_path / "report_files").exists()


def test_one_model_has_all_its_attacks_in_one_picture(tmp_path: Path) -> None:
    report = report_of(["lif"], [attack("fgsm"), attack("pgd"), attack("pgd-l2", "l2", [0.5, 1.0])])
    page = Page(report.to_html(tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len(page.all("img")) == 2
    assert [title for _, title in page.headings if "Attacks" in title] == [
        "Attacks: linf in [0, 1], real",
        "Attacks: l2 in [0, 1], real",
    ]
    assert "Worst case over all attacks, linf" in page.text
    assert "Worst case over all attacks, l2" not in page.text


def test_the_last_iterate_is_shown_where_it_was_recorded(tmp_path: Path) -> None:
    report = report_of(["lif"], [attack("pgd")], mode="exhaustive")
    page = Page(report.to_html(tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "pgd, last iterate" in page.text
    assert "Last iterate counts only" in page.text


HOSTILE = "<script>alert('x')</script> $\\frac{ & [bold]"


@pytest.mark.parametrize("name", [HOSTILE, "../../outside", "_hidden", "n" * 300, "神经"])
def test_names_stay_names(name: str, tmp_path: Path) -> None:
    tasks = [attack(name), attack(f"{name}2"), noise(f"{name}3", [0.1]), *FULL["tasks"][-2:]]
    report = report_of([name, f"{name} b"], tasks, evidence="basic", notes=[name])
    folder = tmp_path / "inner" / "deep"
    page = Page(report.to_html(folder / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert not page.all("script")
    assert name in page.text
    written = {path.parent for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {folder, folder / "report_files"}
    assert name[:5] in printed(report)


def test_a_model_that_is_never_right_and_one_sample_still_give_a_page(tmp_path: Path) -> None:
    report = report_of(["lif"], [attack("pgd"), noise("gaussian", [0.0])], samples=1)
    report.clean("lif")["correct"][:] = False
    assert Page(report.to_html(tmp_path / "report.html").read_text(encoding="utf-8")).open == []


def test_models_of_several_domains_have_their_own_threat_models(tmp_path: Path) -> None:
    report = report_of(["real", "binary"], [attack("pgd"), attack("fgsm")])
    report.run["models"]["binary"]["domain"] = "binary"
    page = Page(report.to_html(tmp_path / "report.html").read_text(encoding="utf-8"))
    assert [title for _, title in page.headings if "Attacks" in title] == [
        "Attacks: linf in [0, 1], real",
        "Attacks: linf in [0, 1], binary",
    ]


def printed(report: Report, width: int = 140) -> str:
    console = Console(width=width, record=True, quiet=False, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(terminal_table(report.judged, report.records))
    return captured.get()


def test_the_terminal_shows_a_column_for_each_model_and_a_row_for_each_strength(full: Report) -> None:
    shown = printed(full, width=80)
    for part in (
        "lif",
        "no-leak",
        "soft reset",
        "pgd",
        "1/255",
        "8/255",
        "gaussian",
        "0.4",
        f"verdict: {full.verdict}",
    ):
        assert part in shown
    assert percent(full.curve("pgd", "lif").value[-1]).removesuffix(" %") in shown
    assert percent(full.curve("gaussian", "no-leak").value[-1]).removesuffix(" %") in shown


@pytest.mark.parametrize(
    ("value", "text"),
    [(8 / 255, "8/255"), (0.2, "0.2"), (0.0, "0"), (1.0, "1"), (51 / 255, "0.2"), (0.12345, "0.1235")],
)
def test_strengths_read_as_people_write_them(value: float, text: str) -> None:
    assert strength(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(float("nan"), "–"), (123456.0, "123,456"), (0.01234, "0.0123"), (0.0, "0")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text
