"""What must be caught, by name: leaking state, coupled batches, dead gradients, and attacks that cheat."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.common.random import Draws
from snnrobust.plugin import State
from snnrobust.plugin.task import Attack, Task
from snnrobust.search.oracle import Oracle
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.threat_models.lp import ThreatModel


def failed(report: sr.Report) -> set[str]:
    return {finding.name for finding in report.findings if finding.passed is False}


def healthy_pgd(**settings: object) -> Task:
    return sr.load("pgd", epsilon=[0.0, 0.1], steps=4, **settings)


def test_a_healthy_model_fails_no_fatal_check() -> None:
    report = sr.evaluate(tiny_model(), tiny_data(), [healthy_pgd()])
    assert not [finding for finding in report.findings if finding.passed is False and finding.fatal]
    assert report.verdict == "doubtful"  # required comparisons are missing
    missing = {finding.name for finding in report.findings if finding.passed is None}
    assert {"surrogate-gap", "steps-converged", "black-box-not-stronger"} <= missing


class Stale(nn.Module):
    """Keeps a membrane of its own and has nothing that resets it."""

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


def test_stale_state_is_caught_and_reset_cures_it() -> None:
    torch.manual_seed(0)
    net = Stale()
    found = {f.name: f for f in sr.evaluate(sr.wrap(net, layout="N"), tiny_data(), ["clean"]).findings}
    assert found["repeatable"].passed is False
    assert "reset" in found["repeatable"].remedy
    cured = sr.wrap(net, layout="N", reset=net.forget)
    assert "repeatable" not in failed(sr.evaluate(cured, tiny_data(), ["clean"]))


class Coupled(nn.Module):
    """Normalises over the batch, so that a sample's output depends on its batch mates."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return self.layer(flat - flat.mean(dim=0))


def test_batch_coupling_is_caught() -> None:
    report = sr.evaluate(sr.wrap(Coupled(), layout="N"), tiny_data(), ["clean"])
    assert "batch-of-one" in failed(report)
    assert report.verdict == "untrustworthy"


def test_order_dependence_is_caught() -> None:
    class Drift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.flatten(1)) + torch.arange(len(x))[:, None] * torch.tensor([1.0, 0.0, 0.0])

    assert "order" in failed(sr.evaluate(sr.wrap(Drift(), layout="N"), tiny_data(), ["clean"]))


@dataclass(frozen=True)
class Dead:
    """A derivative of zero everywhere."""

    def backward(self, u: Tensor, state: dict[str, object]) -> Tensor:
        return torch.zeros_like(u)


def test_a_gradient_free_model_is_caught() -> None:
    model = tiny_model()
    for node in model.net:
        if isinstance(node, neuron.BaseNode):
            node.surrogate_function = surrogate.Rect(alpha=1e9)  # nowhere within reach of its window
    report = sr.evaluate(model, tiny_data(), [healthy_pgd(random_start=False)])
    assert {"input-gradient", "zero-gradient", "attack-moves"} <= failed(report)
    assert report.verdict == "untrustworthy"


def test_an_opaque_backward_is_caught() -> None:
    class Opaque(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.flatten(1).detach())

    report = sr.evaluate(sr.wrap(Opaque(), layout="N"), tiny_data(), [healthy_pgd(random_start=False)])
    assert "input-gradient" in failed(report)


def test_a_dead_estimator_is_caught() -> None:
    report = sr.evaluate(tiny_model(), tiny_data(), [healthy_pgd(gradient=Dead(), random_start=False)])
    assert "attack-moves" in failed(report)


def test_undeclared_randomness_is_caught_and_declaring_it_cures_it() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.flatten(1)) + 0.5 * torch.randn(len(x), 3)

    net = Noisy()
    assert {"repeatable", "stochastic-declared"} <= failed(
        sr.evaluate(sr.wrap(net, layout="N"), tiny_data(), ["clean"])
    )
    cured = sr.evaluate(sr.wrap(net, layout="N", stochastic=True), tiny_data(), ["clean"])
    assert not {"repeatable", "stochastic-declared"} & failed(cured)


