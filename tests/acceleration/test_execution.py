"""What runs on the accelerated model; and that a wrong one can only weaken a search, never fake a success."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.acceleration.model import AcceleratedModel, NotAccelerated
from snnrobust.acceleration.node import FastNode
from snnrobust.common.batching import BatchSizer
from snnrobust.common.random import Draws
from snnrobust.data.batch import Batch
from snnrobust.kernels.backends import backends
from snnrobust.kernels.derivative import Derivative
from snnrobust.objectives.logits import CrossEntropy, margin
from snnrobust.objectives.sequences import CurrentMargin, MembraneMargin, PerStepCrossEntropy
from snnrobust.plugin import NodeRun, Objective, registry
from snnrobust.results.execution_path import ExecutionPath
from snnrobust.search.attack_context import AttackContext, SearchResult
from snnrobust.search.loop import search
from snnrobust.search.queries import ModelQueries
from snnrobust.search.scoring import Scorer
from snnrobust.spike_gradients.swap import Own
from snnrobust.testing import check_plugin
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust.training import train
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.estimators.assg import ASSG
from snnrobust_attacks.estimators.atan import ATan
from snnrobust_attacks.estimators.bptr import BPTR
from snnrobust_attacks.estimators.hart import HART, HARTMix
from snnrobust_attacks.estimators.pdsg import PDSG, PDSGSample
from snnrobust_attacks.estimators.per_module import Modules
from snnrobust_attacks.estimators.rate_relu import RateReLU
from snnrobust_attacks.estimators.relaxation import Relaxed
from snnrobust_attacks.estimators.rga import RGA
from snnrobust_attacks.estimators.sigmoid import Sigmoid
from snnrobust_attacks.optimisers.pgd import PGD


def described(model: SpikingModel, x: Tensor, index: Tensor) -> str:
    """What a search with the net's own surrogates runs on, in words."""
    queries = ModelQueries(model, CrossEntropy(), Own())
    with model.session():
        queries.value(Batch(x, torch.zeros(len(x), dtype=torch.long), index))
    return str(queries.execution.path)


pytestmark = pytest.mark.skipif(not backends("cpu")[0], reason="no fast kernels on this machine")
STEPS = 4
forward = FastNode.forward


def lif(**settings: Any) -> nn.Module:
    return neuron.LIFNode(decay_input=False, step_mode="m", surrogate_function=surrogate.ATan(), **settings)


def trained() -> tuple[nn.Module, sr.data.Dataset]:
    """A small net that has learned which of three blobs [16] it is shown."""
    torch.manual_seed(0)
    centres = torch.rand(3, 16)
    y = torch.arange(240) % 3
    x = (centres[y] + 0.18 * torch.randn(240, 16)).clamp(0, 1)
    net = nn.Sequential(nn.Linear(16, 24), lif(), nn.Linear(24, 3), lif())
    train(net, sr.data.Dataset.of(x[:180], y[:180]), steps=STEPS, epochs=6, lr=0.02)
    return net, sr.data.Dataset.of(x[180:], y[180:], name="blobs")


@pytest.fixture(scope="module")
def blobs() -> tuple[nn.Module, sr.data.Dataset]:
    return trained()


def both(net: nn.Module, **settings: Any) -> tuple[sr.SpikingModel, sr.SpikingModel]:
    """The model with and without acceleration."""
    made = (sr.wrap(net, steps=STEPS, accelerate=accelerate, **settings) for accelerate in (True, False))
    return next(made), next(made)


def asked(model: sr.SpikingModel, data: Any, objective: Objective, estimator: Any) -> tuple[ModelQueries, list[Tensor]]:
    """An queries, with its answers at two iterates: the second is where memory shows."""
    queries = ModelQueries(model, objective, estimator)
    with model.session():
        answers = [
            *queries.gradient(Batch(data.x, data.y, data.index)),
            *queries.gradient(Batch(1 - data.x, data.y, data.index), 1),
        ]
    return queries, answers


@dataclass(frozen=True)
class Doubled:
    """Passes any module with twice its gradient: an estimator of whole modules."""

    def through(self, node: NodeRun, x: Tensor) -> Tensor:
        out = node.forward(x)
        return 2 * out - out.detach()


EAGER: list[tuple[Objective, Any]] = [
    (MembraneMargin(), Own()),
    (CurrentMargin(), ATan()),
    *((CrossEntropy(), each) for each in (ASSG(), PDSG(), PDSGSample(), RGA(), BPTR(), RateReLU(), HART(), HARTMix())),
    (CrossEntropy(), Relaxed("sigmoid", 4.0)),
    (CrossEntropy(), Modules((("1", ATan()), ("3", ASSG())))),
    (CrossEntropy(), Modules((("0", Doubled()),))),
]
FAST: list[tuple[Objective, Any]] = [
    (CrossEntropy(), Own()),
    (PerStepCrossEntropy(), Own()),
    (CrossEntropy(), Sigmoid()),
    (CrossEntropy(), Modules((("1", ATan(4.0)),))),
]


