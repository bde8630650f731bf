"""How a report treats outcomes assumed by bisection: robust, and marked as assumed next to every number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from snnrobust.analysis.records import _filled_from_next
from snnrobust.errors import InputError
from snnrobust.report import Report
from snnrobust.report.claims import claims_table
from snnrobust.report.sections import sections
from snnrobust.report.terminal import terminal_claims_table, terminal_table
from snnrobust.results.records import Finding

RADII = (0.1, 0.2, 0.3)
#: Five samples, attacked at .2 first: one is robust, others are broken at .2, .1 and .3, and one is wrong when clean.
OUTCOMES = [[-1, 1, 0, -1, -1], [1, 0, 0, 1, -1], [1, -1, -1, 0, -1]]
ASSUMED = [[1, 0, 0, 1, 0], [0] * 5, [0] * 5]
CLEAN = [1, 1, 1, 1, 0]
ROBUST = [[1, 1, 0, 1, 0], [1, 0, 0, 1, 0], [1, 0, 0, 0, 0]]


def cells(made: Any, outcomes: Any = OUTCOMES, assumed: Any = ASSUMED, audited: Any = None) -> list[dict[str, Any]]:
    asked = np.zeros_like(np.array(assumed)) if audited is None else np.array(audited)
    return [
        made.cell(row, assumed=np.array(marks, dtype=bool), audited=np.array(each, dtype=bool))
        for row, marks, each in zip(outcomes, assumed, asked, strict=True)
    ]


def bisected(made: Any, *others: dict[str, Any], **more: Any) -> Report:
    """A report with an attack that was bisected, and others."""
    found = {"pgd": cells(made), **more.pop("cells", {})}
    reasons = {"m": {each["label"]: "a reason" for each in others}}
    options = {"mode": "bisect", "not_bisected": reasons, **more}
    report: Report = made.report([made.attack("pgd", RADII), *others], found, CLEAN, **options)
    return report


def numbers(report: Report, metric: str) -> list[float]:
    return [record.value for record in report.records if record.metric == metric]


def test_assumed_outcomes_count_as_robust_and_are_marked(made: Any) -> None:
    report = bisected(made)
    assert np.array_equal(report.robust("pgd"), np.array(ROBUST, dtype=bool))
    curve = report.curve("pgd")
    assert (curve.value, curve.sense, curve.assumed) == ((0.6, 0.4, 0.2), "any-iterate, bisect", (2, 0, 0))
    assert report.bisected("pgd")
    assert np.array_equal(report.assumed("pgd"), np.array(ASSUMED, dtype=bool))
    assert [claim.assumed for claim in report.claims] == [2, 0, 0]
    assert numbers(report, "robust_accuracy") == [0.6, 0.4, 0.2]
    assert numbers(report, "assumed_right") == [0.4, 0.0, 0.0]
    assert np.isnan(report.margins("pgd")).tolist() == (np.array(OUTCOMES) < 0).tolist()
    assert [each.attempted for each in report.members("pgd")] == [2, 4, 2]
    assert [each.broken for each in report.members("pgd")] == [1, 1, 1]
    assert report.distances("pgd").tolist() == pytest.approx([np.inf, 0.01, 0.01, 0.01, 0.0])
    with pytest.raises(InputError, match="got 'bisect'"):
        report.curve("pgd", sense="last-iterate")


def test_a_tie_at_the_larger_radius_is_one_at_the_smaller(made: Any) -> None:
    """Strictly robust samples have a margin above 0 at the radius at which they were attacked."""
    found = cells(made)
    assert numbers(bisected(made), "strict_robust_accuracy") == [0.6, 0.4, 0.2]
    found[1]["margin"] = np.where(np.arange(5) == 3, 0.0, found[1]["margin"])
    tied = bisected(made, cells={"pgd": found})
    assert numbers(tied, "strict_robust_accuracy") == [0.4, 0.2, 0.2]
    assert numbers(tied, "robust_accuracy") == [0.6, 0.4, 0.2]


def test_gaps_are_filled_from_above() -> None:
    values = np.array([[1.0, 5.0, np.nan], [np.nan, 6.0, np.nan], [3.0, np.nan, 9.0]])
    gaps = np.array([[False, True, True], [True, False, True], [False, True, False]])
    filled = _filled_from_next(values, gaps)
    assert np.array_equal(filled, [[1.0, 6.0, 9.0], [3.0, 6.0, 9.0], [3.0, np.nan, 9.0]], equal_nan=True)
    assert np.isnan(values[1, 0])


def test_the_worst_case_counts_assumed_samples_that_are_robust(made: Any) -> None:
    other = made.attack("fgsm", RADII[:1])
    report = bisected(made, other, cells={"fgsm": [made.cell([1, 1, 1, 0, -1])]})
    curve = report.worst_case()
    assert curve.value == (0.4, 0.2, 0.2)
    assert (curve.sense, curve.assumed) == ("any-iterate, bisect", (1, 0, 0))
    assert report.curve("fgsm").sense == "any-iterate"
    assert report.curve("fgsm").assumed == (0,)
    assert not report.bisected("fgsm")
    assert not report.assumed("fgsm").any()


def test_a_nested_run_assumes_nothing(made: Any, shown: Callable[[Report], str]) -> None:
    outcomes = [[1, 1, 0, 1, -1], [1, 0, -1, 1, -1], [1, -1, -1, 0, -1]]
    found = [made.cell(row) for row in outcomes]
    report = made.report([made.attack("pgd", RADII)], {"pgd": found}, CLEAN)
    assert np.array_equal(report.robust("pgd"), np.array(ROBUST, dtype=bool))
    assert (report.curve("pgd").sense, report.curve("pgd").assumed) == ("any-iterate", (0, 0, 0))
    assert report.worst_case().sense == "any-iterate"
    assert numbers(report, "assumed_right") == []
    assert "assumed" not in shown(report)


def test_comparisons_and_transfer_count_assumed_samples(made: Any) -> None:
    tasks = [made.attack("pgd", RADII), made.attack("from m", RADII, source="m")]
    plain = [made.cell(row) for row in [[1, 1, 0, 1, -1], [1, 0, -1, 1, -1], [1, -1, -1, 0, -1]]]
    found: dict[Any, Any] = {("m", "pgd"): cells(made), ("n", "pgd"): plain}
    found |= {(model, "from m"): plain for model in ("m", "n")}
    models = [made.model("m"), made.model("n")]
    report = made.report(tasks, found, CLEAN, models, mode="bisect")
    assert report.compare("m", "n", "pgd", 0.1).assumed == (2, 0)
    assert report.compare("m", "n", "pgd", 0.1).difference == 0.0
    assert report.compare_all("pgd", 0.3)[0].assumed == (0, 0)
    # The diagonal is the attack from the model itself, which was run at every radius.
    assert report.transfer(0.1, "from m").assumed.tolist() == [[0, 0], [0, 0]]
    direct = made.report([tasks[0], made.attack("from n", RADII, source="n")], {
        **{key: value for key, value in found.items() if key[1] == "pgd"},
        **{(model, "from n"): plain for model in ("m", "n")},
    }, CLEAN, models, mode="bisect")  # fmt: skip
    assert direct.transfer(0.1, "from n").assumed.tolist() == [[2, 0], [0, 0]]


def audit(made: Any, outcomes: Any, assumed: Any, audited: Any, clean: Any = CLEAN) -> Finding:
    report = made.report(
        [made.attack("pgd", RADII)],
        {"pgd": cells(made, outcomes, assumed, audited)},
        clean,
        mode="bisect",
        evidence="basic",
    )
    (found,) = [each for each in report.findings if each.name == "bisect-monotone"]
    assert found.required
    assert found.label == "pgd"
    return found


@pytest.mark.parametrize(("first", "passed", "value"), [(1, True, 0.0), (0, False, 0.5)])
def test_the_audit_counts_wrong_assumptions(made: Any, first: int, passed: bool, value: float) -> None:
    outcomes = [[first, 1, 0, 1, -1], *OUTCOMES[1:]]
    found = audit(made, outcomes, [[0] * 5] * 3, ASSUMED)
    assert (found.passed, found.value) == (passed, value)


def test_without_an_audit_the_evidence_is_missing(made: Any) -> None:
    assert audit(made, OUTCOMES, ASSUMED, None).passed is None
    nothing = [[0] * 5] * 3
    all_tried = [[1, 1, 0, 1, -1], *OUTCOMES[1:]]
    assert audit(made, all_tried, nothing, nothing).passed is True  # nothing had to be assumed


@pytest.mark.parametrize(("violations", "passed"), [(0, True), (1, True), (2, False)])
def test_the_threshold_is_half_a_percent_of_pairs(made: Any, violations: int, passed: bool) -> None:
    count = 200
    asked = [[1] * count, [0] * count, [0] * count]
    outcomes = [[0] * violations + [1] * (count - violations), [1] * count, [1] * count]
    found = audit(made, outcomes, [[0] * count] * 3, asked, [1] * count)
    assert (found.passed, found.value) == (passed, violations / count)


@pytest.fixture
def shown(printed: Callable[..., str]) -> Callable[[Report], str]:
    """The contents of the page's sections and of the terminal, as one text."""

    def say(report: Report) -> str:
        tables = terminal_table(report.audit, report.records), terminal_claims_table(report.audit)
        made_sections = sections(report.outcomes, report.records)
        texts = [printed(*tables, width=300), repr(made_sections), repr(claims_table(report.audit, quoted=True))]
        return " ".join(texts)

    return say


def test_the_page_and_the_terminal_mark_bisection(
    made: Any, shown: Callable[[Report], str], html: Callable[..., str]
) -> None:
    report = bisected(made, evidence="basic")
    sentence = "By bisection (pgd): 2 of 15 outcomes (a sample at one epsilon) were assumed robust without an attack"
    text = shown(report)
    assert text.count(sentence) == 2  # section, picture
    assert "bisect: 2 of 15 outcomes" in " ".join(text.split())
    assert "; 2 assumed" in text
    page = html(report)
    assert page.count(sentence) >= 3
    assert "2 assumed" in page
    assert "<strong>Bisect</strong>" in page
    assert "bisect-monotone" in page
    nested = made.report([made.attack("pgd", RADII)], {"pgd": [made.cell([1] * 5)] * 3}, CLEAN)
    assert "isect" not in html(nested)
