"""What the terminal shows of a report."""

from __future__ import annotations

from collections.abc import Callable

from snnrobust.report import Report
from snnrobust.report.tables import percent
from snnrobust.report.terminal import terminal_table


def test_the_terminal_shows_a_column_for_each_model_and_a_row_for_each_strength(
    full: Report, printed: Callable[..., str]
) -> None:
    shown = printed(terminal_table(full.audit, full.records), width=80)
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
