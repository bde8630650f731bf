"""Positive controls with evidence="full": real nets and attacks, each of which makes a finding fail."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import surrogate
from torch import Tensor, nn

import snnrobust as sr
from snnrobust import audit
from snnrobust.plugin.task import Task
from snnrobust.results.records import Claim
from snnrobust.testing.tiny import tiny_data, tiny_model

Failed = Callable[..., set[str]]


@pytest.fixture(autouse=True)
def small_standard(standard_members: Callable[[list[dict[str, Any]]], None]) -> None:
    """A small ensemble in place of the audit's: the tests are about the findings, not about the ensemble."""
    members = [
        {"name": "pgd", "label": "own", "steps": 20},
        {"name": "pgd", "label": "atan", "gradient": "atan", "objective": "margin", "steps": 20},
        {"name": "random-search", "label": "random search", "objective": "margin", "steps": 60},
    ]
    standard_members(members)


def claim(report: sr.Report, label: str, model: str = "", strength: float = 0.0) -> Claim:
    (one,) = [
        each
        for each in report.claims
        if each.label == label and model in ("", each.model) and strength in (0.0, each.strength)
    ]
    return one


def pgd(epsilon: Any = 0.1, **settings: Any) -> Task:
    return sr.load("pgd", epsilon=epsilon, **{"steps": 10, **settings})


