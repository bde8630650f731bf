"""Derivatives at the threshold: formulas, outside references, statistics over steps and iterates, lone samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import Tensor, nn

from snnrobust.common.batching import BatchSizer
from snnrobust.common.random import Draws
from snnrobust.errors import InputError, PluginError
from snnrobust.objectives.logits import CrossEntropy
from snnrobust.plugin import NodeRun, registry
from snnrobust.search.attack_context import AttackContext, SearchResult
from snnrobust.search.loop import search
from snnrobust.search.queries import ModelQueries
from snnrobust.search.scoring import Scorer
from snnrobust.spike_gradients.swap import SpikeGradient, spike_gradient_contexts
from snnrobust.testing import check_plugin
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust_attacks.estimators.assg import ASSG
from snnrobust_attacks.estimators.atan import ATan
from snnrobust_attacks.estimators.bptr import BPTR
from snnrobust_attacks.estimators.exponential import Exponential
from snnrobust_attacks.estimators.fast_sigmoid import FastSigmoid
from snnrobust_attacks.estimators.hart import HART, HARTMix
from snnrobust_attacks.estimators.pdsg import PDSG, PDSGSample
from snnrobust_attacks.estimators.rectangle import Rectangle
from snnrobust_attacks.estimators.relaxation import Relaxed
from snnrobust_attacks.estimators.rga import RGA
from snnrobust_attacks.estimators.sigmoid import Sigmoid
from snnrobust_attacks.estimators.straight_through import StraightThrough
from snnrobust_attacks.estimators.triangle import Triangle
from snnrobust_attacks.optimisers.pgd import PGD

GRID = torch.linspace(-3, 3, 241, dtype=torch.float64)
Formula = Callable[[np.ndarray], np.ndarray]

POINTWISE: list[tuple[Any, Formula]] = [
    (ATan(3.0), lambda u: 1.5 / (1 + (math.pi * 3 * u / 2) ** 2)),
    (Sigmoid(4.0), lambda u: 1 / np.cosh(2 * u) ** 2),
    (Triangle(0.5), lambda u: np.where(np.abs(u) < 0.5, (0.5 - np.abs(u)) / 0.25, 0)),
    (Exponential(2.0), lambda u: np.exp(-2 * np.abs(u))),
    (Exponential(0.5, scale=0.3), lambda u: 0.3 * np.exp(-0.5 * np.abs(u))),
    (Rectangle(4.0), lambda u: np.where(np.abs(u) < 2, 0.25, 0)),
    (FastSigmoid(10.0, scale=5.0), lambda u: 5 / (1 + 10 * np.abs(u)) ** 2),
    (StraightThrough(), np.ones_like),
]


@pytest.mark.parametrize(
    ("estimator", "formula"), POINTWISE, ids=lambda each: repr(each) if hasattr(each, "backward") else ""
)
def test_the_formula_on_a_grid(estimator: Any, formula: Formula) -> None:
    found = estimator.backward(GRID, {}).numpy()
    np.testing.assert_allclose(found, formula(GRID.numpy()), rtol=0, atol=1e-12)
    assert estimator.backward(GRID.float(), {}).dtype == torch.float32


@pytest.mark.parametrize(
    ("estimator", "reference"),
    [
        (ATan(2.5), surrogate.ATan(alpha=2.5)),
        (Sigmoid(3.0), surrogate.Sigmoid(alpha=3.0)),
        (Triangle(1 / 1.7), surrogate.PiecewiseQuadratic(alpha=1.7)),
        (Exponential(2.2, scale=1.1), surrogate.PiecewiseExp(alpha=2.2)),
        (Rectangle(1 / 0.6), surrogate.Rect(alpha=0.6)),
        (FastSigmoid(2.0, scale=1.0), surrogate.SoftSign(alpha=2.0)),
    ],
    ids=repr,
)
def test_spikingjelly_has_the_same_derivative(estimator: Any, reference: nn.Module) -> None:
    u = (GRID + 0.0101).requires_grad_()  # off the corners
    (expected,) = torch.autograd.grad(reference(u).sum(), u)
    assert torch.allclose(estimator.backward(u.detach(), {}), expected, rtol=0, atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.2, 8.0))
def test_those_that_say_so_integrate_to_one(sharpness: float) -> None:
    u = torch.linspace(-400, 400, 200_001, dtype=torch.float64)
    for estimator, tolerance in [
        (Triangle(sharpness), 1e-3),
        (Rectangle(sharpness), 0.05),
        (Sigmoid(sharpness), 1e-4),
        (Exponential(sharpness, scale=sharpness / 2), 1e-4),
        (FastSigmoid(sharpness, scale=sharpness / 2), 2 / (400 * sharpness)),
    ]:
        assert float(torch.trapezoid(estimator.backward(u, {}), u)) == pytest.approx(1, abs=tolerance)


def test_a_sharp_sigmoid_fades_rather_than_cancels() -> None:
    far = Sigmoid(25.0).backward(torch.tensor([2.0, -2.0]), {})
    assert far[0] == far[1] > 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: Sigmoid(0.0),
        lambda: Triangle(-1.0),
        lambda: Exponential(scale=math.inf),
        lambda: Rectangle(True),
        lambda: FastSigmoid(math.nan),
        lambda: ASSG(vanishing=1.0),
        lambda: ASSG(decay=1.0),
        lambda: ASSG(gamma=-0.1),
        lambda: HART(0.0),
        lambda: HARTMix(-1.0),
        lambda: RGA(gamma=-1.0),
        lambda: RGA(beta=1.0),
        lambda: Relaxed("step"),  # type: ignore[arg-type]  # the mistake that is tested
        lambda: Relaxed(alpha=0.0),
    ],
)
def test_senseless_parameters_are_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(InputError, match=r"expected .*, got .*; "):
        make()


# ---- adaptive sharpness over the iterates of an attack ------------------------------------------------------------


def assg_by_hand(iterates: list[np.ndarray], vanishing: float, gamma: float) -> list[np.ndarray]:
    """Each iterate's derivative, neuron by neuron."""
    omega = 2 / math.pi * math.tan(math.pi * vanishing / 2)
    out = [np.empty_like(u) for u in iterates]
    for place in np.ndindex(iterates[0].shape):
        m, d = 1.0, 0.0
        for k, iterate in enumerate(iterates):
            u = iterate[place]
            m = 0.9 * m + 0.1 * abs(u)
            d = 0.9 * d + 0.1 * abs(abs(u) - m)
            alpha = omega / (m + gamma * d + 1e-4)
            out[k][place] = alpha / (2 * (1 + (math.pi * alpha * u / 2) ** 2))
    return out


