"""Verdicts on claims and runs, and which findings count for which claim."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import snnrobust as sr
from snnrobust import audit
from snnrobust.audit.audited_attack import AuditedAttack
from snnrobust.audit.gaps import Gap
from snnrobust.results.records import Finding


def test_good_evidence_is_trusted(bench: Any) -> None:
    found = bench.report()
    assert [each.name for each in found.findings if each.passed is not True] == []
    assert bench.claim_in(found).verdict == found.verdict == "trusted"
    assert bench.claim_in(found).value == 0.5


@pytest.mark.parametrize(
    ("left_out", "missing"),
    [
        ("estimators", {"surrogate-gap", "black-box-not-stronger"}),
        ("steps-50", {"steps-converged"}),
        ("steps-100", {"steps-converged", "monotone"}),
        ("epsilon-zero", {"epsilon-zero"}),
        ("full-range", {"full-range", "full-range-attack"}),
        ("order", {"attack-order"}),
        ("reversed", {"attack-order"}),
        ("eot", {"eot-plateau"}),
        ("noise", {"noise-not-stronger"}),
    ],
)
def test_without_a_piece_of_evidence_its_findings_are_missing(
    make_bench: Any, plain: Any, left_out: str, missing: set[str]
) -> None:
    bench = make_bench(plain("pgd", 0.5, factors={"eot": 10}), stochastic=left_out == "eot")
    assert bench.report().verdict == "trusted"
    if left_out == "noise":
        bench.noise = math.nan
    else:
        del bench.evidence_tasks[left_out]
    found = bench.report()
    assert set(bench.claim_in(found).missing) == missing
    assert bench.claim_in(found).failed == ()
    assert bench.claim_in(found).verdict == found.verdict == "doubtful"


def test_basic_evidence_is_never_trusted(bench: Any) -> None:
    bench.evidence = "basic"
    found = bench.report()
    assert found.verdict == "doubtful"
    missing = set(bench.claim_in(found).missing)
    assert {"surrogate-gap", "black-box-not-stronger", "steps-converged", "full-range"} <= missing


def test_an_ensemble_without_some_of_its_members_is_not_trusted(make_bench: Any, ensemble: Any) -> None:
    bench = make_bench(ensemble("all", ("own", "Own()", 0.5), ("atan", "ATan()", 0.5)))
    assert bench.report().verdict == "trusted"
    bench.skipped = {"atan": "no spikes to swap"}
    made = bench.finding("members", "all")
    assert made.passed is None
    assert "no spikes to swap" in made.why
    assert bench.report().verdict == "doubtful"


def test_without_an_attack_nothing_is_trusted(bench: Any) -> None:
    bench.attacks, bench.quoted, bench.evidence = [], [], "basic"
    found = bench.report()
    assert bench.finding_in(found, "attacked").passed is None
    assert (found.verdict, found.claims) == ("doubtful", [])


def test_resolution(make_bench: Any) -> None:
    """Half an interval of 1000 samples is 3.1 points wide at .5: it carries a difference of 4 points, not of 3."""
    for other, passed in ((0.54, True), (0.53, False)):
        bench = make_bench()
        bench.clean = {"a": np.ones(bench.count, dtype=bool), "b": np.ones(bench.count, dtype=bool)}
        found = bench.report()
        found.cell("b", "pgd", 0)["correct"] = bench.robust_samples(other).astype(np.int8)
        made = [each for each in audit.findings(found.outcomes) if each.name == "resolution"]
        assert [each.passed for each in made] == [passed, passed]
        assert [each.model for each in made] == ["a", "b"]
        assert not made[0].required
    assert "resolution" not in {each.name for each in make_bench().report().findings}


def test_a_claim_takes_the_findings_that_are_about_it(make_bench: Any, plain: Any) -> None:
    """A failure at one radius of one attack is no failure at another radius, or of another attack."""
    radii = (0.1, 0.2)
    bench = make_bench(plain("pgd", 0.5, 0.4, radii=radii), plain("apgd", 0.5, 0.4, radii=radii), radii=radii)
    bench.quoted = ["pgd", "apgd"]
    for kind in ("steps-50", "steps-100"):
        bench.variant(kind, 0.5, 0.4)
    bench.set_member("own", 0.5, 0.4)
    bench.set_member("atan", 0.5, 0.3)
    found = bench.report()
    verdicts = {(each.label, each.strength): each.verdict for each in found.claims}
    assert verdicts == {
        ("pgd", 0.1): "trusted",
        ("pgd", 0.2): "untrustworthy",
        ("apgd", 0.1): "doubtful",  # its variants were not run
        ("apgd", 0.2): "untrustworthy",
    }
    assert bench.claim_in(found, "pgd", 0.2).failed == ("surrogate-gap",)
    assert found.verdict == "untrustworthy"
    assert {each.value for each in found.claims} == {0.5, 0.4}


def test_the_overall_verdict_is_about_the_quoted_claims(make_bench: Any, plain: Any) -> None:
    bench = make_bench(plain("pgd", 0.5), plain("weak", 0.9))
    found = bench.report()
    assert bench.claim_in(found, "weak").verdict == "untrustworthy"  # other attacks are far stronger
    assert not bench.claim_in(found, "weak").quoted
    assert found.verdict == "trusted"
    bench.quoted = ["pgd", "weak"]
    assert bench.report().verdict == "untrustworthy"


def test_a_fatal_finding_about_a_model_counts_for_all_its_claims(bench: Any) -> None:
    bench.probed = [Finding("repeatable", False, 1.0, 0.0, "", "", fatal=True)]
    found = bench.report()
    assert bench.claim_in(found).verdict == found.verdict == "untrustworthy"
    bench.attacks, bench.quoted, bench.evidence = [], [], "basic"
    assert bench.report().verdict == "untrustworthy"


def test_findings_of_one_model_leave_another_alone(bench: Any) -> None:
    bench.clean = {"a": np.ones(bench.count, dtype=bool), "b": np.ones(bench.count, dtype=bool)}
    found = bench.report()
    made = [replace(each, passed=False) if each.model == "b" else each for each in found.findings]
    verdicts = {each.model: each.verdict for each in audit.claims(found.outcomes, made)}
    assert verdicts == {"a": "trusted", "b": "untrustworthy"}


def test_verdict() -> None:
    good = Finding("a", True, 0.0, 0.0, "", "")
    assert audit.verdict([]) == "doubtful"
    assert audit.verdict([good]) == "trusted"
    assert audit.verdict([good, Finding("b", None, 0.0, 0.0, "", "")]) == "doubtful"
    assert audit.verdict([good, Finding("b", False, 0.0, 0.0, "", "")]) == "doubtful"
    assert audit.verdict([good, Finding("b", False, 0.0, 0.0, "", "", required=False)]) == "trusted"
    assert audit.verdict([good, Finding("b", False, 0.0, 0.0, "", "", required=False, fatal=True)]) == "untrustworthy"


def test_gaps_count_samples_in_pairs() -> None:
    gap = Gap.between(np.array([1, 1, 1, 0], dtype=bool), np.array([0, 0, 1, 1], dtype=bool))
    assert gap.value == 0.25
    assert gap.p_value == pytest.approx(0.5)  # at least two heads of three
    assert Gap.between(np.ones(4, dtype=bool), np.ones(4, dtype=bool)).p_value == 1.0


def test_an_evidence_result_has_its_own_samples(bench: Any) -> None:
    made = AuditedAttack(bench.report().outcomes, "m", "pgd").evidence("order", label="pgd/reversed")
    assert made is not None
    assert made.rows.tolist() == bench.rows[: bench.few][::-1].tolist()
    robust = made.robust(0.1)
    assert robust is not None
    assert robust.tolist() == (made.rows < 500).tolist()
    assert made.robust(0.3) is None


def test_verdicts_survive_saving(make_bench: Any, plain: Any, tmp_path: Any) -> None:
    bench = make_bench(plain("pgd", 0.5), plain("weak", 0.9))
    bench.probed = [Finding("batch-of-one", None, math.nan, 0.0, "", "", required=False)]
    found = bench.report()
    found.save(tmp_path / "run")
    loaded = sr.Report.load(tmp_path / "run")
    assert repr(loaded.findings) == repr(found.findings)  # NaN is not equal to itself
    assert loaded.claims == found.claims