def test_nan_outputs_are_caught_and_never_count_as_success() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.flatten(1)) * torch.nan

    report = sr.evaluate(sr.wrap(Broken(), layout="N"), tiny_data(), ["clean"])
    assert "finite-outputs" in failed(report)
    assert report.clean()["correct"].sum() == 0


def test_inputs_out_of_bounds_are_refused() -> None:
    data = tiny_data()
    with pytest.raises(sr.InputError, match=r"within the bounds \[0, 1\].*got \[0, 255\]"):
        sr.evaluate(tiny_model(), ((data.x > 0.5).float() * 255, data.y), ["clean"])


@dataclass(frozen=True)
class Cheat:
    """An optimiser that does what it is told to, wrongly."""

    how: Literal["nan", "budget", "bounds", "shape", "input"]
    steps: ClassVar[int] = 1
    needs: ClassVar[Literal["loss"]] = "loss"

    def init(self, x0: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> State:
        return {"x": x0.clone()}

    def step(
        self,
        state: State,
        gradient: Tensor | None,
        loss: Tensor,
        x0: Tensor,
        k: Tensor,
        threat: ThreatModel,
        rng: Draws,
        index: Tensor,
    ) -> State:
        wrong = {
            "nan": lambda: x0 * torch.nan,
            "budget": lambda: (x0 + 2 * threat.epsilon * (0.5 - x0).sign()).clamp(0, 1),
            "bounds": lambda: x0 - 0.99 * threat.epsilon,
            "shape": lambda: x0.flatten(1),
            "input": lambda: x0,
        }[self.how]()
        return {"x": wrong}


@dataclass(frozen=True)
class CheatingLoop:
    """The same for an attack that owns its loop."""

    how: Literal["nan", "budget", "bounds", "shape", "input"]

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> Tensor:
        return Cheat(self.how).step({}, None, x, x, x, threat, rng, index)["x"]


def as_task(plugin: object, epsilon: float = 0.1) -> Task:
    factors = Attack("linf", sr.create("cross_entropy"), sr.create("own"), 1, 1)
    return Task("cheat", "cheat", "attack", "test", plugin, (epsilon,), factors)


@pytest.mark.parametrize("kind", [Cheat, CheatingLoop])
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nan", r"finite values from 'cheat', got NaN or infinity for sample \d+"),
        ("budget", r"linf distance <= 0.1 from 'cheat', got 0\.[12]\d* for sample \d+"),
        ("bounds", r"values within \[0, 1\] from 'cheat', got values from -0\.\d+ .* for sample \d+"),
    ],
)
def test_attacks_that_cheat_are_errors(kind: type, how: str, message: str) -> None:
    model, data = tiny_model(), tiny_data()
    before = copy.deepcopy(model.net.state_dict())
    with pytest.raises(sr.ViolationError, match=message):
        sr.evaluate(model, data, [as_task(kind(how))])
    assert all(torch.equal(before[name], value) for name, value in model.net.state_dict().items())


def test_a_wrong_shape_is_an_error() -> None:
    with pytest.raises(sr.PluginError, match="names and shapes"):
        sr.evaluate(tiny_model(), tiny_data(), [as_task(Cheat("shape"))])
    with pytest.raises(sr.ViolationError, match="examples of shape"):
        sr.evaluate(tiny_model(), tiny_data(), [as_task(CheatingLoop("shape"))])


@pytest.mark.parametrize("kind", [Cheat, CheatingLoop])
def test_an_attack_that_returns_its_input_is_flagged(kind: type) -> None:
    report = sr.evaluate(tiny_model(), tiny_data(), [as_task(kind("input"))])
    flagged = {finding.name: finding for finding in report.findings}["attack-moves"]
    assert flagged.passed is False
    assert flagged.value == 1.0
    assert report.verdict == "untrustworthy"