@pytest.mark.parametrize(("objective", "estimator"), EAGER, ids=repr)
def test_what_is_more_than_a_derivative_runs_on_the_net(
    objective: Objective, estimator: Any, blobs: tuple[nn.Module, sr.data.Dataset]
) -> None:
    net, data = blobs
    model, plain = both(net)
    queries, ours = asked(model, data, objective, estimator)
    assert not isinstance(queries.execution.model, AcceleratedModel)
    for mine, real in zip(ours, asked(plain, data, objective, estimator)[1], strict=True):
        assert torch.equal(mine, real)


@pytest.mark.parametrize(("objective", "estimator"), FAST, ids=repr)
def test_derivatives_run_on_the_accelerated_model(
    objective: Objective, estimator: Any, blobs: tuple[nn.Module, sr.data.Dataset]
) -> None:
    net, data = blobs
    model, plain = both(net)
    queries, ours = asked(model, data, objective, estimator)
    assert isinstance(queries.execution.model, AcceleratedModel)
    reference, theirs = asked(plain, data, objective, estimator)
    for mine, real in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, real, rtol=1e-4, atol=1e-5 * float(real.abs().max()))
    assert (queries.spent.forwards, queries.spent.backwards) == (reference.spent.forwards, reference.spent.backwards)


@pytest.mark.parametrize("eot", [1, 3])
def test_the_accelerated_model_of_a_poisson_coded_net_has_the_same_draws(
    eot: int, blobs: tuple[nn.Module, sr.data.Dataset]
) -> None:
    net, data = blobs
    answers = []
    for model in both(net, encoder="poisson"):
        queries = ModelQueries(model, CrossEntropy(), Own(), eot=eot, first_draw=5)
        answers.append(queries.gradient(Batch(data.x, data.y, data.index), 2))
        assert isinstance(queries.execution.model, AcceleratedModel) is model.accelerate
    for mine, real in zip(*answers, strict=True):
        torch.testing.assert_close(mine, real, rtol=1e-4, atol=1e-6)


def outcomes(report: sr.Report, label: str) -> tuple[list[float], Tensor]:
    """Robust accuracy by strength, and the margins [strength, sample]."""
    return list(report.curve(label).value), torch.as_tensor(report.margins(label))


def finding(report: sr.Report, name: str) -> sr.Finding:
    (found,) = (each for each in report.findings if each.name == name and each.label == "it")
    return found


TASKS = [("pgd", {"steps": 8}), ("apgd", {"steps": 8}), ("square", {"steps": 30}), ("fgsm", {})]
if find_spec("torchattacks"):
    TASKS.append(("torchattacks:MIFGSM", {"steps": 5}))
EPSILONS = [0.02, 0.06, 0.12]


@pytest.mark.parametrize(("name", "settings"), TASKS)
def test_evaluations_with_and_without_agree(
    name: str, settings: dict[str, Any], blobs: tuple[nn.Module, sr.data.Dataset]
) -> None:
    net, data = blobs
    task = sr.load(name, epsilon=EPSILONS, label="it", **settings)
    reports = [sr.evaluate(model, data, [task], batch_size=32) for model in both(net)]
    assert all(path.accelerated and path.nodes == 2 for path in reports[0].execution_paths()["it"])
    assert reports[1].execution_paths() == {"it": [ExecutionPath(False, "wrapped with accelerate=False")]}
    (ours, margins), (theirs, expected) = (outcomes(report, "it") for report in reports)
    assert 0 < min(theirs) < max(theirs)  # or there were nothing to compare
    assert ours == theirs
    differing = int(((margins <= 0) != (expected <= 0)).sum())
    assert differing == 0, f"{differing} of {margins.numel()} outcomes"


