"""The execution paths of searches, on the page and in the terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import snnrobust as sr
from snnrobust import cli
from snnrobust.report import Report
from snnrobust.report.searches import searches
from snnrobust.results.execution_path import ExecutionPath
from snnrobust.testing.tiny import tiny_data, tiny_model

SEARCH = {
    "a": ExecutionPath(True, kernels={"native": 3}, nodes=3),
    "b": ExecutionPath(False, "<no compiler>", nodes=3),
    "c": ExecutionPath(False, "<no compiler>", nodes=3),
}


@pytest.fixture
def report(made: Any) -> Callable[..., Report]:
    """Makes a report of three models, with the execution paths of their searches."""

    def make(search: dict[str, ExecutionPath] | None = None, **more: Any) -> Report:
        models = [made.model(name) for name in SEARCH]
        cells = {(name, "pgd"): [made.cell([1, 0])] for name in SEARCH}
        found: Report = made.report([made.attack("pgd")], cells, [1, 1], models, **more)
        for name, path in (search or {}).items():
            found._store.save_execution_path(name, "pgd", path)
        return found

    return make


def test_tasks_are_named_if_their_paths_differ(report: Callable[..., Report]) -> None:
    found = report(search=SEARCH)
    found._store.save_execution_path("a", "pdsg", ExecutionPath(False, "PDSG() is no derivative", nodes=3))
    assert searches(found.outcomes)[:2] == [f"a (pgd): {SEARCH['a']}", "a (pdsg): eager, PDSG() is no derivative"]
    assert searches(found.outcomes, slow=True) == [f"b, c: {SEARCH['b']}"]


def test_models_with_equal_paths_share_a_line(report: Callable[..., Report]) -> None:
    assert searches(report(search=SEARCH).outcomes) == [f"a: {SEARCH['a']}", f"b, c: {SEARCH['b']}"]
    assert searches(report(search=SEARCH).outcomes, slow=True) == [f"b, c: {SEARCH['b']}"]


def test_a_run_without_recorded_paths_has_no_lines(report: Callable[..., Report]) -> None:
    assert searches(report().outcomes) == []


def test_the_page_has_all_paths_and_the_terminal_only_slow_ones(
    report: Callable[..., Report],
    html: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = report(search=SEARCH, batch_size=8)
    page = html(found)
    assert "<dt>Search</dt><dd>a: native kernels at 3 of 3 spiking nodes; b, c: eager, &lt;no compiler&gt;</dd>" in page
    cli._print_report(found, tmp_path / "report.html", as_json=False)
    printed = capsys.readouterr().out
    assert "Slower search: b, c: eager, <no compiler>" in printed
    assert "native kernels" not in printed


def test_the_former_name_gives_sentences_and_warns() -> None:
    report = sr.evaluate(tiny_model(), tiny_data(), [sr.load("fgsm", epsilon=0.1)], evidence="none", progress=False)
    (path,) = report.execution_paths()["fgsm"]
    with pytest.warns(DeprecationWarning, match=r"Report\.ways is now Report\.execution_paths"):
        assert report.ways("tiny") == {"fgsm": [str(path)]}
