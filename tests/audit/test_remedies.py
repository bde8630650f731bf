"""Remedies name only what exists: each call, option and argument in them is loaded."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

import snnrobust as sr
from snnrobust.audit.audited_attack import AuditedAttack
from snnrobust.audit.remedies import missing_evidence, more_steps
from snnrobust.data.evaluation_data import prepare
from snnrobust.evaluation.compatibility import incompatible_members
from snnrobust.report import Report
from snnrobust.results.curvature import GAUSS_NEWTON, remedy_for
from snnrobust.results.records import Finding, Record
from snnrobust.testing.tiny import tiny_data, tiny_model

MINE = {"name": "pgd", "steps": 5, "label": "of my own"}
#: Names, norms and further settings of the audited attacks.
ATTACKS: list[tuple[str, str, dict[str, Any]]] = [
    *(("standard", norm, {}) for norm in ("linf", "l2", "l1", "l0")),
    *(("pgd", norm, {}) for norm in ("linf", "l2", "l1")),
    ("pgd", "linf", {"random_start": False}),
    ("momentum", "linf", {}),
    ("apgd", "l1", {}),
    ("fgsm", "linf", {}),
    ("fgsm", "l2", {}),
    ("square", "linf", {}),
    ("square", "l2", {}),
    ("random-search", "l1", {}),
    ("random-search", "l0", {}),
    ("flips", "l0", {}),
    ("minimum-norm", "linf", {}),
    ("hop-skip-jump", "l2", {}),
    ("union", "linf", {"adaptive": [MINE]}),
]
#: A value of each option that a remedy may name, where the remedy has none.
VALUES: dict[str, Any] = {
    "steps": 200,
    "restarts": 5,
    "step_size": 0.01,
    "random_start": True,
    "gradient": "atan",
    "eot": 10,
    "adaptive": [{"name": "pgd", "label": "another"}],
    "products": 400,
    "draws": 400,
    "samples": 600,
    "k": 2,
    "iterations": 300,
    "top": 1,
}
#: Options of `evaluate` and `wrap`.
GENERAL = {*inspect.signature(sr.evaluate).parameters, *inspect.signature(sr.wrap).parameters}
WITHOUT_GRADIENTS = ("square", "random-search", "hop-skip-jump")
BRACKETS = {"(": ")", "[": "]", "{": "}"}


def bracket(text: str, at: int) -> str:
    """What stands in the bracket that opens at this position, with the bracket."""
    depth = 0
    for end in range(at, len(text)):
        depth += (text[end] in BRACKETS) - (text[end] in BRACKETS.values())
        if not depth:
            return text[at : end + 1]
    raise AssertionError(f"open bracket: {text}")


def calls(text: str) -> Iterator[str]:
    """The calls of `sr.load` in a text."""
    for found in re.finditer(r"sr\.load\(", text):
        yield "sr.load" + bracket(text, found.end() - 1)


def options(text: str) -> Iterator[tuple[str, Any]]:
    """The options that a text names outside of calls, with values."""
    for call in calls(text):
        text = text.replace(call, "")
    for found in re.finditer(r"(?<![\w'])(\w+)=", text):
        name, value = found[1], text[found.end() : found.end() + 1]
        if value in BRACKETS and "..." not in (literal := bracket(text, found.end())):
            yield name, ast.literal_eval(literal)
        elif value == "'":
            yield name, text[found.end() + 1 :].partition("'")[0]
        elif (digits := re.match(r"\d+", text[found.end() :])) is not None:
            yield name, int(digits[0])
        else:
            yield name, VALUES.get(name)


@cache
def check_call(call: str) -> None:
    """Loads what the call names, and checks that it is defined for its norm."""
    name = "flips" if "'l0'" in call else "pgd"
    for left_out, value in (
        ("epsilon=...", f"epsilon={2.0 if name == 'flips' else 0.1}"),
        ("gradient=...", "gradient='atan'"),
        ("[...]", str([{"name": name, "label": "another"}])),
    ):
        call = call.replace(left_out, value)
    task = eval(call, {"sr": sr})
    if task.kind == "attack":
        assert incompatible_members(task, tiny_model(), prepare(tiny_data()), {}) == {}


def check(remedy: str, load: Callable[..., sr.Task]) -> None:
    """Loads everything that a remedy names; `load` loads the attack that it is about, with further settings."""
    for call in calls(remedy):
        check_call(call)
    for name, value in options(remedy):
        if name in GENERAL:
            continue
        assert value is not None, f"no value for {name}= of: {remedy}"
        task = load(**{name: value})
        if task.kind == "attack":
            incompatible_members(task, tiny_model(), prepare(tiny_data()), {})


@pytest.fixture
def audited_run(make_bench: Any, plain: Any) -> Callable[..., tuple[Any, Callable[..., sr.Task]]]:
    """Makes a run with complete evidence about an attack that was loaded, and the function that loads it."""

    def make(name: str, norm: str, settings: dict[str, Any]) -> tuple[Any, Callable[..., sr.Task]]:
        def load(**more: Any) -> sr.Task:
            given = {"norm": norm, "epsilon": 2.0 if norm == "l0" else 0.1, "eot": 10}
            if norm == "l0" and more.get("adaptive") == VALUES["adaptive"]:  # the remedy leaves it open
                more["adaptive"] = [{**VALUES["adaptive"][0], "name": "flips"}]
            return sr.load(name, "pgd", **{**given, **settings, **more})

        recorded = load().settings()
        members = recorded["members"] or [recorded]
        gradients = [each["name"] not in WITHOUT_GRADIENTS for each in members]
        factors = {key: recorded[key] for key in ("name", "plugin", "parameters", "members")}
        factors |= {"norm": norm, "eot": 10, "gradient": members[0]["attack"]["gradient"]}
        attack = replace(plain("pgd", 0.5), uses_gradients=gradients, robust=[[0.5] * len(members)], factors=factors)
        bench = make_bench(attack, stochastic=True)
        bench.evidence_tasks["estimators"].about = norm
        return bench, load

    return make


def change_nothing(bench: Any) -> None:
    """All evidence is there: a finding has the remedy that it has when it fails."""


def skip_evidence(bench: Any) -> None:
    bench.evidence = "basic"


def find_nothing(bench: Any) -> None:
    bench.evidence_tasks.clear()
    bench.class_swap[:] = -1


def quote_another(bench: Any) -> None:
    find_nothing(bench)
    bench.quoted = []


def quote_another_without_evidence(bench: Any) -> None:
    bench.quoted, bench.evidence = [], "basic"


def add_transfer(bench: Any) -> None:
    norm = bench.attacks[0].factors["norm"]
    transfer = replace(bench.attacks[0], label="transfer b", robust=[[0.1]], uses_gradients=[True])
    factors = {"norm": norm, "source": "b"}
    bench.add_evidence("transfer", norm, replace(transfer, factors=factors))


CHANGES = (
    change_nothing,
    skip_evidence,
    find_nothing,
    quote_another,
    quote_another_without_evidence,
    add_transfer,
)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda each: " ".join(map(str, each)))
def test_an_attack_takes_what_its_remedies_name(audited_run: Any, attack: tuple[str, str, dict[str, Any]]) -> None:
    seen = set()
    for change in CHANGES:
        bench, load = audited_run(*attack)
        bench.class_swap = np.zeros(bench.count, dtype=np.int8)
        change(bench)
        for each in bench.report().findings:
            if each.label and each.remedy not in seen:
                seen.add(each.remedy)
                check(each.remedy, load)
    assert len(seen) > 10


def test_what_a_remedy_names_is_found() -> None:
    text = "Pass more steps= or restarts=, e.g. sr.load('pgd', epsilon=..., steps=5), with adaptive=[{'name': 'pgd'}]."
    assert list(calls(text)) == ["sr.load('pgd', epsilon=..., steps=5)"]
    assert list(options(text)) == [("steps", 200), ("restarts", 5), ("adaptive", [{"name": "pgd"}])]
    for bad in ("sr.load('square', norm='l1', epsilon=...)", "sr.load('pgd', epsilon=..., queries=5)"):
        with pytest.raises(sr.errors.InputError):
            check(bad, sr.load)
    with pytest.raises(sr.errors.InputError):
        check("Pass restarts=.", lambda **more: sr.load("standard", epsilon=0.1, **more))


def test_remedies_of_the_probe_name_what_exists() -> None:
    load = lambda **more: sr.load("apgd", epsilon=0.1, **more)  # noqa: E731
    remedies = {each.name: each.remedy for each in sr.probe(tiny_model(), tiny_data())}
    for remedy in remedies.values():
        if "track_running_stats=" not in remedy:
            check(remedy.replace("step_mode to match", ""), load)
    for name in ("zero-gradient", "encoder-gradient"):
        for attack, norms in re.findall(r"'([\w-]+)' \(([\w, ]+)\)", remedies[name]):
            for norm in norms.split(", "):
                check_call(f"sr.load('{attack}', norm='{norm}', epsilon=...)")


def curvature_findings(made: Any, measurement: str, *records: Record) -> list[Finding]:
    report: Report = made.report([], {}, np.ones(20), [made.model("lif")], {"eig": (list(records), [])})
    report.outcomes.task("eig")["parameters"] = sr.load(measurement).settings()["parameters"]
    return [each for each in sr.audit.findings(report.outcomes) if each.name.startswith("curvature-")]


@pytest.mark.parametrize("measurement", ["eigenvalues", "pyhessian"])
@pytest.mark.parametrize("noise", [True, False])
def test_a_measurement_takes_what_its_remedies_name(made: Any, measurement: str, noise: bool) -> None:
    number = Record("eigenvalue:1", 1.0, 0.0, 2.0, 1, quantity="eigenvalue", rank=1, threat="M", draw_noise=noise)
    found = {each.name: each for each in curvature_findings(made, measurement, number)}

    def load(**more: Any) -> sr.Task:
        operator = {"name": "smoothed", "draws": more.pop("draws", 4)} if "draws" in more else {}
        return sr.load(measurement, **more, **({"operator": operator} if operator else {}))

    text = found["curvature-converged"].remedy
    assert ("iterations=" in text) == (measurement == "pyhessian" and not noise)
    check(text.replace("operator={'name': 'smoothed', 'draws': ...}", ""), load)
    check_call("sr.load('eigenvalues', operator={'name': 'smoothed', 'draws': 400})")


def test_what_the_remedies_of_an_operator_name_exists() -> None:
    for operator in ("Hessian", GAUSS_NEWTON):
        check(remedy_for(operator).replace("operator={'name': ..., 'radius': ...}", ""), lambda **_: sr.load("plane"))
    sr.load("eigenvalues", operator={"name": "gauss-newton", "radius": 0.03})
    assert "radius" not in remedy_for("Hessian")


def test_the_remedy_fits_the_attack(audited_run: Any) -> None:
    def audited(*attack: Any, evidence: str = "full", quoted: bool = True) -> AuditedAttack:
        bench, _ = audited_run(*attack)
        bench.evidence, bench.quoted = evidence, ["pgd"] if quoted else []
        return AuditedAttack(bench.report().outcomes, "m", "pgd")

    assert more_steps(audited("pgd", "linf", {})) == "Pass more steps= or restarts=."
    assert more_steps(audited("minimum-norm", "linf", {})) == "Pass more steps=."
    assert more_steps(audited("fgsm", "linf", {})) == (
        "Use an attack of several steps, e.g. sr.load('apgd', epsilon=...)."
    )
    assert "to the ensemble, or add a member: adaptive=[{'name': 'pgd', 'steps': 200, 'restarts': 5" in more_steps(
        audited("standard", "linf", {})
    )
    assert "{'name': 'flips'" in more_steps(audited("standard", "l0", {}))
    assert "to its members" in more_steps(audited("union", "linf", {"adaptive": [MINE]}))
    pgd = ("pgd", "l2", {})
    assert missing_evidence(audited(*pgd, evidence="basic")) == "Evaluate with evidence='full'."
    assert missing_evidence(audited(*pgd), "Do that.") == "Do that."
    for quoted in (True, False):
        text = missing_evidence(audited(*pgd, quoted=quoted))
        assert text.startswith("Not measured for this attack: evidence is collected for quoted attacks")
        assert text.endswith("Quote sr.load('standard', norm='l2', epsilon=...).")
    assert "evidence='full'" in missing_evidence(audited(*pgd, evidence="basic", quoted=False))


def test_the_text_says_which_gradient_attacks_a_black_box_attack_is_compared_with(audited_run: Any) -> None:
    for attack, evidence, words in (
        (("pgd", "linf", {}), "full", "under the gradient attacks minus"),
        (("square", "linf", {}), "basic", "(this attack uses no gradients) minus robust accuracy under another"),
        (("standard", "linf", {}), "basic", "(those of this ensemble were not run by themselves) minus"),
    ):
        bench, _ = audited_run(*attack)
        bench.evidence = evidence
        assert words in bench.finding("black-box-not-stronger").why
