"""How claims and findings are shown: grouped, quoted ones first, names escaped."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snnrobust import audit
from snnrobust.report import Report
from snnrobust.report.claims import claims_table, evidence_summary, verdict_text
from snnrobust.report.findings import checks, model_verdict, summary
from snnrobust.report.terminal import failures, terminal_claims_table, terminal_table
from snnrobust.results.records import Finding

HOSTILE = "<b onload=x>[red]&amp;"


def finding(name: str, passed: bool | None, value: float = 0.5, **more: Any) -> Finding:
    return Finding(name, passed, value, 0.1, "why", "remedy", **more)


def study(made: Any, name: str = "both", model: str = "m") -> Report:
    """An ensemble, which is quoted, and a plain attack, which is not; each at two radii."""
    radii = [1 / 255, 8 / 255]
    tasks = [made.ensemble(name, [f"{name} A", "B"], radii), made.attack("fgsm", radii)]
    cell, one = made.cell([0, 1, 1, 1], [-1, 0, 1, 1]), made.cell([0, 1, 1, 1])
    cells = {name: [cell, made.cell([-1] * 4, [-1] * 4)], "fgsm": [one, one]}
    built: Report = made.report(tasks, cells, [1] * 4, [made.model(model)], quoted=[name])
    return built


@pytest.fixture
def audited_report(made: Any) -> Report:
    """The quoted claim fails at the small radius and lacks evidence at the large one; fgsm fails fatally."""
    about: dict[str, Any] = {"model": "m", "label": "both"}
    findings = [
        finding("order", True, model="m"),
        finding("ties", False, model="m", required=False),
        finding("gap", False, 0.2, strength=1 / 255, **about),
        finding("gap", None, math.nan, strength=8 / 255, **about),
        finding("noise", False, 0.9, fatal=True, strength=1 / 255, model="m", label="fgsm"),
    ]
    found: Report = made.with_findings(study(made), findings)
    return found


def test_a_check_is_as_bad_as_its_worst_radius() -> None:
    gaps = [(True, 0.0), (None, math.nan), (False, 0.2), (False, 0.4)]
    found = [
        finding("gap", passed, value, model="m", label="a", strength=0.1 * k) for k, (passed, value) in enumerate(gaps)
    ]
    (check,) = checks(found)
    assert check.passed is False
    assert check.worst.value == 0.4
    assert check.failed == (0.2, pytest.approx(0.3))
    assert check.missing == (0.1,)
    assert checks(found[:2])[0].passed is None
    assert checks(found[:1])[0].passed is True


def test_models_attacks_and_names_stay_apart() -> None:
    found = [
        finding("gap", False, model=model, label=label, strength=0.1)
        for model in ("a", "b")
        for label in ("", "pgd", "fgsm")
    ]
    assert len(checks([*found, *found, finding("order", True, model="a")])) == 7


def test_what_counts_most_stands_first() -> None:
    names = {
        "fatal": finding("fatal", False, fatal=True),
        "failed": finding("failed", False),
        "advice": finding("advice", False, required=False),
        "missing": finding("missing", None),
        "aside": finding("aside", None, required=False),
        "passed": finding("passed", True),
    }
    assert [check.worst.name for check in checks(reversed(names.values()))] == list(names)
    assert summary(checks(names.values())) == "3 failed, 2 missing, 1 passed"
    assert summary([]) == "none"


def test_quoted_claims_have_a_table_of_their_own(audited_report: Report) -> None:
    (group,) = claims_table(audited_report.audit, quoted=True).groups
    assert group[0] == "m, linf in [0, 1], real"
    first, second = group[1]
    assert [cell.text for cell in first.cells] == ["1/255", "50.0 %", "doubtful", "4", "gap, ties (advice)", "none"]
    assert first.cells[1].interval == "6.8 to 93.2"
    assert second.cells[-1].text == "gap"
    (others,) = claims_table(audited_report.audit, quoted=False).groups
    assert [(row.name, row.cells[2].badge) for row in others[1]] == [("fgsm", "untrustworthy"), ("fgsm", "trusted")]


def test_long_lists_of_checks_are_not_repeated(made: Any) -> None:
    about: dict[str, Any] = {"model": "m", "label": "both"}
    missing = [finding(f"a check called {k}", None, **about) for k in range(3)]
    (group,) = claims_table(made.with_findings(study(made), missing).audit, quoted=True).groups
    names = "a check called 0, a check called 1, a check called 2"
    assert [row.cells[-1].text for row in group[1]] == [names, "as above"]
    other = finding("another", None, strength=8 / 255, **about)
    (group,) = claims_table(made.with_findings(study(made), [*missing, other]).audit, quoted=True).groups
    assert [row.cells[-1].text for row in group[1]] == [names, f"{names}, another"]


def test_the_verdict_is_about_the_quoted_claims(audited_report: Report) -> None:
    # Although fgsm's number is untrustworthy.
    assert audited_report.verdict == model_verdict(audited_report.audit, "m") == "doubtful"
    text = verdict_text(audited_report.audit)
    assert "robust accuracy under both (2 numbers, 0 of them trusted)" in text
    assert "Failed: gap. " in text
    assert "noise" not in text


def test_every_verdict_has_its_words(made: Any) -> None:
    about: dict[str, Any] = {"model": "m", "label": "both"}
    assert "were not checked" in verdict_text(made.with_findings(study(made), []).audit)
    assert "All required checks passed" in verdict_text(
        made.with_findings(study(made), [finding("gap", True, **about)]).audit
    )
    fatal = made.with_findings(study(made), [finding("gap", False, fatal=True, **about)])
    assert "A fatal check failed, which makes the numbers concerned meaningless: gap" in verdict_text(fatal.audit)
    missing = made.with_findings(study(made), [finding("gap", None, **about)])
    assert "Evidence missing: gap" in verdict_text(missing.audit)
    nothing = made.with_findings(made.report([], {}, [1, 1]), [finding("attacked", None, model="m")])
    assert "nothing is known about robustness" in verdict_text(nothing.audit)


def test_the_size_of_the_evidence(made: Any) -> None:
    found = study(made)
    assert evidence_summary(found.outcomes) == "none"
    found.run["evidence"] = "basic"
    assert "probe" in evidence_summary(found.outcomes)
    found.run.update(
        {
            "evidence": "full",
            "evidence_tasks": {"m": [{"kind": "order", "task": {"label": "order", "strengths": []}}]},
            "rows": list(range(200)),
        }
    )
    assert evidence_summary(found.outcomes) == "further attacks on 200 random samples"


def test_the_page_shows_claims_first_and_folds_the_rest(audited_report: Report, html: Callable[..., str]) -> None:
    audited_report.run.update({"evidence": "full", "rows": list(range(4))})
    audited_report.run["evidence_tasks"] = {
        "m": [{"kind": "noise", "task": {"label": "a secret task", "strengths": []}}]
    }
    text = html(audited_report)
    assert text.index("Verdict: doubtful") < text.index('id="claims"') < text.index('id="summary"')
    quoted, folded = text.index("Quoted claims"), text.index("<summary>2 more, not quoted</summary>")
    assert quoted < folded < text.index("Claims that are not quoted") < text.index("</details>", folded)
    assert '<span class="badge doubtful">doubtful</span>' in text[quoted:folded]
    assert '<span class="badge untrustworthy">' not in text[quoted:folded]
    assert "further attacks on 4 random samples" in text
    assert "secret task" not in text
    assert "Members of both, in order" in text
    assert "1 of 4" in text
    assert "1 of 3" in text


def test_the_page_has_one_line_for_a_check_with_its_radii(audited_report: Report, html: Callable[..., str]) -> None:
    text = html(audited_report)
    assert text.count("<strong>gap · both</strong>") == 1
    assert "Failed at epsilon 1/255." in text
    assert "Evidence missing at epsilon 8/255." in text
    aside = text.index("1 failed or missing, about attacks that are not quoted")
    assert text.index("noise · fgsm") > aside > text.index("gap · both")


def test_without_claims_there_is_no_table_of_them(made: Any, html: Callable[..., str]) -> None:
    assert 'id="claims"' not in html(made.report([], {}, [1, 1]))


def test_names_stay_names(made: Any, html: Callable[..., str], printed: Callable[..., str]) -> None:
    found = study(made, HOSTILE, HOSTILE)
    checked = [finding(HOSTILE, False, model=HOSTILE, label=HOSTILE, strength=1 / 255)]
    text = html(made.with_findings(found, checked))
    assert "<b onload" not in text
    assert text.count("&lt;b onload=x&gt;[red]&amp;amp; A") >= 2  # the member, in its table and in the settings
    tables = terminal_claims_table(found.audit), terminal_table(found.audit, found.records)
    assert printed(*tables, width=200, markup=False).count(HOSTILE) >= 3
    assert failures(found.audit) == [f"{HOSTILE}: {HOSTILE} ({HOSTILE}) at epsilon 1/255"]


def test_the_terminal_counts_and_names_what_the_verdict_rests_on(
    audited_report: Report, printed: Callable[..., str]
) -> None:
    assert failures(audited_report.audit) == ["m: gap (both) at epsilon 1/255"]  # advice is for the page
    text = printed(terminal_claims_table(audited_report.audit), width=120)
    shown = [line.split() for line in text.splitlines() if "both" in line]
    assert shown[0] == ["m", "both", "1/255", "50.0", "%", "6.8", "to", "93.2", "doubtful"]
    assert len(shown) == 2
    assert "fgsm" not in text


def test_transfer_has_a_map_on_the_page(made: Any, html: Callable[..., str], tmp_path: Path) -> None:
    tasks = [made.attack("pgd", [0.1, 0.2]), made.attack("from b", [0.1, 0.2], source="b")]
    cells = {(model, task["label"]): [made.cell([0, 1])] * 2 for model in "ab" for task in tasks}
    found = made.report(tasks, cells, [1, 1], [made.model("a"), made.model("b")])
    text = html(found)
    assert text.count('alt="Transfer, pgd, epsilon') == 2
    assert "from b to a: 50.0 %" in text
    assert "from a to b: –" in text
    assert np.isnan(found.transfer(0.1).values[0, 1])
    without = made.report(
        tasks[:1], {(m, "pgd"): [made.cell([0, 1])] * 2 for m in "ab"}, [1, 1], [*map(made.model, "ab")]
    )
    assert "Transfer" not in html(without, tmp_path / "without")


def test_former_names_warn(audited_report: Report) -> None:
    with pytest.warns(DeprecationWarning, match=r"Report\.judged is now Report\.audit"):
        assert audited_report.judged is audited_report.audit
    with pytest.warns(DeprecationWarning, match=r"snnrobust\.audit\.Judged is now snnrobust\.audit\.AuditResult"):
        assert audit.Judged is audit.AuditResult
    with pytest.warns(DeprecationWarning, match=r"snnrobust\.audit\.judge is now snnrobust\.audit\.audit_outcomes"):
        assert audit.judge is audit.audit_outcomes
