"""How the accelerated model rewrites a net: what is fused, what is computed once, and which hooks are called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.model import spiking_resnet
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.acceleration.model import AcceleratedModel, NotAccelerated, accelerated_model
from snnrobust.data.batch import Batch
from snnrobust.kernels.backends import backends
from snnrobust.objectives.logits import CrossEntropy
from snnrobust.plugin import AnyEstimator
from snnrobust.search.queries import ModelQueries
from snnrobust.spike_gradients.swap import Own, spike_gradient_contexts
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.estimators.atan import ATan

pytestmark = pytest.mark.skipif(not backends("cpu")[0], reason="no fast kernels on this machine")
STEPS, N = 5, 16


def lif(**settings: Any) -> nn.Module:
    return neuron.LIFNode(decay_input=False, step_mode="m", surrogate_function=surrogate.ATan(), **settings)


def conv_net() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        layer.Conv2d(1, 4, 3, padding=1, step_mode="m"),
        layer.BatchNorm2d(4, step_mode="m"),
        lif(),
        layer.MaxPool2d(2, step_mode="m"),
        layer.Conv2d(4, 4, 3, padding=1, step_mode="m"),
        neuron.ParametricLIFNode(init_tau=3.0, step_mode="m", surrogate_function=surrogate.Sigmoid(), v_threshold=0.2),
        nn.Flatten(2),
        nn.Linear(64, 3),
    )
    for conv in (net[0], net[4]):
        conv.weight.data *= 3.0  # so that it is lively
    return net


def images() -> Tensor:
    return torch.rand(N, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def gradient(model: SpikingModel, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [N, K] and the gradient [N, *] of a weighted sum of them."""
    at = x.clone().requires_grad_()
    logits = model.logits(at)
    return logits.detach(), torch.autograd.grad((logits * torch.tensor([1.0, -2.0, 3.0])).sum(), at)[0]


def check_equal(
    accelerated: AcceleratedModel, model: SpikingModel, x: Tensor, estimator: AnyEstimator | None = None
) -> None:
    ours, our_gradient = gradient(accelerated, x)
    with spike_gradient_contexts(model.net, estimator or Own())[0]:
        theirs, real = gradient(model, x)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(our_gradient, real, rtol=1e-4, atol=1e-4 * float(real.abs().max()))


