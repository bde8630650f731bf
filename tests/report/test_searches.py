"""What searches ran on, as the page and the terminal say it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snnrobust import cli
from snnrobust.report import Report
from snnrobust.report.searches import searches

SEARCH = {"a": "native kernels at 3 of 3 spiking nodes", "b": "eager, <no compiler>", "c": "eager, <no compiler>"}


@pytest.fixture
def report(made: Any) -> Callable[..., Report]:
    """Makes a report of three models, with what their searches ran on."""

    def make(search: dict[str, str] | None = None, **more: Any) -> Report:
        models = [made.model(name) for name in SEARCH]
        cells = {(name, "pgd"): [made.cell([1, 0])] for name in SEARCH}
        found: Report = made.report([made.attack("pgd")], cells, [1, 1], models, **more)
        for name, way in (search or {}).items():
            found._store.save_way(name, "pgd", way)
        return found

    return make


def test_tasks_that_are_searched_otherwise_are_named(report: Callable[..., Report]) -> None:
    found = report(search=SEARCH)
    found._store.save_way("a", "pdsg", "eager, PDSG() is no derivative")
    assert searches(found.outcomes)[:2] == [f"a (pgd): {SEARCH['a']}", "a (pdsg): eager, PDSG() is no derivative"]
    assert searches(found.outcomes, slow=True) == [f"b, c: {SEARCH['b']}"]


def test_models_that_are_searched_alike_share_a_line(report: Callable[..., Report]) -> None:
    assert searches(report(search=SEARCH).outcomes) == [f"a: {SEARCH['a']}", f"b, c: {SEARCH['b']}"]
    assert searches(report(search=SEARCH).outcomes, slow=True) == [f"b, c: {SEARCH['b']}"]


def test_a_run_that_did_not_record_it_has_nothing_to_say(report: Callable[..., Report]) -> None:
    assert searches(report().outcomes) == []


def test_the_page_says_it_and_the_terminal_only_what_is_slower(
    report: Callable[..., Report],
    html: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = report(search=SEARCH, batch_size=8)
    page = html(found)
    assert "<dt>Search</dt><dd>a: native kernels at 3 of 3 spiking nodes; b, c: eager, &lt;no compiler&gt;</dd>" in page
    cli._show(found, tmp_path / "report.html", as_json=False)
    printed = capsys.readouterr().out
    assert "Slower search: b, c: eager, <no compiler>" in printed
    assert "native kernels" not in printed
