"""What searches ran on, as the page and the terminal say it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from snnrobust import cli
from snnrobust.report import Report
from snnrobust.report.searches import searches

SEARCH = {"a": "native kernels at 3 of 3 spiking nodes", "b": "eager, <no compiler>", "c": "eager, <no compiler>"}


def report(made: Any, search: dict[str, str] | None = None, **more: Any) -> Report:
    models = [made.model(name) for name in SEARCH]
    cells = {(name, "pgd"): [made.cell([1, 0])] for name in SEARCH}
    found: Report = made.report([made.attack("pgd")], cells, [1, 1], models, **more)
    for name, way in (search or {}).items():
        found._store.save_way(name, "pgd", way)
    return found


def test_tasks_that_are_searched_otherwise_are_named(made: Any) -> None:
    found = report(made, search=SEARCH)
    found._store.save_way("a", "pdsg", "eager, PDSG() is no derivative")
    assert searches(found.outcomes)[:2] == [f"a (pgd): {SEARCH['a']}", "a (pdsg): eager, PDSG() is no derivative"]
    assert searches(found.outcomes, slow=True) == [f"b, c: {SEARCH['b']}"]


def test_models_that_are_searched_alike_share_a_line(made: Any) -> None:
    assert searches(report(made, search=SEARCH).outcomes) == [f"a: {SEARCH['a']}", f"b, c: {SEARCH['b']}"]
    assert searches(report(made, search=SEARCH).outcomes, slow=True) == [f"b, c: {SEARCH['b']}"]


def test_a_run_that_did_not_record_it_has_nothing_to_say(made: Any) -> None:
    assert searches(report(made).outcomes) == []


def test_the_page_says_it_and_the_terminal_only_what_is_slower(
    made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = report(made, search=SEARCH, batch_size=8)
    page = found.to_html(tmp_path / "report.html").read_text()
    assert "<dt>Search</dt><dd>a: native kernels at 3 of 3 spiking nodes; b, c: eager, &lt;no compiler&gt;</dd>" in page
    cli._show(found, tmp_path / "report.html", as_json=False)
    printed = capsys.readouterr().out
    assert "Slower search: b, c: eager, <no compiler>" in printed
    assert "native kernels" not in printed