def test_assg_adapts_to_each_neuron_and_freezes() -> None:
    generator = np.random.default_rng(0)
    iterates = [generator.normal(size=(3, 4)) * (k + 1) for k in range(4)]
    expected = assg_by_hand(iterates, vanishing=0.7, gamma=1.2)
    estimator, memory = ASSG(vanishing=0.7, gamma=1.2), {}
    for iterate, derivative in zip(iterates, expected, strict=True):
        u = torch.from_numpy(iterate)
        found = estimator.backward(u, {"memory": memory, "frozen": False})
        np.testing.assert_allclose(found.numpy(), derivative, rtol=1e-12)
        kept = {name: value.clone() for name, value in memory.items()}
        again = estimator.backward(u, {"memory": memory, "frozen": True})
        np.testing.assert_allclose(again.numpy(), derivative, rtol=1e-12)
        assert all(torch.equal(memory[name], kept[name]) for name in kept)
    fresh = estimator.backward(torch.zeros(1), {"frozen": True})
    assert float(fresh) == pytest.approx(estimator.omega / (1 + 1e-4) / 2)


class Lif2:
    """Two LIF layers, soft reset, written out; the derivative at each comparison is looked up."""

    def __init__(self, net: nn.Sequential) -> None:
        self.net = net

    def run(self, x: Tensor, derivatives: dict[tuple[int, int], Tensor] | None) -> tuple[Tensor, dict[Any, Tensor]]:
        seen: dict[Any, Tensor] = {}

        def fire(u: Tensor, layer: int, t: int) -> Tensor:
            seen[layer, t] = u.detach()
            slope = torch.zeros_like(u) if derivatives is None else derivatives[layer, t]
            return (u >= 0).to(u) + slope * (u - u.detach())

        v: list[Any] = [0.0, 0.0]
        out = []
        for t, step in enumerate(x):
            s = step
            for layer in range(2):
                u = 0.5 * v[layer] + self.net[2 * layer](s)
                s = fire(u - 1, layer, t)
                v[layer] = u - s
            out.append(s)
        return torch.stack(out), seen


