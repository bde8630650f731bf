"""The page on curvature that is noise, has only the right order, or is known only as a bound."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from snnrobust.report import Report, landscape_plots, landscape_tables
from snnrobust.report.sections import sections
from snnrobust.report.tables import TableCell
from snnrobust.results.curvature import DIRECTIONS
from snnrobust.results.records import NAN, Record

SMOOTHED = "Hessian of the loss smoothed at sigma 0.03, eigenvalues noise of 200 draws in 2,410 weights"


def held(operator: str, slope: float = 1.0, correlation: float = 0.9) -> list[Record]:
    values = {"validity": correlation, "validity_slope": slope, "validity_ceiling": 0.97}
    return [
        Record(f"{metric}:{where}", value, count=64, strength=0.1, unit="filter-relative radius", threat=operator)
        for metric, value in values.items()
        for where in DIRECTIONS
    ]


@pytest.fixture(scope="session")
def report_of(measured_report: Callable[..., Report]) -> Callable[..., Report]:
    """Makes a report of these records."""
    return lambda *records: measured_report({"task": (list(records), [])})


@pytest.fixture(scope="session")
def cells(report_of: Callable[..., Report]) -> Callable[..., dict[str, list[TableCell]]]:
    """Rows of the table of these records: name -> value, badge, correlations, asymmetry, gap, plateau."""

    def rows_of(*records: Record) -> dict[str, list[TableCell]]:
        ((_, rows),) = landscape_tables.curvature_table(report_of(*records).outcomes).groups
        return {row.name.replace("\u00a0", " "): row.cells for row in rows}

    return rows_of


def test_an_eigenvalue_that_is_noise_has_no_error_and_no_good_badge(
    cells: Callable[..., dict[str, list[TableCell]]],
) -> None:
    trace = Record("trace", 5.0, 4.0, 6.0, threat=SMOOTHED)
    rows = cells(Record("eigenvalue:1", 3.0, NAN, NAN, threat=SMOOTHED), trace, *held(SMOOTHED))
    assert rows["Eigenvalue 1"][:2] == [TableCell("3"), TableCell("noise of its draws", badge="untrustworthy")]
    assert rows["Trace"][:2] == [TableCell("5", "± 1"), TableCell("predicts the measured loss", badge="trusted")]


def test_its_bars_are_hollow_and_the_caption_says_so(report_of: Callable[..., Report]) -> None:
    bare = [Record("eigenvalue:1", 3.0, threat=SMOOTHED), Record("eigenvalue:1", 9.0, 8.0, 10.0, threat="other")]
    for records, hollow in ((bare, True), (bare[1:], False)):
        report = report_of(*records)
        (section,) = [each for each in sections(report.outcomes, report.records) if each.title == "Curvature"]
        (picture,) = section.pictures
        assert ("hollow" in picture.caption.lower()) == hollow


@pytest.mark.parametrize("known", [True, False])
def test_values_without_an_error_are_drawn_hollow_and_without_a_whisker(known: bool) -> None:
    low, high = (2.0, 4.0) if known else (NAN, NAN)
    figure = landscape_plots.eigenvalues({"a": np.array([[3.0, low, high]])}, ["1"], "title", "Rank")
    (axes,) = figure.axes
    (bar,) = axes.containers[0].patches
    assert (bar.get_facecolor()[3] == 0) != known
    assert (len(axes.collections) > 0) == known


@pytest.mark.parametrize(
    ("slope", "text", "badge"),
    [
        (1.0, "predicts the measured loss", "trusted"),
        (8.0, "order right, size off 8-fold", "doubtful"),
        (0.05, "order right, size off 20-fold", "doubtful"),
        (200.0, "does not predict the measured loss", "untrustworthy"),
        (-1.0, "does not predict the measured loss", "untrustworthy"),
    ],
)
def test_the_right_order_of_the_wrong_size_is_marked(
    cells: Callable[..., dict[str, list[TableCell]]], slope: float, text: str, badge: str
) -> None:
    for records in ([Record("eigenvalue:1", 3.0, 2.0, 4.0, threat="matrix")], []):
        (row,) = cells(*records, *held("matrix", slope)).values()
        assert row[1] == TableCell(text, badge=badge)


@pytest.mark.parametrize(
    ("value", "low", "high", "expected"),
    [
        (0.002, 0.001, 0.004, TableCell("0.002", "0.001 to 0.004; 3 distinct losses")),
        (0.011, 0.002, math.inf, TableCell("≥ 0.011", "from 0.002 on; 3 distinct losses")),
        (0.0, 0.0, 3e-7, TableCell("< 3e-07", "3 distinct losses")),
        (0.002, NAN, NAN, TableCell("0.002", "3 distinct losses")),
    ],
)
def test_a_plateau_shows_its_interval_or_bound(
    cells: Callable[..., dict[str, list[TableCell]]], value: float, low: float, high: float, expected: TableCell
) -> None:
    number = Record("eigenvalue:1", 3.0, 2.0, 4.0, threat="matrix")
    width = Record("plateau_width", value, low, high, threat="loss in the hidden weights")
    rows = cells(number, width, Record("distinct_losses", 3.0, threat="loss in the hidden weights"))
    assert rows["Eigenvalue 1"][-1] == expected
