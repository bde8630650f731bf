"""Nets that must be caught: state that is not reset, coupled batches, zero gradients, passes that differ."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.plugin.task import Task
from snnrobust.testing.tiny import tiny_data, tiny_model

Failed = Callable[..., set[str]]
OneLayer = Callable[[Callable[[nn.Linear, Tensor], Tensor]], nn.Module]


def healthy_pgd(**settings: object) -> Task:
    return sr.load("pgd", epsilon=[0.0, 0.1], steps=4, **settings)


def clean_report(net: nn.Module, **wrapping: Any) -> sr.Report:
    """The report on a net without attacks."""
    return sr.evaluate(sr.wrap(net, layout="N", **wrapping), tiny_data(), ["clean"])


def test_a_healthy_model_fails_no_fatal_check() -> None:
    report = sr.evaluate(tiny_model(), tiny_data(), [healthy_pgd()])
    assert not [finding for finding in report.findings if finding.passed is False and finding.fatal]
    assert report.verdict == "doubtful"  # required comparisons are missing
    missing = {finding.name for finding in report.findings if finding.passed is None}
    assert {"surrogate-gap", "steps-converged", "black-box-not-stronger"} <= missing


class Stale(nn.Module):
    """Keeps a membrane that nothing resets."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 3)
        self.membrane: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        before = self.membrane
        if isinstance(before, Tensor) and before.shape[0] != x.shape[0]:
            before = 0.0
        self.membrane = before * 0.9 + self.layer(x.flatten(1))
        return self.membrane

    def forget(self) -> None:
        self.membrane = 0.0


def test_stale_state_is_caught_and_reset_cures_it(failed: Failed) -> None:
    torch.manual_seed(0)
    net = Stale()
    found = {f.name: f for f in clean_report(net).findings}
    assert found["repeatable"].passed is False
    assert "reset" in found["repeatable"].remedy
    assert "repeatable" not in failed(clean_report(net, reset=net.forget))


def test_batch_coupling_is_caught(one_layer: OneLayer, failed: Failed) -> None:
    """A net that normalises over the batch, so that a sample's output depends on the other samples."""
    coupled = one_layer(lambda layer, x: layer(x - x.mean(dim=0)))
    report = clean_report(coupled)
    assert "batch-of-one" in failed(report)
    assert report.verdict == "untrustworthy"


def test_order_dependence_is_caught(one_layer: OneLayer, failed: Failed) -> None:
    drift = one_layer(lambda layer, x: layer(x) + torch.arange(len(x))[:, None] * torch.tensor([1.0, 0.0, 0.0]))
    assert "order" in failed(clean_report(drift))


@dataclass(frozen=True)
class Dead:
    """A derivative of zero everywhere."""

    def backward(self, u: Tensor, state: dict[str, object]) -> Tensor:
        return torch.zeros_like(u)


def test_a_gradient_free_model_is_caught(failed: Failed) -> None:
    model = tiny_model()
    for node in model.net:
        if isinstance(node, neuron.BaseNode):
            node.surrogate_function = surrogate.Rect(alpha=1e9)  # nowhere within reach of its window
    report = sr.evaluate(model, tiny_data(), [healthy_pgd(random_start=False)])
    assert {"input-gradient", "zero-gradient", "attack-moves"} <= failed(report)
    assert report.verdict == "untrustworthy"


def test_an_opaque_backward_is_caught(one_layer: OneLayer, failed: Failed) -> None:
    opaque = one_layer(lambda layer, x: layer(x.detach()))
    report = sr.evaluate(sr.wrap(opaque, layout="N"), tiny_data(), [healthy_pgd(random_start=False)])
    assert "input-gradient" in failed(report)


def test_a_dead_estimator_is_caught(failed: Failed) -> None:
    report = sr.evaluate(tiny_model(), tiny_data(), [healthy_pgd(gradient=Dead(), random_start=False)])
    assert "attack-moves" in failed(report)


def test_undeclared_randomness_is_caught_and_declaring_it_cures_it(one_layer: OneLayer, failed: Failed) -> None:
    net = one_layer(lambda layer, x: layer(x) + 0.5 * torch.randn(len(x), 3))
    assert {"repeatable", "stochastic-declared"} <= failed(clean_report(net))
    cured = clean_report(net, stochastic=True)
    assert not {"repeatable", "stochastic-declared"} & failed(cured)


def test_nan_outputs_are_caught_and_never_count_as_success(one_layer: OneLayer, failed: Failed) -> None:
    broken = one_layer(lambda layer, x: layer(x) * torch.nan)
    report = clean_report(broken)
    assert "finite-outputs" in failed(report)
    assert report.clean()["correct"].sum() == 0


def test_inputs_out_of_bounds_are_refused() -> None:
    data = tiny_data()
    with pytest.raises(sr.InputError, match=r"within the bounds \[0, 1\].*got \[0, 255\]"):
        sr.evaluate(tiny_model(), ((data.x > 0.5).float() * 255, data.y), ["clean"])