@dataclass(frozen=True)
class Wrong:
    """What a fast node may get wrong."""

    how: str

    def __call__(self, fast: FastNode, x: Tensor) -> Tensor:
        out = forward(fast, x)
        if self.how == "raises":
            raise ValueError("in the middle")
        if self.how == "late":
            return torch.cat([torch.zeros_like(out[:1]), out[:-1]])
        if self.how == "inverted":
            return 1 - out
        return out + (out - out.detach())  # twice the gradient

    def put(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(FastNode, "forward", lambda fast, x: self(fast, x))


@pytest.mark.parametrize(("how", "what"), [("late", "outputs"), ("steep", "gradients"), ("raises", "ValueError")])
def test_a_wrong_rewriting_is_caught(
    how: str, what: str, monkeypatch: pytest.MonkeyPatch, blobs: tuple[nn.Module, sr.data.Dataset]
) -> None:
    net, data = blobs
    model, plain = both(net)
    AcceleratedModel(model, Own()).compare(data.x, data.index)
    Wrong(how).put(monkeypatch)
    with pytest.raises(NotAccelerated, match=what):
        AcceleratedModel(model, Own()).compare(data.x, data.index)
    assert what in described(model, data.x, data.index)
    queries, ours = asked(model, data, CrossEntropy(), Own())
    assert not isinstance(queries.execution.model, AcceleratedModel)
    for mine, real in zip(ours, asked(plain, data, CrossEntropy(), Own())[1], strict=True):
        assert torch.equal(mine, real)


@pytest.mark.parametrize("how", ["late", "inverted"])
@pytest.mark.parametrize("name", ["pgd", "square"])
def test_a_wrong_accelerated_model_can_only_miss_examples(
    how: str, name: str, monkeypatch: pytest.MonkeyPatch, blobs: tuple[nn.Module, sr.data.Dataset]
) -> None:
    net, data = blobs
    model, plain = both(net)
    task = sr.load(name, epsilon=EPSILONS, steps=10, label="it")
    truth = sr.evaluate(plain, data, [task], batch_size=32)
    monkeypatch.setattr(AcceleratedModel, "compare", lambda *_: None)
    Wrong(how).put(monkeypatch)
    report = sr.evaluate(model, data, [task], batch_size=32)
    ours, theirs = outcomes(report, "it")[0], outcomes(truth, "it")[0]
    assert all(mine >= real for mine, real in zip(ours, theirs, strict=True))
    assert sum(ours) > sum(theirs)
    doubt, none = (finding(each, "rescoring") for each in (report, truth))
    assert doubt.passed is False
    assert doubt.value > 0.1
    assert none.value == 0


@pytest.mark.parametrize("how", ["late", "inverted"])
def test_what_a_wrong_accelerated_model_finds_is_scored_on_the_users_net(
    how: str, monkeypatch: pytest.MonkeyPatch, blobs: tuple[nn.Module, sr.data.Dataset]
) -> None:
    net, data = blobs
    model, plain = both(net)
    monkeypatch.setattr(AcceleratedModel, "compare", lambda *_: None)
    Wrong(how).put(monkeypatch)
    threat, found = ThreatModel("linf", 0.12, (0.0, 1.0), "real"), list[SearchResult]()
    queries, rng = ModelQueries(model, CrossEntropy(), Own()), Draws(0, "attack")
    context = AttackContext(Scorer(model, 0, 1), queries, data, threat, rng, BatchSizer(16), True, "it")
    with model.session():
        search(context, PGD(steps=10), torch.arange(len(data)), found.append)
    assert isinstance(queries.execution.model, AcceleratedModel)
    for each in found:
        logits = plain.logits(each.x)
        y = data.y[each.rows]
        assert torch.equal(each.withstands, plain.predict(logits) == y)
        torch.testing.assert_close(each.margin, margin(logits, y).detach())
    assert sum(int(each.disagreements.sum()) for each in found) > 0


@dataclass(frozen=True)
class Claims(ATan):
    """An estimator whose `derivative` is not its `backward`."""

    how: str = "sharper"

    @property
    def derivative(self) -> Any:
        if self.how == "sharper":
            return Derivative.atan(2 * self.alpha)
        if self.how == "infinite":
            return lambda u: torch.where(u.isinf(), u.abs(), super(Claims, self).derivative(u))
        return super().derivative

    def backward(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        scale = state["surrogate"].alpha / 2 if self.how == "stateful" else 1.0
        return scale * super().derivative(u)


@pytest.mark.parametrize(
    ("how", "message"),
    [("sharper", "`derivative` to be"), ("infinite", "to be 0 at -inf"), ("stateful", "function of u alone")],
)
def test_conformance_catches_a_derivative_that_is_another(
    how: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = registry.PluginInfo("claims", "estimators", "test", "test")
    monkeypatch.setattr(registry, "plugin_info", lambda name: info)
    monkeypatch.setattr(registry, "create", lambda name, **_: Claims(how=how))
    with pytest.raises(sr.PluginError, match=message):
        check_plugin("claims")
    monkeypatch.setattr(registry, "create", lambda name, **_: Claims(how="honest"))
    check_plugin("claims")


def test_reasons_for_none_are_told(monkeypatch: pytest.MonkeyPatch, blobs: tuple[nn.Module, sr.data.Dataset]) -> None:
    net, data = blobs
    model, plain = both(net)
    random = sr.wrap(net, steps=STEPS, stochastic=True)
    assert "draws random numbers" in described(random, data.x, data.index)
    assert "accelerate=False" in described(plain, data.x, data.index)
    monkeypatch.setattr("snnrobust.acceleration.model.backends", lambda device: ((), "no compiler, say"))
    report = sr.evaluate(model, data, [sr.load("pgd", epsilon=0.1, steps=1)])
    assert report.execution_paths() == {"pgd": [ExecutionPath(False, "no compiler, say")]}
