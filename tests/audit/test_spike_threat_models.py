"""Attacks and nets that must be caught where inputs are spikes: flips, and events that move in time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import surrogate
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.plugin.task import Task
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.threat_models.threat_model import Norm

Failed = Callable[..., set[str]]
BUDGETS: dict[Norm, float] = {"l0": 6, "shift-linf": 1, "shift-l0": 4}


class Reversed(torch.autograd.Function):
    """The identity, with a gradient of the wrong sign."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


class Misleading(nn.Module):
    """The tiny net behind a reversed gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.net = tiny_model(temporal=True).net

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(Reversed.apply(x))
        return out


def usual(norm: Norm, steps: int = 10, **more: Any) -> Task:
    """A gradient search under this norm."""
    name = "flips" if norm == "l0" else "retiming"
    return sr.load(name, norm=norm, epsilon=BUDGETS[norm], steps=steps, **more)


@pytest.fixture(autouse=True)
def small_standard(standard_members: Callable[[list[dict[str, Any]]], None], norm: Norm) -> None:
    """The ensemble that the audit compares with, with two members."""
    name = "flips" if norm == "l0" else "retiming"
    estimator = {"name": "fast-sigmoid", "alpha": 8.0}
    standard_members(
        [
            {"name": name, "label": "other", "gradient": estimator, "objective": "margin", "steps": 20},
            {"name": "random-search", "label": "random", "objective": "margin", "steps": 150},
        ]
    )


def wider() -> tuple[sr.SpikingModel, Tensor, Tensor]:
    """A net with 240 entries, where chance does not find what a gradient shows."""
    generator = torch.Generator().manual_seed(0)
    layers = [nn.Linear(40, 24), nn.Linear(24, 3)]
    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) / layer.in_features**0.5)
            layer.bias.fill_(0.3)
    net = nn.Sequential(layers[0], sr.neurons.lif(), layers[1], sr.neurons.lif())
    model = sr.wrap(net, encoder=None, domain="binary")
    x = (torch.rand(60, 6, 40, generator=generator) < 0.5).float()
    return model, x, model.predict(model.logits(x)).clamp_min(0).detach()


@pytest.mark.parametrize("norm", list(BUDGETS))
def test_a_healthy_net_is_not_accused(norm: Norm) -> None:
    task = usual(norm, 100, gradient={"name": "fast-sigmoid", "alpha": 8.0}, objective="margin")
    model, x, y = wider()
    report = sr.evaluate(model, (x, y), [task], evidence="full")
    assert not {each.name for each in report.findings if each.passed is False and each.fatal}


@pytest.mark.parametrize("norm", list(BUDGETS))
def test_a_masked_gradient_is_caught(norm: Norm, failed: Failed) -> None:
    """A surrogate of almost no width passes no gradient; another estimator breaks more samples."""
    masked = tiny_model(temporal=True, surrogate_function=surrogate.Sigmoid(alpha=80.0))
    report = sr.evaluate(masked, tiny_data(temporal=True, count=60), [usual(norm)], evidence="full")
    assert "surrogate-gap" in failed(report, usual(norm).label)
    assert report.verdict == "untrustworthy"


@pytest.mark.parametrize("norm", list(BUDGETS))
def test_a_reversed_gradient_is_caught_by_black_box_attacks(norm: Norm, failed: Failed) -> None:
    model = sr.wrap(Misleading(), encoder=None, domain="binary", name="misleading")
    report = sr.evaluate(model, tiny_data(temporal=True, count=60), [usual(norm)], evidence="full")
    assert "black-box-not-stronger" in failed(report, usual(norm).label)


def timid(at: Any) -> Tensor:
    """One change that helps the net: the event against the gradient, within the threat model."""
    g = at.gradient.flatten(1)
    score = torch.full_like(g, -1.0).scatter(1, (g * (1 - 2 * at.x0.flatten(1))).argmin(dim=1, keepdim=True), 1.0)
    target = (1 - at.x0.flatten(1)) * (score > 0) + at.x0.flatten(1) * (score <= 0)
    moved = target.reshape(at.x0.shape)
    if at.threat.norm.startswith("shift"):
        moved = at.x0 - 1e-3 * at.gradient.sign()  # where events are worth least, and hardly anything moves
    return at.threat.project(moved, at.x0)


@pytest.mark.parametrize("norm", list(BUDGETS))
def test_an_attack_weaker_than_random_changes_is_caught(
    norm: Norm, failed: Failed, optimiser: Callable[..., Any], attack_task: Callable[..., Task]
) -> None:
    radius = 100.0 if norm == "l0" else BUDGETS[norm]  # of 240 entries: fewer random flips break little
    task = attack_task("timid", optimiser("timid", timid, steps=3), radius, norm=norm)
    model, x, y = wider()
    report = sr.evaluate(model, (x, y), [task], evidence="full")
    assert failed(report, "timid") & {"noise-not-stronger", "attack-moves"}
    assert report.verdict == "untrustworthy"


@pytest.mark.parametrize("norm", list(BUDGETS))
@pytest.mark.parametrize(
    ("illegal", "words"),
    [
        (lambda at: at.x0 * 0.5, r"whole numbers .* an entry 0\.5"),
        (lambda at: -at.x0, r"values within \[0, 1\] .* from -1"),
        (lambda at: 1 - at.x0, "distance <= 6|allowed example"),
        (lambda at: torch.zeros_like(at.x0), "distance <= 6|allowed example"),
    ],
    ids=["fraction", "negative", "all flipped", "all deleted"],
)
def test_illegal_grids_are_errors(
    norm: Norm,
    illegal: Callable[[Any], Tensor],
    words: str,
    optimiser: Callable[..., Any],
    attack_task: Callable[..., Task],
) -> None:
    task = attack_task("illegal", optimiser("illegal", illegal, steps=1, needs="loss"), BUDGETS[norm], norm=norm)
    with pytest.raises(sr.ViolationError, match=words):
        sr.evaluate(tiny_model(temporal=True), tiny_data(temporal=True), [task], evidence="none")


@pytest.mark.parametrize("norm", ["l0"])
def test_limits_make_another_threat_model(norm: Norm) -> None:
    """Attacks under other limits are not compared: more is allowed to one than to the other."""
    alone = usual(norm)
    limited = usual(norm, label="limited", limits={"deletions": 0})
    report = sr.evaluate(
        tiny_model(temporal=True), tiny_data(temporal=True, count=60), [alone, limited], evidence="full"
    )
    assert report.curve("limited").threat == "l0 with deletions <= 0 in [0, 1], binary"
    about = {each["about"] for each in report.outcomes.run["evidence_tasks"]["tiny"]}
    assert {"l0", "l0 with deletions <= 0"} <= about
    remedies = " ".join(each.remedy for each in report.findings if each.label == "limited")
    assert "limits={'deletions': 0.0}" in remedies