def lif_net() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        linear = nn.Linear(4, 6), nn.Linear(6, 3)
    nodes = [neuron.LIFNode(tau=2.0, decay_input=False, v_reset=None, step_mode="m") for _ in linear]
    with torch.no_grad():
        for layer in linear:
            layer.weight *= 2  # both layers fire
    return nn.Sequential(linear[0], nodes[0], linear[1], nodes[1]).double()


def inputs(count: int, seed: int = 0) -> Tensor:
    return 3 * torch.rand(5, count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


WEIGHTS = torch.randn(5, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(9))


def gradient(net: nn.Sequential, x: Tensor) -> Tensor:
    at = x.clone().requires_grad_()
    functional.reset_net(net)
    return torch.autograd.grad((net(at) * WEIGHTS).sum(), at)[0]


def mean_gradient(swaps: list[SpikeGradient], net: nn.Sequential, x: Tensor, index: Tensor, **more: Any) -> Tensor:
    parts = []
    for swap in swaps:
        with swap.at(index, **more):
            parts.append(gradient(net, x))
    return torch.stack(parts).mean(dim=0)


def by_hand(net: nn.Sequential, x: Tensor, derivatives: dict[tuple[int, int], Tensor]) -> Tensor:
    at = x.clone().requires_grad_()
    out, _ = Lif2(net).run(at, derivatives)
    return torch.autograd.grad((out * WEIGHTS).sum(), at)[0]


def test_assg_in_a_net_over_iterates_and_further_draws() -> None:
    net, swap = lif_net(), None
    iterates = [inputs(3, seed) for seed in range(3)]
    traces = [Lif2(net).run(x, None)[1] for x in iterates]
    slopes: list[dict[Any, Tensor]] = [{} for _ in iterates]
    for place in traces[0]:
        found = assg_by_hand([trace[place].numpy() for trace in traces], vanishing=0.86, gamma=1.5)
        for k, each in enumerate(found):
            slopes[k][place] = torch.from_numpy(each)
    swap = spike_gradient_contexts(net, ASSG())
    for k, x in enumerate(iterates):
        expected = by_hand(net, x, slopes[k])
        assert float(expected.abs().max()) > 1e-3
        for frozen in (False, True, True):
            found = mean_gradient(swap, net, x, torch.arange(3), frozen=frozen)
            assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    for each in swap:
        each.forget()
    again = mean_gradient(swap, net, iterates[2], torch.arange(3))
    assert not torch.allclose(again, by_hand(net, iterates[2], slopes[2]), atol=1e-6)  # the memory matters


# ---- statistics over steps ----------------------------------------------------------------------------------------


def density(u: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    return np.exp(-((u - sigma / 2) ** 2) / (2 * sigma**2)) / np.sqrt(2 * np.pi * sigma**2)


def one_if_zero(sigma: np.ndarray) -> np.ndarray:
    return np.where(sigma > 0, sigma, 1.0)


@pytest.mark.parametrize("shape", [(3, 5), (3, 2, 4, 4), (2, 6, 5)])
@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_pdsg_over_the_steps_so_far(shape: tuple[int, ...], at_once: bool, own: bool) -> None:
    u = np.random.default_rng(0).normal(size=(4, *shape)) * 2  # [T, N, *]
    u[:, :, 1] = 0.25  # a channel or feature that never changes: sigma is 0
    conv = len(shape) == 4
    expected = np.empty_like(u)
    for t in range(4):
        v = u[: t + 1]
        if own:
            space = (0, 3, 4) if conv else (0, *range(2, v.ndim))
        else:
            space = (0, 1, 3, 4) if conv else tuple(range(v.ndim - 1))
        expected[t] = density(u[t], one_if_zero(v.std(axis=space, keepdims=True, ddof=1)[0]))
    estimator = PDSGSample() if own else PDSG()
    steps = torch.from_numpy(u)
    if at_once:
        found = estimator.backward(steps, {"calls": [steps], "call": 0, "axis": 1})
    else:
        state = {"calls": list(steps), "axis": 0}
        found = torch.stack([estimator.backward(steps[t], state | {"call": t}) for t in reversed(range(4))]).flip(0)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("own", [False, True])
def test_pdsg_in_a_net_sees_no_later_steps(own: bool) -> None:
    net, x = lif_net(), inputs(3)
    _, trace = Lif2(net).run(x, None)
    slopes = {}
    for layer, t in trace:
        v = np.stack([trace[layer, s].numpy() for s in range(t + 1)])  # [S, N, F]
        sigma = v.std(axis=(0, 2) if own else (0, 1), keepdims=True, ddof=1)[0]
        slopes[layer, t] = torch.from_numpy(density(v[-1], one_if_zero(sigma)))
    expected = by_hand(net, x, slopes)
    found = mean_gradient(spike_gradient_contexts(net, PDSGSample() if own else PDSG()), net, x, torch.arange(3))
    assert float(expected.abs().max()) > 1e-3
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("estimator", [PDSG(), PDSGSample()])
def test_a_single_number_has_no_deviation(estimator: Any) -> None:
    found = estimator.backward(torch.tensor([[0.5]]), {})
    assert float(found) == pytest.approx(1 / math.sqrt(2 * math.pi))  # the peak of N(1/2, 1)


def test_pdsg_needs_to_know_the_samples() -> None:
    with pytest.raises(PluginError, match="compares"):
        PDSG().backward(torch.zeros(6, 2), {"axis": None})


# ---- gradients are independent of the batch -------------------------------------------------------------------------

SAMPLEWISE = [
    *[estimator for estimator, _ in POINTWISE],
    ASSG(),
    PDSGSample(),
    RGA(),
    HART(),
    HARTMix(),
    Relaxed(),
]


def three_iterates(estimator: Any, batches: list[list[int]]) -> Tensor:
    """Gradients at the third iterate of 7 samples, [T, 7, 4], which go through in the given batches."""
    net = lif_net()
    swaps = spike_gradient_contexts(net, estimator)
    out = torch.zeros(5, 7, 4, dtype=torch.float64)
    for k in range(3):
        x = inputs(7, seed=k)
        for batch in batches:
            out[:, batch] = mean_gradient(swaps, net, x[:, batch], torch.tensor(batch) + 100)
    return out


ORDERS = [[[6, 2, 4, 0, 1, 5, 3]], [[0, 1, 2], [3, 4, 5, 6]], [[5], [3], [0], [1], [6], [2], [4]]]


@pytest.mark.parametrize("estimator", SAMPLEWISE, ids=repr)
def test_batch_mates_and_order_do_not_matter(estimator: Any) -> None:
    together = three_iterates(estimator, [list(range(7))])
    assert float(together.abs().max()) > 0
    for batches in ORDERS:
        assert torch.allclose(three_iterates(estimator, batches), together, rtol=0, atol=1e-10)


def test_published_pdsg_depends_on_batch_mates() -> None:
    together = three_iterates(PDSG(), [list(range(7))])
    assert not torch.allclose(three_iterates(PDSG(), ORDERS[2]), together, atol=1e-3)
    assert torch.allclose(three_iterates(PDSG(), ORDERS[0]), together, atol=1e-10)  # the order alone does not matter


def test_samples_at_different_iterates_share_a_batch() -> None:
    """Sample 0 is at its third iterate while sample 1 is at its first."""
    net = lif_net()
    xs = [inputs(2, seed=k) for k in range(3)]
    swaps = spike_gradient_contexts(net, ASSG())
    for x in xs[:2]:
        mean_gradient(swaps, net, x[:, :1], torch.tensor([8]))
    mixed = mean_gradient(swaps, net, xs[2], torch.tensor([8, 5]))
    alone = spike_gradient_contexts(net, ASSG())
    assert torch.allclose(mean_gradient(alone, net, xs[2][:, 1:], torch.tensor([5])), mixed[:, 1:], atol=1e-12)
    old = spike_gradient_contexts(net, ASSG())
    for x in xs:
        last = mean_gradient(old, net, x[:, :1], torch.tensor([8]))
    assert torch.allclose(last, mixed[:, :1], atol=1e-12)


# ---- forward values are unchanged -----------------------------------------------------------------------------------

EXACT = [each for each in SAMPLEWISE if not isinstance(each, Relaxed | HARTMix)] + [PDSG()]


@pytest.mark.parametrize("estimator", EXACT, ids=repr)
def test_forward_values_are_bit_identical(estimator: Any) -> None:
    net, x = lif_net().float(), inputs(3).float()
    functional.reset_net(net)
    plain = net(x)
    functional.reset_net(net)
    swap = SpikeGradient(net, estimator)
    with swap:
        swapped = net(x)
    assert swap.exact
    assert torch.equal(plain, swapped)
    assert 0 < float(plain.detach().sum()) < plain.numel()


# ---- the shipped conformance suite catches what breaks these promises -----------------------------------------------


@dataclass(frozen=True)
class Lossy(BPTR):
    """Changes the output of the node."""

    def through(self, node: NodeRun, x: Tensor) -> Tensor:
        return 0.5 * super().through(node, x)


@dataclass(frozen=True)
class Sociable:
    """Depends on the batch without `batch_dependent = True`."""

    def backward(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        return 1 / (1 + u.abs() / u.abs().mean())


@dataclass(frozen=True)
class Forgetful(ASSG):
    """Keeps its statistics in the node's dict, which all samples share."""

    def backward(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        return super().backward(u, {"memory": state.setdefault("mine", {})})


@dataclass(frozen=True)
class Broken:
    """NaN at the threshold."""

    def backward(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        return u / u


@dataclass(frozen=True)
class Flat:
    """A relaxation without a gradient."""

    def primitive(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        return (u >= 0).to(u)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (Lossy(), "unchanged forward values"),
        (Sociable(), "do not depend on the batch"),
        (Forgetful(), "do not depend on the batch|must match the size"),
        (Broken(), "a derivative that is finite"),
        (Flat(), "a differentiable primitive"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_estimators_that_break_their_promises_are_caught(
    estimator: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "create", lambda name, **_: estimator)
    monkeypatch.setattr(registry, "plugin_info", lambda name: registry.PluginInfo("bad", "estimators", "test", "test"))
    with pytest.raises((PluginError, RuntimeError), match=message):
        check_plugin("bad")


@pytest.mark.parametrize("estimator", [ASSG(), HARTMix(), Relaxed()], ids=lambda each: type(each).__name__)
def test_a_search_finds_the_same_whatever_the_pool(estimator: Any) -> None:
    """Samples join and leave a batch at different iterates; their memory must follow."""
    model, data = tiny_model(), tiny_data()
    threat, rng = ThreatModel("linf", 0.15, model.bounds), Draws(0, "pool")
    outcomes = []
    for pool in (12, 5, 1):
        queries = ModelQueries(model, CrossEntropy(), estimator)
        context = AttackContext(Scorer(model, 0, 1), queries, data, threat, rng, BatchSizer(pool), True, "pool")
        found = torch.zeros_like(data.x)

        def keep(each: SearchResult, found: Tensor = found) -> None:
            found[each.rows] = each.last_x

        with model.session():
            search(context, PGD(steps=6), torch.arange(len(data)), keep)
        outcomes.append(found)
    assert float((outcomes[0] - data.x).abs().max()) > 0.1
    for other in outcomes[1:]:
        assert torch.allclose(other, outcomes[0], rtol=0, atol=1e-6)
