"""The section of the page about time steps, drawn from stored records and profiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import snnrobust as sr
from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.measurements.accuracy_over_time import AccuracyOverTime
from snnrobust.report import Report
from snnrobust.report.section import Section
from snnrobust.report.sections import sections
from snnrobust.results.artifacts import Artifact, Profile
from snnrobust.results.records import Record
from snnrobust.testing.tiny import tiny_data, tiny_model


@pytest.fixture(scope="module")
def measured() -> tuple[list[Record], list[Artifact]]:
    data = EvaluationData(tiny_data(count=12), None, None, 5)
    found = list(AccuracyOverTime().measure(tiny_model(), data, Draws(0, "over-time")))
    return [each for each in found if isinstance(each, Record)], [
        each for each in found if not isinstance(each, Record)
    ]


def by_title(report: Report) -> dict[str, Section]:
    return {each.title: each for each in sections(report.outcomes, report.records)}


def test_pictures_and_numbers_of_the_time_steps(
    measured_report: Callable[..., Report], measured: tuple[list[Record], list[Artifact]]
) -> None:
    found = by_title(measured_report({"accuracy-over-time": measured}, "first", "second"))
    assert "Surfaces" not in found  # its profiles are drawn here alone
    assert "Activity and energy" not in found
    assert "Other measurements" not in found
    section = found["Time steps"]
    accuracy, margin = section.pictures
    records, (profile,) = measured
    assert isinstance(profile, Profile)
    wanted = [100 * each.value for each in records if each.quantity == "accuracy_at_step"]
    curves = [each for each in accuracy.figure.axes[0].get_lines() if len(np.asarray(each.get_ydata())) == 4]
    assert any(np.asarray(each.get_ydata()).tolist() == wanted for each in curves)
    upper, lower = margin.figure.axes
    assert np.asarray(upper.get_lines()[0].get_ydata()).tolist() == profile.values["mean margin"].tolist()
    assert np.asarray(lower.get_lines()[0].get_ydata()).tolist() == (100 * profile.values["ties"]).tolist()
    assert (upper.get_ylabel(), lower.get_ylabel()) == ("Mean margin (logits)", "Ties (%)")
    assert [text.get_text().strip("\u200b") for text in margin.figure.legends[0].get_texts()] == ["first", "second"]
    assert all(each.alt and each.caption for each in section.pictures)
    (table,) = section.tables
    assert {row.cells[1].text for _, rows in table.groups for row in rows} == {"settling_step", "t95"}


def test_accuracy_by_step_of_activity_is_in_the_same_section(full: Report) -> None:
    found = by_title(full)
    assert [each.name for each in found["Time steps"].pictures] == ["accuracy-at-step activity"]
    assert not any("accuracy-at-step" in each.name for each in found["Activity and energy"].pictures)


def test_a_report_without_steps_has_no_such_section(made_up: Any) -> None:
    assert "Time steps" not in by_title(made_up.report(["lif"], [made_up.attack("pgd")]))


def test_a_run_from_end_to_end(page_of: Callable[..., Any]) -> None:
    task = sr.Task("over-time", "accuracy-over-time", "measurement", "snnrobust", AccuracyOverTime(samples=8))
    report = sr.evaluate(tiny_model(), tiny_data(), [task], evidence="none", progress=False)
    page = page_of(report)
    assert (2, "Time steps") in page.headings
    assert len(page.all("img")) == 2
    assert {each.count for each in report.records if each.quantity == "accuracy_at_step"} == {8}
