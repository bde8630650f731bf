"""Access to an attack's evidence: attacks by typed fields, not by parts of their names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import snnrobust as sr
from snnrobust.audit.audited_attack import AuditedAttack
from snnrobust.audit.gaps import Gap, compare_gaps
from snnrobust.testing.tiny import tiny_data, tiny_model


def audited(bench: Any, label: str = "pgd") -> AuditedAttack:
    return AuditedAttack(bench.report().outcomes, "m", label)


def test_attacks_of_an_evidence_task_have_its_kind_if_they_are_members(make_bench: Any, plain: Any) -> None:
    bench = make_bench(plain("pgd: mine", 0.5))
    attack = audited(bench, "pgd: mine")
    members, single = attack.evidence("estimators", "linf"), attack.evidence("steps-100")
    assert members is not None
    assert single is not None
    found = members.attacks(0.1)
    assert [(each.kind, each.label, each.gradients) for each in found] == [
        ("estimators", "own", True),
        ("estimators", "atan", True),
        ("estimators", "square", False),
    ]
    assert [each.name for each in found] == ["estimators: own", "estimators: atan", "estimators: square"]
    assert [(each.kind, each.label, each.name) for each in single.attacks(0.1)] == [
        ("", "pgd: mine/steps-100", "pgd: mine/steps-100")
    ]
    assert members.attacks(0.3) == []


def test_the_users_own_attacks_have_no_kind(make_bench: Any, plain: Any) -> None:
    bench = make_bench(plain("pgd", 0.5), plain("steps-100: own", 0.4))
    found = [each for each in audited(bench).other_attacks(0.1) if not each.kind]
    assert {each.name for each in found} >= {"steps-100: own"}


def test_only_gradient_attacks_with_a_shared_label_are_compared(make_bench: Any, ensemble: Any) -> None:
    """Members are matched by label, also one that has the separator of names in it."""
    members = [("a: b", "Own()", 0.5), ("b", "ATan()", 0.4), ("square", None, 0.3)]
    bench = make_bench(ensemble("all", *members))
    own = bench.evidence_tasks["steps-100"].attack
    bench.evidence_tasks["steps-100"].attack = replace(own, robust=[[0.5, 0.4, 0.3]])
    few = ensemble("all/steps-50", members[0])
    bench.evidence_tasks["steps-50"].attack = few
    attack = audited(bench, "all")
    shorter, longer = attack.evidence("steps-50"), attack.evidence("steps-100")
    assert shorter is not None
    assert longer is not None

    def share(robust: np.ndarray | None) -> float:
        assert robust is not None
        return float(robust.mean())

    assert share(longer.robust(0.1)) == 0.3
    assert share(longer.robust_to_gradient_attacks(0.1)) == 0.4
    assert share(longer.robust_to_gradient_attacks(0.1, like=shorter)) == 0.5


def test_notes_say_what_was_compared() -> None:
    assert compare_gaps([], 0.0, "nothing was run").note == " Not measured: nothing was run."
    chance = compare_gaps([Gap(0.01, 0.3, "square")], 0.0, "")
    assert (chance.passed, chance.note.startswith(" Measured against: square. ")) == (None, True)
    assert "not significant" in chance.note
    failed = compare_gaps([Gap(0.2, 0.3, "fgsm"), Gap(0.1, 0.001, "square")], 0.0, "")
    assert (failed.passed, failed.value, failed.other, failed.note) == (
        False,
        0.1,
        "square",
        " Measured against: square.",
    )
    assert compare_gaps([Gap(-0.1, 1.0)], 0.0, "").note == ""


@pytest.mark.parametrize("evidence", ["full", "basic"])
def test_texts_of_findings_are_sentences(make_bench: Any, plain: Any, evidence: str) -> None:
    bench = make_bench(plain("pgd", 0.5, factors={"eot": 10}), stochastic=True)
    bench.evidence, bench.skipped = evidence, {}
    bench.clean = {"a": bench.clean["m"], "b": bench.clean["m"]}
    found = [*bench.report().findings, *sr.probe(tiny_model(), tiny_data())]
    assert len({each.name for each in found}) > 25
    for each in found:
        for text in (each.why, each.remedy):
            assert text[0].isupper(), each
            assert text.endswith("."), each
            assert "  " not in text, each
            assert ".." not in text.replace("...", ""), each


def test_samples_that_an_attack_did_not_meet_count_for_neither(make_bench: Any, plain: Any) -> None:
    """Those that members before it broke: the gap is that over all others, and never smaller than the true one."""
    bench = make_bench(plain("pgd", 0.5))
    attack = bench.evidence_tasks["steps-100"].attack

    def not_met(cell: dict[str, Any]) -> None:
        cell["member_correct"][:, 300:400] = -1

    whole = next(each for each in audited(bench).other_attacks(0.1) if "steps-100" in each.name)
    bench.evidence_tasks["steps-100"].attack = replace(attack, robust=[[0.3]], modify=not_met)
    some = next(each for each in audited(bench).other_attacks(0.1) if "steps-100" in each.name)
    robust = bench.robust_samples(0.5)[some.rows]
    assert whole.known.all()
    assert (~some.known).sum() == 100
    assert some.gap_below(robust).value == Gap.between(robust & some.known, some.robust & some.known).value < 0.2
    assert whole.gap_below(robust).value == 0.0


def test_a_black_box_member_that_was_not_run_is_no_evidence(bench: Any) -> None:
    """A member that does not fit the model attacked nothing: that it broke nothing says nothing."""
    assert bench.finding("black-box-not-stronger").passed is True
    bench.skipped = {"square": "needs images"}
    assert bench.finding("black-box-not-stronger").passed is None
