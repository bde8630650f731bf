"""No outcome depends on how far a sequence is padded, or with what."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn
from torch.nn import functional

import snnrobust as sr
from snnrobust.common.batching import BatchSizer
from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.data.batch import Batch
from snnrobust.data.padding import by_length, with_padding, without_padding
from snnrobust.errors import InputError, PluginError, ViolationError
from snnrobust.objectives.logits import CrossEntropy
from snnrobust.objectives.sequences import CurrentMargin, MembraneMargin, PerStepCrossEntropy
from snnrobust.plugin import Queries, State
from snnrobust.plugin.protocols import AnyEstimator, Objective
from snnrobust.plugin.registry import parameter_names, plugins
from snnrobust.search.attack_context import AttackContext, SearchResult
from snnrobust.search.batch_queries import BatchQueries
from snnrobust.search.loop import perturb, search
from snnrobust.search.queries import ModelQueries
from snnrobust.search.scoring import Scorer
from snnrobust.spike_gradients.swap import Own
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust_attacks.estimators.hart import HART

STEPS, FEATURES = 4, 6
LENGTHS = torch.tensor([4, 2, 3, 4, 1, 2, 3, 4])
EPSILON = {"linf": {"real": 0.1, "binary": 1.0}, "l2": {"real": 0.4, "binary": 1.5}, "l1": {"real": 1.0, "binary": 2.0}}
FEW = {"steps": 4, "queries": 4, "starts": 3, "candidates": 8, "inner": 4}
_REAL, _BINARY = ({f"{norm}-{domain}" for norm in ("linf", "l2", "l1", "l0")} for domain in ("real", "binary"))
_GRADIENT = {"l2-binary", "l0-real", "l0-binary"}
#: Threat models that an attack is not defined for, padded or not.
REFUSED = {
    **dict.fromkeys(("fgsm", "r-fgsm", "pgd", "momentum", "apgd"), _GRADIENT),
    "sa-pgd": {*_GRADIENT, "l2-real", "l1-real", "l1-binary"},
    "random-search": {"l2-binary"},
    "flips": {"linf-real", "l2-real", "l2-binary", "l1-real"},
    "square": {*_GRADIENT, "l1-real", "l1-binary"},
    "retiming": {*_REAL, *_BINARY},
    **{key: {*_REAL, "l2-binary"} for key in ("spike-flip", "random-flips", "sda", "spikefool", "greedy-flips")},
    "fewest-flips": {"linf-real", "l2-real", "l2-binary", "l1-real"},
    # What has no sequences [N, T, F]: they have tests of their own.
    **{key: {*_REAL, *_BINARY} for key in ("spike-flip-pixels", "gumbel-events", "event-pattern")},
    **{key: {"l2-binary"} for key in ("universal", "patch")},
    "hop-skip-jump": {*_GRADIENT, "linf-binary", "l1-real", "l1-binary"},
    "minimum-norm": {*_GRADIENT, "linf-binary", "l1-binary"},
}
CASES = [
    (plugin.name, norm, domain)
    for plugin in plugins()
    if plugin.kind in ("optimisers", "perturbations") and plugin.origin.startswith("snnrobust")
    for norm in ("linf", "l2", "l1", "l0")
    for domain in ("real", "binary")
    if plugin.name != "torchattacks"  # has tests of its own
] + [("retiming", "shift-linf", "binary"), ("random-search", "shift-l0", "binary")]


def model(domain: str) -> sr.SpikingModel:
    """A net whose numbers are exact in float64, whatever the shape of a matrix product: multiples of 1 / 16."""
    generator = torch.Generator().manual_seed(0)
    layers = nn.Linear(FEATURES, 12), nn.Linear(12, 3)
    for layer in layers:
        layer.weight.data = (torch.randn(layer.weight.shape, generator=generator) * 12).round() / 16
        layer.bias.data = (torch.rand(layer.bias.shape, generator=generator) * 6).round() / 16
    nodes = [neuron.LIFNode(tau=2.0, decay_input=False, step_mode="m") for _ in layers]
    net = nn.Sequential(layers[0], nodes[0], layers[1], nodes[1]).double()
    return sr.wrap(net, name="tiny", encoder=None, domain=domain)


def sequences(
    domain: str, padded: int = STEPS, filling: str = "zeros", lengths: Tensor = LENGTHS, seed: int = 4
) -> Dataset:
    """The same sequences, padded to `padded` steps."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(len(lengths), STEPS, FEATURES, generator=generator).double()
    x = (x < 0.5).double() if domain == "binary" else (x * 16).round() / 16
    y = model(domain).logits(x, lengths=lengths).argmax(dim=1)
    whole = torch.zeros(len(x), padded, FEATURES, dtype=x.dtype)
    if filling == "noise":
        whole = (torch.rand(whole.shape, generator=generator) < 0.5).to(x)
    for row, n in enumerate(lengths.tolist()):
        whole[row, :n] = x[row, :n]
    return Dataset.of(whole.float(), y, lengths=lengths, name="sequences")