@pytest.mark.parametrize(("layout", "step_mode"), [("TN", "s"), ("step", "m")])
def test_a_step_mode_that_does_not_fit_the_layout_is_caught(failed: Failed, layout: Any, step_mode: str) -> None:
    """A single-step node that gets [T, N, *] treats time as the batch; a multi-step one the batch as time."""
    net = tiny_model().net
    for node in net:
        if isinstance(node, neuron.BaseNode):
            node.step_mode = step_mode
    model = sr.wrap(net if layout == "TN" else nn.Sequential(nn.Flatten(1), *list(net)[1:]), steps=5, layout=layout)
    report = sr.evaluate(model, tiny_data(), ["clean"])
    assert "step-mode" in failed(report)
    assert "step-mode" not in failed(sr.evaluate(tiny_model(), tiny_data(), ["clean"]))


def test_a_leak_between_samples_is_caught(one_layer: OneLayer, failed: Failed) -> None:
    """A net that adds another sample of the batch to each sample."""
    leaky = one_layer(lambda layer, x: layer(x + 0.5 * x.roll(len(x) // 2, 0)))
    assert "sample-independence" in failed(clean_report(leaky))


def test_an_encoder_without_gradient_is_recorded(failed: Failed) -> None:
    def rounded(x: Tensor, steps: int) -> Tensor:
        return x.detach().round().unsqueeze(1).expand(len(x), steps, *x.shape[1:])

    report = sr.evaluate(sr.wrap(tiny_model().net, steps=4, encoder=rounded), tiny_data(), ["clean"])
    assert "encoder-gradient" in failed(report)
    assert "encoder-gradient" not in failed(sr.evaluate(tiny_model(), tiny_data(), ["clean"]))


def test_the_error_for_state_of_the_batch_names_reset() -> None:
    class Rigid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 3)
            self.membrane: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            now = self.layer(x.flatten(1))
            self.membrane = now if self.membrane is None else 0.5 * self.membrane + now
            return self.membrane

    with pytest.raises(sr.InputError, match="pass reset= if the net keeps state"):
        sr.evaluate(sr.wrap(Rigid(), layout="N"), tiny_data(), ["clean"], evidence="none")


def test_healthy_uses_of_time_raise_no_alarm(failed: Failed) -> None:
    class Pooled(nn.Module):
        """Pools over time between its layers and has a node that it does not use."""

        def __init__(self) -> None:
            super().__init__()
            flatten, first, self.node, second, self.out = tiny_model().net
            self.first, self.second = nn.Sequential(flatten, first), second
            self.spare = neuron.LIFNode(step_mode="m")

        def forward(self, x: Tensor) -> Tensor:
            spikes = self.node(self.first(x))
            pooled = spikes.reshape(2, 2, *spikes.shape[1:]).mean(dim=1)
            out: Tensor = self.out(self.second(pooled))
            return out

    assert "step-mode" not in failed(sr.evaluate(sr.wrap(Pooled(), steps=4), tiny_data(), ["clean"]))


def test_the_probe_takes_plain_data() -> None:
    data = tiny_data()
    names = {finding.name for finding in sr.probe(tiny_model(), (data.x, data.y))}
    assert {"repeatable", "step-mode", "input-gradient"} <= names


class Around(nn.Module):
    """The tiny net with a defect in its forward pass."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.net, self.how = tiny_model().net, how
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "shorter" and torch.is_grad_enabled():
            x = x[: len(x) // 2]
        if self.how == "shorter-for-gradients" and x.requires_grad:
            x = x[: len(x) // 2]
        out: Tensor = self.net(x)
        if self.how == "drifts":
            self.seen += x.mean().detach()
        if torch.is_grad_enabled() and self.how in ("shifted", "nan"):
            out = out + (0.01 if self.how == "shifted" else torch.nan)
        return out


@pytest.mark.parametrize(
    ("how", "caught"),
    [
        ("plain", set()),
        ("shorter", {"attack-steps", "attack-forward"}),
        ("shorter-for-gradients", {"attack-steps", "attack-forward"}),
        ("shifted", {"attack-forward"}),
        ("nan", {"attack-forward"}),
        ("drifts", {"buffers-untouched"}),
    ],
)
def test_a_pass_that_is_not_the_one_that_is_scored_is_caught(how: str, caught: set[str]) -> None:
    """Half the time steps, or other outputs, as soon as gradients are asked for; a buffer that counts in eval mode."""
    net = Around(how)
    before = copy.deepcopy(net.state_dict())
    found = sr.probe(sr.wrap(net, steps=4), tiny_data())
    names = {"attack-steps", "attack-forward", "buffers-untouched"}
    assert {each.name for each in found if each.passed is False and each.name in names} == caught
    assert all(each.fatal and each.required for each in found if each.name in names)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_a_membrane_that_is_a_buffer_is_no_drift() -> None:
    """A net that keeps its state in a buffer, with a method that resets it."""

    class Buffered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 3)
            self.register_buffer("membrane", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.membrane = 0.5 * self.membrane + self.layer(x.flatten(1))
            return self.membrane

        def forget(self) -> None:
            self.membrane = torch.zeros(())

    torch.manual_seed(0)
    net = Buffered()
    found = {each.name: each.passed for each in sr.probe(sr.wrap(net, layout="N", reset=net.forget), tiny_data())}
    assert found["repeatable"]
    assert found["buffers-untouched"]