CHANGES: dict[str, Callable[[Any], None]] = {
    "a weight": lambda net: net[0].weight.data.mul_(-1.0),
    "a weight that is another object": lambda net: setattr(net[7], "weight", nn.Parameter(-net[7].weight.data)),
    "a buffer": lambda net: net[1].running_mean.add_(0.4),
    "a norm's weight": lambda net: net[1].weight.data.mul_(-1.0),
    "a threshold": lambda net: setattr(net[2], "v_threshold", 0.4),
    "a reset": lambda net: setattr(net[2], "v_reset", None),
    "tau": lambda net: setattr(net[2], "tau", 8.0),
    "a learnt tau": lambda net: net[5].w.data.add_(3.0),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_seen_in_the_next_session(what: str) -> None:
    """Numbers are read once a session; at each pass where the caller moves the weights."""
    net, x = conv_net(), images()
    model = sr.wrap(net, steps=STEPS)
    each_pass = AcceleratedModel(model, Own(), read_once=False)
    with model.session():
        first = accelerated_model(model, Own())
        check_equal(first, model, x)
        assert accelerated_model(model, Own()) is first
    check_equal(each_pass, model, x)
    before = gradient(model, x)
    CHANGES[what](net)
    after = gradient(model, x)
    assert not torch.equal(before[0], after[0])  # or there were nothing to see
    check_equal(each_pass, model, x)
    with model.session():
        check_equal(accelerated_model(model, Own()), model, x)


@pytest.mark.parametrize("change", ["alpha", "family", "module"])
def test_a_new_oracle_sees_what_was_replaced(change: str) -> None:
    net, x, y, index = conv_net(), images(), torch.arange(N) % 3, torch.arange(N)
    model, plain = sr.wrap(net, steps=STEPS), sr.wrap(net, steps=STEPS, accelerate=False)

    def asked(of: SpikingModel) -> Tensor:
        queries = ModelQueries(of, CrossEntropy(), Own())
        found = queries.gradient(Batch(x, y, index))[0]
        assert isinstance(queries.execution.model, AcceleratedModel) is of.accelerate
        return found

    before = asked(model)
    if change == "alpha":
        net[2].surrogate_function.alpha = 8.0
    elif change == "family":
        net[2].surrogate_function = surrogate.Erf()
    else:
        net[2] = neuron.IFNode(step_mode="m", surrogate_function=surrogate.ATan(), v_threshold=0.7)
    after = asked(model)
    assert not torch.allclose(after, before)
    torch.testing.assert_close(after, asked(plain), rtol=1e-4, atol=1e-6)


def calls(module: nn.Module) -> list[int]:
    """How many steps each call of a module sees."""
    seen: list[int] = []
    forward = module.forward
    module.forward = lambda x: (seen.append(len(x)), forward(x))[1]  # type: ignore[method-assign]  # what is spied on
    return seen


@pytest.mark.parametrize(("encoder", "first"), [("repeat", 1), ("poisson", STEPS)])
def test_what_is_the_same_at_each_step_is_computed_once(encoder: str, first: int) -> None:
    net = conv_net()
    seen = [calls(net[i]) for i in (0, 1, 2, 3, 4)]
    model = sr.wrap(net, steps=STEPS, encoder=encoder)
    accelerated = AcceleratedModel(model, Own())
    check_equal(accelerated, model, images())
    for each, ours in zip(seen, ([first], [], [], [], [STEPS]), strict=True):  # norm, node and pooling are fused
        assert each == [*ours, STEPS]


class Branched(nn.Module):
    """The prefix leaves its first layer in several ways; a parameter stands before it."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.way = way
        self.scale = nn.Parameter(torch.full((6,), 2.0))
        self.gate = nn.Parameter(torch.linspace(0, 1, STEPS).reshape(STEPS, 1, 1))
        self.first, self.node, self.last, self.out = nn.Linear(6, 12), lif(), nn.Linear(12, 3), lif(v_threshold=0.3)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise RuntimeError("evaluated in train mode")
        h = self.first(x * self.scale)
        ways: dict[str, Callable[[], Tensor]] = {
            "plain": lambda: self.node(h),
            "gate": lambda: self.node(h * self.gate),
            "skip": lambda: self.node(h) + h,
            "sum": lambda: self.node(h.cumsum(0)),
            "index": lambda: self.node(h[1:]),
            "mean": lambda: self.node(h) + h.mean(0),
            "length": lambda: self.node(h) / len(x),
            "size": lambda: self.node(h / x.size(0) * 4),
            "permuted": lambda: self.node(h.transpose(0, 1).flip(1).transpose(0, 1)),
            "view": lambda: self.node(self.first(x.reshape(-1, 6)).view(x.shape[0], x.shape[1], 12)),
            "twice": lambda: self.node(torch.relu(h) + torch.relu(-h)),
        }
        out: Tensor = self.out(self.last(ways[self.way]()))
        return out


@pytest.mark.parametrize(
    "way", ["plain", "gate", "skip", "sum", "index", "mean", "size", "permuted", "view", "twice", "length"]
)
def test_a_prefix_ends_where_steps_begin_to_differ(way: str) -> None:
    model, x = sr.wrap(Branched(way), steps=STEPS), torch.rand(N, 6)
    accelerated = AcceleratedModel(model, Own())
    assert (accelerated._graph is model.net) == (
        way == "length"
    )  # `len` is no step of a graph: the net then runs as it is
    check_equal(accelerated, model, x)
    assert len(accelerated.fast) == 2


class Listener:
    """A hook that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[Tensor] = []

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.heard.append(output.detach().clone())


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = layer.Conv2d(1, 4, 3, padding=1, step_mode="m")
        self.norm = layer.BatchNorm2d(4, step_mode="m")
        self.node = lif()
        self.pool = layer.AvgPool2d(2, step_mode="m")

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.pool(self.node(self.norm(self.conv(x))))
        return out


@pytest.mark.parametrize("place", ["", "0", "0.conv", "0.norm", "0.node", "0.pool", "1", "2", "3"])
def test_hooks_hear_what_they_heard_before(place: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(Block(), nn.Flatten(2), nn.Linear(64, 3), lif(v_threshold=0.2))
    model, x, listener = sr.wrap(net, steps=STEPS), images(), Listener()
    net.get_submodule(place).register_forward_hook(listener)
    accelerated = AcceleratedModel(model, Own())
    assert listener.heard == []  # making the accelerated model is no pass
    accelerated.compare(x, torch.arange(N))
    listener.heard.clear()
    check_equal(accelerated, model, x)
    ours, theirs = listener.heard
    assert torch.equal(ours, theirs)
    assert len(accelerated.fast) == 2 - (place in ("0.node", "3"))  # a node that is heard is left alone


def test_the_accelerated_model_looks_into_ready_made_nets() -> None:
    torch.manual_seed(0)
    net = spiking_resnet.spiking_resnet18(
        spiking_neuron=neuron.IFNode, surrogate_function=surrogate.ATan(), num_classes=3, v_threshold=0.5
    )
    functional.set_step_mode(net, "m")
    model, x = sr.wrap(net, steps=2), torch.rand(N, 3, 16, 16)
    for estimator in (Own(), ATan(3.0)):
        accelerated = AcceleratedModel(model, estimator)
        assert len(accelerated.fast) == 17
        assert sum(fast.norm is not None for fast in accelerated.fast.values()) > 8
        check_equal(accelerated, model, x, estimator)


def test_nodes_that_are_called_step_by_step_are_left_alone() -> None:
    torch.manual_seed(0)
    container = layer.MultiStepContainer(nn.Sequential(nn.Linear(6, 8), neuron.IFNode()))
    stepwise = nn.Sequential(container, nn.Linear(8, 3), lif(v_threshold=0.2))
    model, x = sr.wrap(stepwise, steps=STEPS), torch.rand(N, 6)
    accelerated = AcceleratedModel(model, Own())
    assert list(accelerated.fast) == ["2"]
    check_equal(accelerated, model, x)
    with pytest.raises(NotAccelerated, match=r"'0\.0\.1' \(IFNode\) is single-step; set step_mode='m'"):
        AcceleratedModel(model, ATan())


class Adaptive(nn.Module):
    """Sets the threshold of its node in the forward pass, from the batch that it sees."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.node, self.last = nn.Linear(6, 32), neuron.LIFNode(step_mode="m"), nn.Linear(32, 4)
        with torch.no_grad():
            self.first.weight.mul_(6)
            self.last.weight.mul_(3)

    def forward(self, x: Tensor) -> Tensor:
        current = self.first(x)
        self.node.v_threshold = 0.3 * float(current.detach().abs().max())
        out: Tensor = self.last(self.node(current))
        return out


@pytest.mark.parametrize("how", ["forward", "hook"])
def test_a_threshold_that_the_net_sets_itself_is_never_stale(how: str) -> None:
    """Searched with the threshold of an earlier batch, robust accuracy would be too high."""
    net: nn.Module = Adaptive()
    if how == "hook":
        plain = Adaptive()
        net = nn.Sequential(plain.first, plain.node, plain.last)

        def adapt(module: nn.Module, args: object, out: Tensor) -> None:
            plain.node.v_threshold = 0.3 * float(out.detach().abs().max())

        plain.first.register_forward_hook(adapt)
    x = torch.rand(32, 6) * torch.linspace(0.05, 1, 32)[:, None]
    models = [sr.wrap(net, steps=4, accelerate=accelerate) for accelerate in (True, False)]
    y = torch.cat([models[1].logits(row[None]).argmax(1) for row in x])
    task = sr.load("pgd", epsilon=[0.05, 0.1], steps=6)
    fast, eager = (sr.evaluate(each, (x, y), [task], evidence="none", batch_size=1) for each in models)
    assert fast.curve("pgd").value == eager.curve("pgd").value
    assert not fast.cell("model", "pgd", 1)["disagreements"].any()
    assert eager.curve("pgd").value[1] < 0.95


def test_a_change_in_a_session_that_the_user_holds_open_is_seen() -> None:
    net, x = conv_net(), images()
    model = sr.wrap(net, steps=STEPS)
    with model.session():
        accelerated = accelerated_model(model, Own())
        for what in ("a buffer", "a threshold", "tau", "a reset"):
            check_equal(accelerated, model, x)
            CHANGES[what](net)
            check_equal(accelerated, model, x)