def few(name: str) -> dict[str, Any]:
    return {parameter: FEW[parameter] for parameter in parameter_names(name) if parameter in FEW}


def found(task: sr.Task, domain: str, padded: int, filling: str = "zeros") -> tuple[Tensor, list[Tensor], Tensor]:
    """Success [N], the examples within their lengths, and distances [N]."""
    data = sequences(domain, padded, filling)
    splits = {"test": data, "validation": sequences(domain, padded, filling, seed=5)}
    got = sr.attack(model(domain), splits, task, progress=False)
    assert data.lengths is not None
    for x, x0, n in zip(got.x, got.original, data.lengths.tolist(), strict=True):
        assert torch.equal(x[n:], x0[n:])
    within = [x[:n] for x, n in zip(got.x, data.lengths.tolist(), strict=True)]
    return got.success, within, got.distance


def assert_independent(task: sr.Task, domain: str) -> None:
    success, within, distance = found(task, domain, STEPS)
    for padded, filling in ((2 * STEPS, "zeros"), (5 * STEPS, "zeros"), (2 * STEPS, "noise")):
        other_success, other_within, other_distance = found(task, domain, padded, filling)
        assert torch.equal(success, other_success), (padded, filling)
        for x, other in zip(within, other_within, strict=True):
            torch.testing.assert_close(x, other, rtol=0, atol=1e-6)
        torch.testing.assert_close(distance, other_distance, rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize(("name", "norm", "domain"), CASES, ids=["-".join(case) for case in CASES])
def test_no_attack_depends_on_padding(name: str, norm: str, domain: str) -> None:
    epsilon = EPSILON.get(norm, {"real": 3, "binary": 3})[domain]
    task = sr.load(name, norm=norm, epsilon=epsilon, **few(name))
    if f"{norm}-{domain}" in REFUSED.get(name, ()):
        with pytest.raises(InputError):
            found(task, domain, STEPS)
    else:
        assert_independent(task, domain)


@pytest.mark.parametrize("name", ["pgd", "flips"])
def test_neither_does_one_on_the_accelerated_model(name: str) -> None:
    data, lengths = tiny_data(temporal=True), torch.tensor([4, 2, 3] * 4)
    y = tiny_model(temporal=True).logits(data.x, lengths=lengths).argmax(dim=1)
    success = []
    for padded in (4, 8, 20):
        x = torch.cat([data.x, torch.zeros(len(data), padded - 4, 6)], dim=1)
        task = sr.load(name, norm="l1", epsilon=2.0, steps=5)
        sequences = Dataset.of(x, y, lengths=lengths)
        report = sr.evaluate(tiny_model(temporal=True), sequences, [task], evidence="none", progress=False)
        success.append(report.robust(name))
    assert np.array_equal(success[0], success[1])
    assert np.array_equal(success[0], success[2])


def test_the_cases_hold_what_they_should() -> None:
    assert {name for name, _, _ in CASES} >= {
        *("fgsm", "r-fgsm", "pgd", "momentum", "apgd", "sa-pgd", "square", "random-search", "flips"),
        *("minimum-norm", "hop-skip-jump"),
    }


@pytest.mark.parametrize("objective", ["margin", "per-step", "graded-margin", "graded-current"])
@pytest.mark.parametrize("gradient", ["own", "atan", "hart", "hart-mix", "rga", "rate-relu", "pdsg-sample", "assg"])
def test_no_estimator_or_objective_depends_on_padding(gradient: str, objective: str) -> None:
    task = sr.load("pgd", norm="l2", epsilon=0.4, steps=3, gradient=gradient, objective=objective, random_start=False)
    assert_independent(task, "real")


def test_an_ensemble_does_not_depend_on_padding() -> None:
    assert_independent(sr.load("fast", norm="l1", epsilon=1.0), "real")


@pytest.mark.parametrize(
    ("noise", "domain"),
    [("gaussian", "real"), ("uniform", "real"), ("salt-and-pepper", "real"), *itertools.product(
        ("spike-deletion", "time-jitter", "salt-and-pepper"), ("binary",)
    )],
)  # fmt: skip
def test_noise_does_not_depend_on_padding(noise: str, domain: str) -> None:
    task = sr.load(noise, severity=[0.3, 0.8], draws=20)
    accuracy = []
    for padded in (STEPS, 2 * STEPS, 5 * STEPS):
        report = sr.evaluate(model(domain), sequences(domain, padded), [task], evidence="none", progress=False)
        accuracy.append(report.curve(noise).value)
    assert accuracy[0][-1] < 1  # the noise does something
    assert np.array_equal(accuracy[0], accuracy[1])
    assert np.array_equal(accuracy[0], accuracy[2])


@pytest.mark.parametrize("padded", [STEPS, 3 * STEPS])
def test_objectives_over_time_count_valid_steps_alone(padded: int) -> None:
    """Written out for each sequence, cut to its length."""
    net, data = model("real"), sequences("real", padded)
    assert data.lengths is not None
    objective = PerStepCrossEntropy()
    batch = Batch(data.x.double(), data.y, data.index, data.lengths)
    gradient, values, _ = ModelQueries(net, objective, Own()).gradient(batch)
    for row, n in enumerate(data.lengths.tolist()):
        x = data.x[row : row + 1, :n].double().requires_grad_()
        with net.session():
            outputs = net.outputs(x)[0]  # [n, K]
            by_hand = functional.cross_entropy(outputs, data.y[row].repeat(n), reduction="sum") / n
            (slope,) = torch.autograd.grad(by_hand, x)
        torch.testing.assert_close(values[row], by_hand.detach(), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(gradient[row, :n], slope[0], rtol=1e-9, atol=1e-9)
        assert not gradient[row, n:].any()


@pytest.mark.parametrize("objective", [MembraneMargin(), CurrentMargin(), PerStepCrossEntropy()], ids=repr)
@pytest.mark.parametrize("estimator", [Own(), HART()], ids=repr)
def test_values_and_gradients_are_those_of_the_sequence_alone(objective: Objective, estimator: AnyEstimator) -> None:
    net, data = model("real"), sequences("real", 3 * STEPS)
    assert data.lengths is not None
    query = torch.arange(len(data))  # rows keep their own draws
    with net.session():
        queries = ModelQueries(net, objective, estimator)
        gradient, values, logits = queries.gradient(Batch(data.x.double(), data.y, data.index, data.lengths), query)
    for row, n in enumerate(data.lengths.tolist()):
        alone = Batch(data.x[row : row + 1, :n].double(), data.y[row : row + 1], data.index[row : row + 1])
        with net.session():
            expected = ModelQueries(net, objective, estimator).gradient(alone)
        for whole, part in zip((gradient[:, :n], values, logits), expected, strict=True):
            torch.testing.assert_close(whole[row], part[0], rtol=1e-9, atol=1e-9)


class Backwards(nn.Module):
    """Reads a sequence [T, N, F] from its end, so that padding comes first."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.flip(0) * torch.arange(1, len(x) + 1)[:, None, None]).cumsum(dim=0).flip(0)[..., :3]


def test_the_net_sees_the_padding() -> None:
    """What an attack asks about is completed: it is told what the net says of the whole input."""
    net, data = sr.wrap(Backwards(), encoder=None, name="backwards"), sequences("real", 2 * STEPS, "noise")
    assert data.lengths is not None
    samples = Batch(data.x, data.y, data.index, data.lengths)
    expected = net.logits(data.x, lengths=data.lengths)
    asked = BatchQueries(ModelQueries(net, CrossEntropy(), Own()), samples)
    for n, at in by_length(data.lengths, len(data)):
        x, y, index = without_padding(data.x[at], n), data.y[at], data.index[at]
        gradient, _, logits = asked.gradient(x, y, index)
        assert gradient.shape == x.shape
        for found_logits in (logits, asked.logits(x, index), asked.value(x, y, index)[1], asked.as_module(index)(x)):
            torch.testing.assert_close(found_logits, expected[at])


@dataclass(frozen=True)
class CountsEntries:
    """Changes the first entry by the epsilon-th part of the number of entries: sees how long its sequences are."""

    steps: int = 1
    needs: ClassVar[Literal["gradient"]] = "gradient"

    def init(self, x0: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> State:
        return {"x": x0.clone(), "flat": torch.zeros_like(x0.flatten(1)), "each": torch.ones_like(x0[:, :, 0])}

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
        assert state["flat"].shape == x0.flatten(1).shape
        assert state["each"].shape == x0.shape[:2]
        assert bool((state["each"] == 1 + k[:, None]).all())  # what it kept comes back
        share = state["flat"].shape[1] / 1024
        x = x0.clone()
        x[:, 0, 0] = (x0[:, 0, 0] - share).clamp_min(0)
        return {"x": x, "flat": state["flat"] + 1, "each": state["each"] + 1}

    def perturb(self, oracle: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> Tensor:
        gradient, _, _ = oracle.gradient(x, y, index)
        assert gradient.shape == x.shape
        oracle.logits(x[:1], index[:1])
        oracle.value(x, y, index)
        return self.step(self.init(x, threat, rng, index), None, y, x, 0 * y, threat, rng, index)["x"]


def outcomes(padded: int, kind: str, pool: int, steps: int = 3) -> Tensor:
    net, data = model("real"), sequences("real", padded)
    queries = ModelQueries(net, CrossEntropy(), Own())
    threat = ThreatModel("linf", 1.0)
    context = AttackContext(Scorer(net, 0, 1), queries, data, threat, Draws(0, "x"), BatchSizer(pool), False, "x")
    results: list[SearchResult] = []
    plugin = CountsEntries(steps)
    with net.session():
        if kind == "optimiser":
            search(context, plugin, torch.arange(len(data)), results.append)
        else:
            perturb(context, plugin, torch.arange(len(data)), results.append)
    rows = torch.cat([each.rows for each in results])
    assert sorted(rows.tolist()) == list(range(len(data)))
    return torch.cat([each.last_x for each in results])[rows.argsort()][:, :STEPS]


@pytest.mark.parametrize("pool", [1, 3, 64])
@pytest.mark.parametrize("kind", ["optimiser", "perturbation"])
def test_a_plugin_sees_no_padding(kind: str, pool: int) -> None:
    """Also one that keeps entries of other shapes, while samples of other lengths leave and join."""
    data = sequences("real")
    expected = data.x.double()
    expected[:, 0, 0] = (expected[:, 0, 0] - LENGTHS * FEATURES / 1024).clamp_min(0)
    for padded in (STEPS, 3 * STEPS):
        torch.testing.assert_close(outcomes(padded, kind, pool), expected, rtol=0, atol=1e-12)


@pytest.fixture
def padding_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search as it would be if plugins saw the padding."""

    def together(lengths: Tensor | None, count: int) -> list[tuple[int | None, Tensor]]:
        return [(None, torch.arange(count))]

    for module in ("active_batch", "padded_state", "loop"):
        monkeypatch.setattr(f"snnrobust.search.{module}.by_length", together)


@pytest.mark.parametrize("kind", ["optimiser", "perturbation"])
def test_control_a_plugin_that_counts_padding_is_caught(kind: str, padding_is_seen: None) -> None:
    assert not torch.equal(outcomes(STEPS, kind, 64), outcomes(3 * STEPS, kind, 64))


@pytest.mark.parametrize(
    ("name", "norm", "domain"),
    [("square", "linf", "real"), ("pgd", "l1", "real"), ("random-search", "l2", "real"), ("flips", "l0", "binary")],
)
def test_control_the_property_fails_where_padding_is_seen(
    name: str, norm: str, domain: str, padding_is_seen: None
) -> None:
    task = sr.load(name, norm=norm, epsilon=EPSILON.get(norm, {"binary": 3})[domain], **few(name))
    with pytest.raises((AssertionError, ViolationError)):  # what moves the padding is illegal already
        assert_independent(task, domain)


def test_a_state_of_another_shape_is_refused() -> None:
    @dataclass(frozen=True)
    class Grows(CountsEntries):
        def step(self, *args: Any, **named: Any) -> State:
            state = super().step(*args, **named)
            return {**state, "each": torch.cat([state["each"], state["each"]], dim=1)}

    net, data = model("real"), sequences("real", 3 * STEPS)
    queries, threat = ModelQueries(net, CrossEntropy(), Own()), ThreatModel("linf", 1.0)
    context = AttackContext(Scorer(net, 0, 1), queries, data, threat, Draws(0, "x"), BatchSizer(9), False, "x")
    with net.session(), pytest.raises(PluginError, match="keep its state's names and shapes"):
        search(context, Grows(), torch.arange(len(data)), lambda result: None)


def test_cutting_and_filling_up() -> None:
    x = torch.rand(3, 4, 2)
    assert [(n, at.tolist()) for n, at in by_length(torch.tensor([3, 2, 3]), 3)] == [(2, [1]), (3, [0, 2])]
    assert [(n, at.tolist()) for n, at in by_length(None, 2)] == [(None, [0, 1])]
    assert torch.equal(with_padding(without_padding(x, 2), x), x)
    assert without_padding(x, None) is x
    wrong = torch.rand(3, 2, 5)
    assert with_padding(wrong, x) is wrong  # `verify` says so