class Negate(torch.autograd.Function):
    """The identity with a gradient that points the wrong way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]


class Wrapped(nn.Module):
    """The tiny net with something before it and after it."""

    def __init__(self, before: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.net = tiny_model().net
        self.before = before

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x if self.before is None else self.before(x))
        return out


def misleading() -> sr.SpikingModel:
    """The tiny net with a first layer whose gradient points the wrong way: useful to no gradient attack."""
    return sr.wrap(Wrapped(Negate.apply), name="misleading", steps=4)


def test_a_healthy_net_with_all_evidence_fails_nothing_that_costs_trust() -> None:
    report = sr.evaluate(tiny_model(), tiny_data(count=60), [pgd(), "clean"], evidence="full")
    assert {each.name for each in report.findings if each.passed is False and each.required} == set()
    assert {each.name for each in report.findings if each.passed is False and each.fatal} == set()


@pytest.mark.parametrize(
    "masked",
    [
        lambda: tiny_model(surrogate_function=surrogate.Sigmoid(alpha=50.0)),
        # Cross entropy of logits that are far apart is flat, down to the last bit.
        lambda: sr.wrap(tiny_model().net, steps=4, readout=lambda out, _: 1e4 * out.mean(dim=1)),
    ],
    ids=["sharp-surrogate", "scaled-logits"],
)
def test_a_masked_gradient_is_caught(failed: Failed, masked: Callable[[], sr.SpikingModel]) -> None:
    report = sr.evaluate(masked(), tiny_data(count=60), [pgd()], evidence="full")
    assert {"surrogate-gap", "full-range-attack"} <= failed(report, "pgd")
    assert claim(report, "pgd").verdict == report.verdict == "untrustworthy"


def test_a_net_with_reversed_gradients_is_caught_by_black_box_attacks(failed: Failed) -> None:
    report = sr.evaluate(misleading(), tiny_data(count=60), [pgd()], evidence="full")
    assert {"black-box-not-stronger", "full-range-attack"} <= failed(report, "pgd")
    assert "input-gradient" not in failed(report)  # there is a gradient, but in the wrong direction
    assert claim(report, "pgd").verdict == "untrustworthy"


def test_transfer_from_an_open_net_to_a_masked_one_is_caught(failed: Failed) -> None:
    """Both are attacked; the examples of the other one come from the audit itself, or from source=."""
    models = {"masked": misleading(), "open": tiny_model()}
    report = sr.evaluate(models, tiny_data(count=60), [pgd()], evidence="full")
    caught = {each.model: each.passed for each in report.findings if each.name == "transfer-not-stronger"}
    assert caught["masked"] is False
    assert caught["open"] is True
    given = pgd(label="from open", source="open")
    report = sr.evaluate(misleading(), tiny_data(count=60), [pgd(), given], sources={"open": tiny_model()})
    assert "transfer-not-stronger" in failed(report, "pgd")


def test_steps_that_are_too_small_are_caught(failed: Failed) -> None:
    short = pgd(0.2, step_size=0.002, random_start=False)
    report = sr.evaluate(tiny_model(), tiny_data(count=60), [short], evidence="full")
    assert "steps-converged" in failed(report)
    assert claim(report, "pgd").verdict != "trusted"


def move(how: Literal["picky", "restless", "coupled", "plain"], at: Any) -> Tensor:
    """The next iterate of a gradient attack with a defect."""
    if how == "picky" and at.threat.epsilon != 0.1:
        return at.threat.project(at.x0 + 1e-3, at.x0)  # works at one radius only
    gradient = at.gradient
    if how == "coupled":
        gradient = gradient - gradient.mean(dim=0)  # over the batch
    stepped = at.threat.project(at.x + 2.5 * at.threat.epsilon / at.steps * gradient.sign(), at.x0)
    if how == "restless":
        turn = (at.k % 2 == 1).reshape(-1, *[1] * (at.x0.ndim - 1))
        stepped = torch.where(turn, at.x0, at.threat.project(at.x0 + at.threat.epsilon * gradient.sign(), at.x0))
    return stepped


@pytest.fixture
def odd(optimiser: Callable[..., Any], attack_task: Callable[..., Task]) -> Callable[..., Task]:
    """Makes the task of an odd attack."""

    def make(how: str, *radii: float) -> Task:
        return attack_task("odd", optimiser(how, partial(move, how), steps=10), *radii)

    return make


@pytest.mark.parametrize(
    ("how", "name", "required"),
    [("picky", "monotone", True), ("restless", "last-iterate", False), ("coupled", "attack-order", True)],
)
def test_odd_attacks_are_caught(odd: Callable[..., Task], how: Any, name: str, required: bool) -> None:
    """An attack that works at one radius only, one that oscillates, and one that couples its samples."""
    radii = (0.1, 0.2) if how == "picky" else (0.1,)
    data = tiny_data(count=60)
    report = sr.evaluate(tiny_model(), data, [odd(how, *radii)], evidence="full")
    caught = [each for each in report.findings if each.name == name and each.strength == radii[-1]]
    assert [(each.passed, each.required) for each in caught] == [(False, required)]
    assert claim(report, "odd", strength=radii[-1]).verdict != "trusted"


def test_the_same_attack_without_its_oddity_is_let_through(odd: Callable[..., Task], failed: Failed) -> None:
    report = sr.evaluate(tiny_model(), tiny_data(count=60), [odd("plain", 0.1)], evidence="full")
    assert not failed(report) & {"monotone", "last-iterate", "attack-order", "steps-converged"}


def test_a_constant_net_is_caught(failed: Failed) -> None:
    """It is robust at every radius, also when its input is replaced."""
    model = tiny_model()
    with torch.no_grad():
        model.net[3].weight.zero_()
        model.net[3].bias.copy_(torch.tensor([2.0, 0.0, 0.0]))
    data = tiny_data(count=60)
    report = sr.evaluate(model, (data.x, data.y), [pgd()], evidence="full")
    assert {"full-range", "full-range-attack"} <= failed(report, "pgd")
    assert report.curve("pgd").value[0] == report.clean()["correct"].mean() > 0
    assert report.verdict == "untrustworthy"


def test_a_net_that_changes_while_it_is_attacked_is_caught(failed: Failed) -> None:
    """After 100 passes the net permutes its classes."""

    class Tired(Wrapped):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            out = super().forward(x)
            return out if self.calls < 100 else out.roll(1, dims=-1)

    model = sr.wrap(Tired(), name="tired", steps=4, accelerate=False)  # each pass of the search counts
    report = sr.evaluate(model, tiny_data(count=30), [pgd(steps=60)], evidence="full")
    assert "epsilon-zero" in failed(report, "pgd")
    assert report.verdict == "untrustworthy"


@pytest.mark.parametrize(("eot", "name"), [(1, "eot"), (2, "eot-plateau")])
def test_a_stochastic_net_needs_enough_draws(
    failed: Failed, poisson_model: Callable[..., sr.SpikingModel], eot: int, name: str
) -> None:
    """Random spikes over two steps: one draw is too few, and four draws break more samples than two."""
    report = sr.evaluate(poisson_model(steps=2), tiny_data(count=60), [pgd(0.2, eot=eot)], evidence="full")
    assert name in failed(report, "pgd")
    assert claim(report, "pgd").verdict != "trusted"


def test_results_that_were_tampered_with_are_caught(failed: Failed) -> None:
    report = sr.evaluate(tiny_model(), tiny_data(count=30), [pgd()])
    assert "budget" not in failed(report)
    broken = report.cell("tiny", "pgd", 0)["correct"] == 0
    report.cell("tiny", "pgd", 0)["distance"][np.flatnonzero(broken)[0]] = 0.11
    report.audit = audit.audit_outcomes(report.outcomes)
    assert "budget" in failed(report, "pgd")
    assert {each.verdict for each in report.claims} == {"untrustworthy"}


def test_a_net_with_other_outputs_in_the_search_than_in_scoring_is_caught(failed: Failed) -> None:
    class TwoFaced(Wrapped):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            return out.roll(1, dims=-1) if torch.is_grad_enabled() else out

    model = sr.wrap(TwoFaced(), name="two-faced", steps=4)
    report = sr.evaluate(model, tiny_data(count=30), [pgd()])
    assert {"rescoring", "attack-forward"} <= failed(report)
    assert report.verdict == "untrustworthy"


def test_ties_are_reported(failed: Failed) -> None:
    class Tied(Wrapped):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[..., [0, 0, 1]]

    data = tiny_data(count=30)
    report = sr.evaluate(sr.wrap(Tied(), steps=4), (data.x, torch.zeros_like(data.y)), [pgd()])
    assert {"strict-accuracy", "ties"} <= failed(report)


def test_models_that_differ_by_less_than_the_interval_are_reported() -> None:
    models = {"a": tiny_model(), "b": tiny_model(surrogate_function=surrogate.ATan(alpha=3.0))}
    report = sr.evaluate(models, tiny_data(count=30), [pgd()])
    reported = {each.model: each.passed for each in report.findings if each.name == "resolution"}
    assert reported == {"a": False, "b": False}
    far = {"a": tiny_model(), "b": tiny_model(surrogate_function=surrogate.Sigmoid(alpha=200.0))}
    report = sr.evaluate(far, tiny_data(count=60), [pgd()])
    assert {each.passed for each in report.findings if each.name == "resolution"} == {True}


def test_a_net_with_randomness_of_its_own_is_not_accused() -> None:
    class Noisy(Wrapped):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + 0.1 * torch.randn_like(x))

    model = sr.wrap(Noisy(), steps=4, stochastic=True, name="noisy")
    report = sr.evaluate(model, tiny_data(count=40), [pgd(steps=5, eot=4)], evidence="full")
    assert {each.name for each in report.findings if each.passed is False and each.fatal} == set()
