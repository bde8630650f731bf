"""Findings about curvature from stored records: bad ones fail, good ones pass, and no verdict depends on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnrobust import audit
from snnrobust.analysis.curvature_results import curvature_results
from snnrobust.audit.curvature import CONVERGED, SYMMETRIC
from snnrobust.report import Report
from snnrobust.results.curvature import SIZE_OFF, SIZE_WRONG, VALID_CORRELATION
from snnrobust.results.format_3 import upgrade_record
from snnrobust.results.records import Finding, Record

Find = Callable[..., dict[str, Finding]]

GGN, RADII = "Gauss-Newton matrix", (0.01, 0.03, 0.1)


def eigenvalues(*values: float, residual: float = 0.0, operator: str = GGN) -> list[Record]:
    return [
        Record(f"eigenvalue:{k}", value, value - residual, value + residual, threat=operator)
        for k, value in enumerate(values, 1)
    ]


def validity(where: str, *correlations: float, operator: str = GGN) -> list[Record]:
    return [
        Record(f"validity:{where}", value, count=64, strength=radius, threat=operator)
        for radius, value in zip(RADII, correlations, strict=True)
    ]


@pytest.fixture(scope="session")
def report_of(made: Any) -> Callable[..., Report]:
    """Makes a report of one measurement, "eig", on one model that classifies everything correctly."""

    def make(*records: Record, evidence: str = "basic") -> Report:
        typed = [Record(**upgrade_record(asdict(each))) for each in records]  # the fields that the text implies
        report: Report = made.report([], {}, np.ones(20), [made.model("lif")], {"eig": (typed, [])}, evidence=evidence)
        return report

    return make


@pytest.fixture(scope="session")
def findings(report_of: Callable[..., Report]) -> Find:
    """The findings about records of curvature; none may affect the verdict."""

    def find(*records: Record) -> dict[str, Finding]:
        found = [each for each in report_of(*records).findings if each.name.startswith("curvature-")]
        assert all(not each.required and not each.fatal for each in found)
        assert {(each.model, each.label) for each in found} <= {("lif", "eig")}
        assert len({each.name for each in found}) == len(found)
        return {each.name.removeprefix("curvature-"): each for each in found}

    return find


HEALTHY = (
    *eigenvalues(40.0, 18.0, residual=1e-4),
    *validity("random", 0.9, 0.95, 0.93),
    *validity("leading", 0.8, 0.9, 0.85),
    Record("asymmetry", 1e-7, threat=GGN),
    Record("plateau_width", 1e-3, threat="true loss"),
)


def test_healthy_curvature_passes_every_check(findings: Find) -> None:
    found = findings(*HEALTHY)
    assert {name: each.passed for name, each in found.items()} == {
        "validity": True,
        "symmetric": True,
        "converged": True,
    }
    assert found["validity"].value == 0.85


@pytest.mark.parametrize(
    ("random", "leading", "value"),
    [
        ((0.9, 0.3, 0.2), (0.9, 0.9, 0.9), 0.3),
        ((0.9, 0.9, 0.9), (0.1, 0.2, 0.9), 0.2),
        ((-0.9, -0.8, -0.7), (0.9, 0.9, 0.9), -0.8),
        ((0.49, math.nan, 0.49), (math.nan, math.nan, math.nan), 0.49),
    ],
)
def test_an_operator_that_does_not_predict_the_loss_fails(
    findings: Find, random: Any, leading: Any, value: float
) -> None:
    found = findings(*eigenvalues(1.0), *validity("random", *random), *validity("leading", *leading))["validity"]
    assert (found.passed, found.value, found.threshold) == (False, value, VALID_CORRELATION)
    assert GGN in found.why
    assert "'radius': ..." in found.remedy


def slopes(where: str, *values: float) -> list[Record]:
    return [replace(each, metric=f"validity_slope:{where}") for each in validity(where, *values)]


@pytest.mark.parametrize(
    ("random", "leading", "passed", "words"),
    [
        (1.0, 1.0, True, ""),
        (SIZE_OFF, 1 / SIZE_OFF, True, ""),
        (1.0, 8.0, True, "the size is off by a factor 8"),
        (0.05, 1.0, True, "the size is off by a factor 20"),
        (SIZE_WRONG, 8.0, True, "the size is off by a factor 1e+02"),
        (1.0, 1.01 * SIZE_WRONG, False, "the size or sign is wrong"),
        (0.99 / SIZE_WRONG, 1.0, False, "the size or sign is wrong"),
        (-1.0, 1.0, False, "the size or sign is wrong"),
        (1.0, 0.0, False, "the size or sign is wrong"),
        (math.nan, 1.0, True, ""),
    ],
)
def test_the_right_order_of_the_wrong_size(
    findings: Find, random: float, leading: float, passed: bool, words: str
) -> None:
    held = (*validity("random", 0.9, 0.9, 0.9), *validity("leading", 0.8, 0.8, 0.8))
    fit = (*slopes("random", *[random] * 3), *slopes("leading", *[leading] * 3))
    found = findings(*eigenvalues(1.0), *held, *fit)["validity"]
    assert (found.passed, found.value) == (passed, 0.8)
    assert words in found.why
    assert ("size" in found.why) == bool(words)


def test_the_slope_of_noise_does_not_decide(findings: Find) -> None:
    noise = [replace(each, metric="validity_ceiling:leading", value=0.1) for each in validity("leading", 0, 0, 0)]
    held = (*validity("random", 0.9, 0.9, 0.9), *validity("leading", 0.8, 0.8, 0.8), *slopes("leading", -1, -1, -1))
    assert findings(*held, *noise)["validity"].passed
    assert not findings(*held)["validity"].passed


def test_the_remedy_fits_the_operator_and_the_noise(findings: Find) -> None:
    noise = [Record("validity_ceiling:random", 0.2, strength=radius, threat="other") for radius in RADII]
    low = (*eigenvalues(1.0, operator="other"), *validity("random", 0.1, 0.1, 0.1, operator="other"))
    own = (*eigenvalues(1.0), *validity("random", 0.1, 0.1, 0.1))
    remedies = [findings(*records)["validity"].remedy for records in (low, own, (*low, *noise))]
    assert ["gauss-newton" in each for each in remedies] == [True, False, False]
    assert "the measured curvature is noise" in remedies[2]


def test_the_ranks_of_a_few_directions_say_nothing(findings: Find) -> None:
    few = [replace(each, count=4) for each in validity("leading", -1.0, -1.0, -1.0)]
    assert findings(*validity("random", 0.9, 0.9, 0.9), *few)["validity"].passed
    assert findings(*eigenvalues(1.0), *few)["validity"].passed is None


def test_one_bad_radius_of_three_does_not_fail(findings: Find) -> None:
    assert findings(*validity("random", 0.1, 0.8, 0.9), *validity("leading", 0.9, 0.9, 0.9))["validity"].passed


@pytest.mark.parametrize("records", [eigenvalues(1.0), [*eigenvalues(1.0), *validity("random", *[math.nan] * 3)]])
def test_curvature_that_was_not_held_against_the_loss_lacks_evidence(findings: Find, records: list[Record]) -> None:
    found = findings(*records)["validity"]
    assert found.passed is None
    assert math.isnan(found.value)


@given(st.lists(st.floats(-1, 1) | st.just(math.nan), min_size=3, max_size=3), st.floats(-1, 1))
def test_the_smaller_median_over_radii_decides(
    report_of: Callable[..., Report], random: list[float], leading: float
) -> None:
    (found,) = curvature_results(
        report_of(*validity("random", *random), *validity("leading", *[leading] * 3)).outcomes, "lif"
    )
    known = [each for each in random if not math.isnan(each)]
    expected = min([float(np.median(known)), leading] if known else [leading])
    assert found.lowest_validity.correlation == expected
    assert found.predicts == (expected >= VALID_CORRELATION)


def test_an_operator_that_claims_to_be_symmetric_and_is_not_fails(findings: Find) -> None:
    found = findings(*eigenvalues(1.0), Record("asymmetry", 2 * SYMMETRIC, threat=GGN))["symmetric"]
    assert (found.passed, found.threshold) == (False, SYMMETRIC)
    assert "drops terms" in found.why


def test_an_operator_that_makes_no_such_claim_is_not_asked(findings: Find) -> None:
    field = "Jacobian of the surrogate-gradient field, not symmetric"
    asked = (*eigenvalues(1.0, operator=field), Record("asymmetry", 0.9, threat=field))
    assert "symmetric" not in findings(*asked)
    assert "symmetric" not in findings(*eigenvalues(1.0))


@pytest.mark.parametrize(
    ("residual", "passed"), [(0.0, True), (40 * CONVERGED * 0.99, True), (40 * CONVERGED * 1.01, False)]
)
def test_an_eigenvalue_that_has_not_converged_fails(findings: Find, residual: float, passed: bool) -> None:
    found = findings(*eigenvalues(-40.0, 2.0, residual=residual))["converged"]
    assert found.passed == passed
    np.testing.assert_allclose(found.value, residual / 40)


def test_in_inputs_the_largest_over_samples_tells_whether_it_converged(findings: Find) -> None:
    inputs = f"{GGN}, inputs"
    means = eigenvalues(2.0, residual=1.0, operator=inputs)  # an interval over samples
    assert "converged" not in findings(*means)
    for residual, passed in ((0.01, True), (1.0, False)):
        (largest,) = eigenvalues(40.0, residual=residual, operator=inputs)
        found = findings(*means, replace(largest, metric="eigenvalue_max:1"))["converged"]
        assert (found.passed, found.value) == (passed, pytest.approx(residual / 40))


@pytest.mark.parametrize("low", [math.nan, 2.9])
def test_noise_of_draws_has_not_converged(findings: Find, low: float) -> None:
    operator = "smoothed, eigenvalues noise of 200 draws in 2,410 weights"
    (number,) = eigenvalues(3.0, residual=3.0 - low, operator=operator)
    found = findings(number)["converged"]
    assert found.passed is False
    assert "fewer draws" in found.why
    assert ("NaN" in found.why) == math.isnan(low)
    assert "draws" in found.remedy


def test_a_matrix_of_zeros_has_converged(findings: Find) -> None:
    assert findings(*eigenvalues(0.0, 0.0))["converged"].passed


def test_an_eigenvalue_without_an_interval_is_not_called_converged(findings: Find) -> None:
    assert "converged" not in findings(Record("eigenvalue:1", 3.0, threat=GGN))


def test_a_measurement_of_something_else_is_not_asked(findings: Find) -> None:
    assert findings(Record("loss_rise", 1.0, threat="plane"), Record("plateau_width", 1e-3, threat="true loss")) == {}


def test_each_operator_of_a_measurement_has_findings_and_what_belongs_to_none_stands_beside_all(
    report_of: Callable[..., Report],
) -> None:
    layer = f"{GGN}, layer fc1"
    report = report_of(*HEALTHY, *eigenvalues(3.0, residual=1.0, operator=layer))
    whole, block = curvature_results(report.outcomes, "lif")
    assert [whole.text, block.text] == [GGN, layer]
    assert len(whole.of("plateau_width")) == len(block.of("plateau_width")) == 1
    assert not block.of("asymmetry")
    failed = [each for each in report.findings if each.name == "curvature-converged" and not each.passed]
    assert [layer in each.why for each in failed] == [True]


def test_the_verdict_does_not_hang_on_curvature_but_the_page_shows_it(
    report_of: Callable[..., Report], tmp_path: Path
) -> None:
    bad = (*eigenvalues(1.0, residual=1.0), *validity("random", 0.1, 0.1, 0.1), Record("asymmetry", 1.0, threat=GGN))
    healthy, broken = report_of(*HEALTHY), report_of(*bad)
    assert sum(each.passed is False for each in broken.findings) == 3
    assert healthy.verdict == broken.verdict
    own = [[each for each in report.findings if each.name.startswith("curvature")] for report in (healthy, broken)]
    others = [Finding("other", True, 0.0, 0.0, "", "")]
    assert audit.verdict([*own[1], *others]) == audit.verdict([*own[0], *others]) == "trusted"
    page = broken.to_html(tmp_path / "report.html").read_text("utf-8")
    assert page.count("advice, not required for") >= 3
    assert "<strong>curvature-validity · eig</strong>" in page
    assert "not quoted" not in page[page.index('id="findings"') : page.index('id="reading"')]


def test_without_evidence_nothing_is_judged(report_of: Callable[..., Report]) -> None:
    assert report_of(*HEALTHY, evidence="none").findings == []