def test_an_attack_weaker_than_noise_is_flagged() -> None:
    lazy = sr.load("pgd", label="lazy", epsilon=0.5, steps=1, step_size=1e-6, random_start=False)
    strong = sr.load("pgd", label="strong", epsilon=0.5, steps=20)
    report = sr.evaluate(tiny_model(), tiny_data(count=60), [lazy, strong, sr.load("uniform", severity=0.5)])
    beaten = {finding.label: finding.passed for finding in report.findings if finding.name == "noise-not-stronger"}
    assert beaten == {"lazy": False, "strong": True}


@pytest.mark.parametrize(("layout", "step_mode"), [("TN", "s"), ("step", "m")])
def test_a_step_mode_that_does_not_fit_the_layout_is_caught(layout: Any, step_mode: str) -> None:
    """A single-step node that gets [T, N, *] takes time for the batch; a multi-step one the batch for time."""
    net = tiny_model().net
    for node in net:
        if isinstance(node, neuron.BaseNode):
            node.step_mode = step_mode
    model = sr.wrap(net if layout == "TN" else nn.Sequential(nn.Flatten(1), *list(net)[1:]), steps=5, layout=layout)
    report = sr.evaluate(model, tiny_data(), ["clean"])
    assert "step-mode" in failed(report)
    assert "step-mode" not in failed(sr.evaluate(tiny_model(), tiny_data(), ["clean"]))


def test_a_leak_between_samples_is_caught() -> None:
    class Leaky(nn.Module):
        """Adds its neighbour's input, if it has one: right alone is not right together."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(1)
            return self.layer(flat + 0.5 * flat.roll(len(flat) // 2, 0))

    assert "sample-independence" in failed(sr.evaluate(sr.wrap(Leaky(), layout="N"), tiny_data(), ["clean"]))


def test_an_encoder_without_gradient_is_recorded() -> None:
    def rounded(x: Tensor, steps: int) -> Tensor:
        return x.detach().round().unsqueeze(1).expand(len(x), steps, *x.shape[1:])

    report = sr.evaluate(sr.wrap(tiny_model().net, steps=4, encoder=rounded), tiny_data(), ["clean"])
    assert "encoder-gradient" in failed(report)
    assert "encoder-gradient" not in failed(sr.evaluate(tiny_model(), tiny_data(), ["clean"]))


def test_a_net_with_state_of_its_batch_is_told_about_reset() -> None:
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


def test_healthy_uses_of_time_raise_no_alarm() -> None:
    class Pooled(nn.Module):
        """Halves time between its layers and keeps a node that it does not use."""

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


@dataclass(frozen=True)
class Selective:
    """Breaks every other sample and hands the rest back, as a minimum-norm attack does."""

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> Tensor:
        gradient, _, _ = oracle.gradient(x, y, index)
        moved = threat.project(x + threat.epsilon * gradient.sign(), x)
        return torch.where((index % 2 == 0).reshape(-1, 1, 1, 1), moved, x)


def test_an_attack_that_leaves_alone_what_it_cannot_break_costs_no_trust() -> None:
    report = sr.evaluate(tiny_model(), tiny_data(count=60), [as_task(Selective(), epsilon=0.4)])
    flagged = {finding.name: finding for finding in report.findings}["attack-moves"]
    assert 0 < report.robust("cheat").mean() < 1
    assert flagged.passed is False
    assert not flagged.required
    assert not flagged.fatal


def test_the_probe_takes_plain_data() -> None:
    data = tiny_data()
    names = {finding.name for finding in sr.probe(tiny_model(), (data.x, data.y))}
    assert {"repeatable", "step-mode", "input-gradient"} <= names


class Around(nn.Module):
    """The tiny net with something odd about its forward pass."""

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
    """A net that keeps its state in a buffer and says how to reset it."""

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
