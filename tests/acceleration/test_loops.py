"""Nets that loop over time in their own forward pass run on multi-step kernels, if the steps of the loop are alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.acceleration.model import AcceleratedModel, NotAccelerated
from snnrobust.data.batch import Batch
from snnrobust.kernels.backends import backends
from snnrobust.objectives.logits import CrossEntropy
from snnrobust.search.queries import ModelQueries
from snnrobust.spike_gradients.swap import Own

pytestmark = pytest.mark.skipif(not backends("cpu")[0], reason="no fast kernels on this machine")
T, N = 5, 12
STATIC: dict[str, Any] = {"layout": "N"}
TN: dict[str, Any] = {"layout": "TN", "steps": T}
NT: dict[str, Any] = {"layout": "NT", "steps": T}
TEMPORAL: dict[str, Any] = {"encoder": None, "steps": T}


def lif(**settings: Any) -> nn.Module:
    return neuron.LIFNode(**{"v_threshold": 0.3, "surrogate_function": surrogate.ATan(), **settings})


class Dense(nn.Module):
    """Static images [N, 3, 4, 4] to the mean output; the nets below are this one with a difference."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.node, self.second, self.out = nn.Linear(48, 24), lif(), nn.Linear(24, 24), lif(v_reset=None)
        self.last = nn.Linear(24, 3)
        self.steps = T

    def step(self, x: Tensor, t: int) -> Tensor:
        out: Tensor = self.last(self.out(self.second(self.node(self.first(x.flatten(1))))))
        return out

    def forward(self, x: Tensor) -> Tensor:
        out: Any = 0
        for t in range(self.steps):
            out = out + self.step(x, t)
        mean: Tensor = out / self.steps
        return mean


class Convolutional(nn.Module):
    def __init__(self, layers: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = layers.Conv2d(3, 6, 3, padding=1, bias=False), layers.BatchNorm2d(6)
        self.node, self.pool = lif(), layers.MaxPool2d(2, 2)
        self.second, self.out = layers.Conv2d(6, 8, 3, padding=1, bias=False), lif(decay_input=False)
        self.last, self.spikes = nn.Linear(32, 3), neuron.IFNode(v_threshold=0.2, surrogate_function=surrogate.ATan())
        with torch.no_grad():
            self.norm.running_mean.uniform_(-0.2, 0.2)
            self.norm.weight.uniform_(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        functional.reset_net(self)
        counted: Any = 0.0
        for _ in range(T):
            hidden = self.pool(self.node(self.norm(self.first(x))))
            counted += self.spikes(self.last(self.out(self.second(hidden)).flatten(1)))
        rate: Tensor = counted / T
        return rate


class Before(Dense):
    """The first layer stands before the loop; the outputs are [T, N, K]."""

    def forward(self, x: Tensor) -> Tensor:
        current = self.first(x.flatten(1))
        return torch.stack([self.last(self.out(self.second(self.node(current)))) for _ in range(T)])


class Sequence(Dense):
    """Takes a sequence in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way

    def steps_of(self, x: Tensor) -> Any:
        if self.way == "repeat":
            x = x.unsqueeze(0).repeat(T, 1, 1, 1, 1)
        if self.way == "transpose":
            x = x.transpose(0, 1)
        if self.way == "permute":
            x = x.permute(1, 0, 2, 3, 4).contiguous()
        ways: dict[str, Callable[[], Any]] = {
            "shape": lambda: (x[t] for t in range(x.shape[0])),
            "size": lambda: (x[:, t] for t in range(x.size(1))),
            "unpacked": lambda: (x[:, t, ...] for t in range(_second(x))),
            "select": lambda: (x.select(1, t) for t in range(T)),
            "length": lambda: (x[t] for t in range(len(x))),
            "unbind": lambda: x.unbind(1),
        }
        return ways[self.way]() if self.way in ways else x

    def forward(self, x: Tensor) -> Tensor:
        out = [self.step(each, t) for t, each in enumerate(self.steps_of(x))]
        return torch.stack(out).mean(0)


def _second(x: Tensor) -> int:
    _, steps, _, _, _ = x.shape
    return steps


class Prefixed(Sequence):
    """A layer on the whole sequence [T, N, *] stands before the loop."""

    def forward(self, x: Tensor) -> Tensor:
        currents = self.first(x.flatten(2))
        return torch.stack([self.last(self.out(self.second(self.node(currents[t])))) for t in range(T)])


class Blocks(Dense):
    """Residual connections, concatenation, views, a parameter and numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.third = nn.Parameter(torch.rand(24) + 0.5), nn.Linear(48, 24)
        self.extra = lif()

    def step(self, x: Tensor, t: int) -> Tensor:
        current = self.first(x.view(x.size(0), -1))
        spikes = self.node(self.scale * current)
        both = torch.cat([spikes, self.extra(F.relu(current) * 0.5 + spikes)], dim=1)
        out: Tensor = self.last(self.out(self.third(both.reshape(-1, 48))) + spikes)
        return out


class Pooled(Dense):
    """Functions of torch on images, and an average over their axes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 24, 1)

    def step(self, x: Tensor, t: int) -> Tensor:
        bright = x[:, :1] * 0.5
        spikes = F.avg_pool2d(self.node(self.first(F.pad(x - bright, (1, 1, 1, 1)))), 2)
        deep = F.max_pool2d(self.out(self.second(spikes)) - x[:, 0].mean((-1, -2))[:, None, None, None], (1, 2))
        out: Tensor = self.last(torch.cat([deep[:, :12], deep[:, 12:]], 1).mean((2, 3)))
        return out


class Membrane(Dense):
    """A leaky read-out without spikes keeps its state from step to step, behind all nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.leaky = layer.SynapseFilter(tau=2.0)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for t in range(T):
            out = self.leaky(self.step(x, t))
        return out


class Counted(Dense):
    """Spikes are added to zeros."""

    def forward(self, x: Tensor) -> Tensor:
        counts = torch.zeros(x.size(0), 24, dtype=x.dtype) + x.new_zeros((x.shape[0], 24))
        for _ in range(T):
            counts += self.out(self.second(self.node(self.first(x.flatten(1)))))
        return counts.view(x.shape[0], 3, 8).sum(2) / T


class Mixed(Dense):
    """A multi-step node takes what the loop has put together."""

    def __init__(self) -> None:
        super().__init__()
        self.multi = lif(step_mode="m", v_threshold=0.1)

    def forward(self, x: Tensor) -> Tensor:
        spikes: Tensor = self.multi(torch.stack([self.step(x, t) for t in range(T)]))
        return spikes.mean(0)


class Contained(Dense):
    """A recurrent layer of SpikingJelly behind all nodes, with one more in it."""

    def __init__(self) -> None:
        super().__init__()
        self.back = layer.ElementWiseRecurrentContainer(lif(v_threshold=0.1), torch.add)

    def step(self, x: Tensor, t: int) -> Tensor:
        out: Tensor = self.back(super().step(x, t))
        return out


#: Net, settings that wrap it, number of nodes.
MERGED: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], int]] = {
    "dense": (Dense, STATIC, 2),
    "conv": (lambda: Convolutional(layer), STATIC, 3),
    "conv of torch": (lambda: Convolutional(nn), STATIC, 3),
    "before the loop": (Before, STATIC, 2),
    "blocks": (Blocks, STATIC, 3),
    "pooled": (Pooled, STATIC, 2),
    "counted": (Counted, STATIC, 2),
    "leaky read-out": (Membrane, STATIC, 2),
    "multi-step behind": (Mixed, STATIC, 3),
    "repeated by itself": (lambda: Sequence("repeat"), STATIC, 2),
    "same steps": (lambda: Sequence("shape"), TN, 2),
    "poisson": (lambda: Sequence("iterated"), {**TN, "encoder": "poisson"}, 2),
    "TN": (lambda: Sequence("length"), {**TN, **TEMPORAL}, 2),
    "prefix": (lambda: Prefixed(""), {**TN, **TEMPORAL}, 2),
    "NT": (lambda: Sequence("size"), {**NT, **TEMPORAL}, 2),
    "NT, same steps": (lambda: Sequence("unpacked"), NT, 2),
    "NT, transposed": (lambda: Sequence("transpose"), {**NT, **TEMPORAL}, 2),
    "NT, permuted": (lambda: Sequence("permute"), {**NT, **TEMPORAL}, 2),
    "N, unbound": (lambda: Sequence("unbind"), {**STATIC, **TEMPORAL}, 2),
    "number of steps of its own": (lambda: Sequence("select"), {"layout": "NT", "encoder": None}, 2),
}


def wrapped(net: nn.Module, settings: dict[str, Any], *, accelerate: bool = True) -> sr.SpikingModel:
    out = {"out_layout": "TN"} if isinstance(net, Before | Prefixed) else {}
    if isinstance(net, Sequence) and not out:
        out = {"out_layout": "N"}
    return sr.wrap(net.eval(), name="net", accelerate=accelerate, **settings, **out)


def inputs(settings: dict[str, Any], count: int = N, steps: int = T) -> Tensor:
    time = [steps] if settings.get("encoder", "") is None else []
    return torch.rand(count, *time, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def asked(model: sr.SpikingModel, x: Tensor, gradient: str = "own") -> tuple[tuple[Tensor, ...], str]:
    """Gradient, objective and logits, and what they ran on."""
    attack = sr.load("pgd", epsilon=0.1, gradient=gradient).attack
    batch = Batch(x, torch.arange(len(x)) % 3, torch.arange(len(x)))
    with model.session():
        queries = ModelQueries(model, CrossEntropy(), attack.gradient)
        return queries.gradient(batch), str(queries.execution.path)


@pytest.mark.parametrize("gradient", ["own", "rectangle"])
@pytest.mark.parametrize("name", MERGED)
def test_outputs_and_gradients_are_those_of_the_loop(name: str, gradient: str) -> None:
    build, settings, nodes = MERGED[name]
    net, x = build(), inputs(settings)
    ours, path = asked(wrapped(net, settings), x, gradient)
    theirs, plain = asked(wrapped(net, settings, accelerate=False), x, gradient)
    assert path == f"native kernels at {nodes} of {nodes} spiking nodes"
    assert plain.startswith("eager")
    for mine, real in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, real, rtol=1e-4, atol=1e-6)
    assert ours[0].any()
    assert ours[2].std() > 0


@pytest.mark.parametrize("name", MERGED)
def test_bits_do_not_depend_on_the_number_of_samples(name: str) -> None:
    build, settings, _ = MERGED[name]
    net, x = build(), inputs(settings)
    model = wrapped(net, settings)
    accelerated = AcceleratedModel(model, Own())
    model.outputs(x)  # finds the axes of its outputs
    whole = accelerated.outputs(x)
    for size in (1, 3, 5):
        parts = [accelerated.outputs(x[at], keys=at) for at in torch.arange(N).split(size)]
        assert torch.equal(torch.cat(parts), whole)


def test_each_layer_is_called_once_and_what_is_alike_for_one_step() -> None:
    net, seen = Blocks().eval(), []
    for name in ("first", "third", "last"):
        net.get_submodule(name).forward = _spied(net.get_submodule(name).forward, seen, name)  # type: ignore[method-assign]  # what is spied on
    model = wrapped(net, STATIC)
    accelerated = AcceleratedModel(model, Own())
    seen.clear()
    accelerated.outputs(inputs(STATIC, 32))
    assert seen == [("first", 32), ("third", 32 * T), ("last", 32 * T)]
    seen.clear()
    model.outputs(inputs(STATIC, 32))
    assert seen == T * [("first", 32), ("third", 32), ("last", 32)]


def _spied(forward: Callable[[Tensor], Tensor], seen: list[tuple[str, int]], name: str) -> Callable[[Tensor], Tensor]:
    return lambda x: (seen.append((name, len(x))), forward(x))[1]


@pytest.mark.parametrize("layers", [layer, nn])
def test_convolution_norm_and_pooling_are_fused(layers: Any) -> None:
    accelerated = AcceleratedModel(wrapped(Convolutional(layers), STATIC), Own())
    first, second, _ = accelerated.fast.values()
    assert first.conv is not None
    assert first.norm is not None
    assert first.pool == "max"
    assert second.conv is not None
    assert (first.steps, second.steps) == (T, None)


@pytest.mark.parametrize(
    ("build", "settings", "least"),
    [(Dense, STATIC, 16), (lambda: Sequence("shape"), TN, 16), (lambda: Sequence("select"), {**NT, **TEMPORAL}, 4)],
)
def test_the_least_number_of_samples_follows_from_the_layers(build: Any, settings: Any, least: int) -> None:
    """A layer whose input is the same at each step has a row for each sample, another one for each step as well."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        accelerated = AcceleratedModel(wrapped(build(), settings), Own())
        assert accelerated.least_batch(inputs(settings)) == least
    finally:
        torch.set_num_threads(threads)


def test_a_layer_behind_the_loop_has_a_row_for_each_sample() -> None:
    class Behind(Sequence):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(torch.stack([self.out(self.first(x[:, t].flatten(1))) for t in range(T)]).mean(0))
            return out

    settings = {**NT, **TEMPORAL}
    accelerated = AcceleratedModel(wrapped(Behind(""), settings), Own())
    assert accelerated.least_batch(inputs(settings)) == 16


@pytest.mark.parametrize("name", ["conv", "same steps"])
def test_an_evaluation_finds_the_same(name: str) -> None:
    build, settings, _ = MERGED[name]
    net, x = build(), inputs(settings)
    y = wrapped(net, settings).logits(x).argmax(1)
    found = []
    for accelerate in (True, False):
        model = wrapped(net, settings, accelerate=accelerate)
        report = sr.evaluate(model, (x, y), [sr.load("pgd", epsilon=[0.02, 0.1], steps=5)], evidence="none")
        (path,) = report.execution_paths("net")["pgd"]
        assert path.accelerated is accelerate
        found.append([report.cell("net", "pgd", k)["correct"].tolist() for k in range(2)])
    assert found[0] == found[1]
    assert all(node.v == 0.0 for node in net.modules() if isinstance(node, neuron.BaseNode))


class SkipsALayer(Dense):
    def step(self, x: Tensor, t: int) -> Tensor:
        current = self.first(x.flatten(1))
        spikes = self.node(F.relu(current) if t == 3 else current)
        out: Tensor = self.last(self.out(self.second(spikes)))
        return out


class ReadsTime(Dense):
    def step(self, x: Tensor, t: int) -> Tensor:
        return super().step(x * (t + 1), t)


class LayerOfEachStep(Dense):
    def __init__(self) -> None:
        super().__init__()
        self.each = nn.ModuleList([nn.Linear(48, 24) for _ in range(T)])

    def step(self, x: Tensor, t: int) -> Tensor:
        out: Tensor = self.last(self.out(self.node(self.each[t](x.flatten(1)))))
        return out


class Backwards(Dense):
    def step(self, x: Tensor, t: int) -> Tensor:
        return super().step(x[:, T - 1 - t], t)


class Feedback(Dense):
    """The spikes of the last node are the first layer's at the next step."""

    def __init__(self) -> None:
        super().__init__()
        self.back = nn.Linear(24, 24)

    def forward(self, x: Tensor) -> Tensor:
        before: Any = 0
        for _ in range(T):
            before = self.out(self.second(self.node(self.first(x.flatten(1)) + before)))
        out: Tensor = self.last(before)
        return out


class Twice(Dense):
    def step(self, x: Tensor, t: int) -> Tensor:
        out: Tensor = self.last(self.node(self.second(self.node(self.first(x.flatten(1))))))
        return out


class Unequal(Dense):
    def step(self, x: Tensor, t: int) -> Tensor:
        spikes = self.node(self.first(x.flatten(1)))
        out: Tensor = self.last(self.out(self.second(spikes)) if t % 2 else spikes)
        return out


class Mixes(Dense):
    """Samples of a batch are mixed."""

    def step(self, x: Tensor, t: int) -> Tensor:
        spikes = self.node(self.first(x.flatten(1)))
        out: Tensor = self.last(self.out(self.second(spikes - spikes.mean(0))))
        return out


class Filtered(Dense):
    def __init__(self) -> None:
        super().__init__()
        self.filter = layer.SynapseFilter(tau=2.0)

    def step(self, x: Tensor, t: int) -> Tensor:
        out: Tensor = self.last(self.out(self.second(self.filter(self.node(self.first(x.flatten(1)))))))
        return out


class Delayed(Dense):
    """The second node gets the first one's spikes a step late."""

    def forward(self, x: Tensor) -> Tensor:
        before, out = None, []
        for _ in range(T):
            spikes = self.node(self.first(x.flatten(1)))
            out.append(self.last(self.out(self.second(spikes if before is None else before))))
            before = spikes
        return torch.stack(out).mean(0)


class Branches(Dense):
    def step(self, x: Tensor, t: int) -> Tensor:
        return super().step(x if x.mean() > 0 else -x, t)


class ReadsMembrane(Dense):
    def forward(self, x: Tensor) -> Tensor:
        for t in range(T):
            self.step(x, t)
        out: Tensor = self.last(x.flatten(1)[:, :24] + self.out.v)
        return out


def changed(net: nn.Module, change: Callable[[Any], object]) -> nn.Module:
    change(net)
    return net


def node_of(other: nn.Module) -> nn.Module:
    return changed(Dense(), lambda net: setattr(net, "node", other))


#: Net, how it is wrapped, and why it is not accelerated.
REFUSED: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], str]] = {
    "a step differs": (SkipsALayer, STATIC, r"the steps of its loop differ: step 3 has relu\(.*\), step 0 has 'first'"),
    "reads t": (
        ReadsTime,
        STATIC,
        r"the steps of its loop differ: step 1 has mul\(\.\.\., 2\), step 0 has mul\(\.\.\., 1\)",
    ),
    "a layer for each step": (
        LayerOfEachStep,
        STATIC,
        "steps of its loop differ: step 1 has 'each.1', step 0 has 'each.0'",
    ),
    "backwards": (Backwards, {**NT, **TEMPORAL}, "the steps of its loop differ"),
    "recurrent": (Feedback, STATIC, "node 'node' depends on its own earlier spikes"),
    "twice": (Twice, STATIC, "node 'node' depends on its own earlier spikes"),
    "unequal": (Unequal, STATIC, r"called \{'node': 5, 'out': 2\} times a pass"),
    "late": (Delayed, STATIC, "the steps of its loop differ: step 1 reads another step's spikes"),
    "samples mixed": (Mixes, STATIC, r"mean\(\.\.\., 0\) in its loop is not known to treat each sample by itself"),
    "state": (Filtered, STATIC, r"'filter' \(SynapseFilter\) keeps its state from step to step"),
    "branches": (Branches, STATIC, "node 'node' .* is single-step.* can't be traced: TraceError: symbolically traced"),
    "membrane": (ReadsMembrane, STATIC, "outputs differ"),
    "unknown length": (lambda: Sequence("length"), {"layout": "TN", "encoder": None}, "pass steps= to wrap"),
    "hooks of a layer": (
        lambda: changed(Dense(), lambda net: net.second.register_forward_hook(lambda *_: None)),
        STATIC,
        r"'second' \(Linear\) has hooks",
    ),
    "hooks of a node": (
        lambda: changed(Dense(), lambda net: net.node.register_forward_hook(lambda *_: None)),
        STATIC,
        r"node 'node' \(LIFNode\) has hooks",
    ),
    "another equation": (lambda: node_of(neuron.QIFNode()), STATIC, r"node 'node' \(QIFNode\) is not of the leaky"),
    "smooth": (
        lambda: node_of(lif(surrogate_function=surrogate.ATan(spiking=False))),
        STATIC,
        r"node 'node' \(LIFNode\) emits the smooth values of its surrogate ATan; set spiking=True",
    ),
    "another surrogate": (
        lambda: node_of(lif(surrogate_function=surrogate.SquarewaveFourierSeries())),
        STATIC,
        r"node 'node' .* has the surrogate SquarewaveFourierSeries, for which there is no fast kernel with its",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_merged_says_why_and_runs_as_it_is(name: str) -> None:
    build, settings, words = REFUSED[name]
    net, x = build(), inputs(settings)
    ours, path = asked(wrapped(net, settings), x)
    theirs, _ = asked(wrapped(net, settings, accelerate=False), x)
    assert path.startswith("eager")
    with pytest.raises(NotAccelerated, match=words):
        AcceleratedModel(wrapped(net, settings), Own()).compare(x, torch.arange(N))
    for mine, real in zip(ours, theirs, strict=True):
        assert torch.equal(mine, real)


def test_nodes_inside_a_layer_behind_the_loop_stay_as_they_are() -> None:
    net, x = Contained(), inputs(STATIC)
    ours, path = asked(wrapped(net, STATIC), x)
    theirs, _ = asked(wrapped(net, STATIC, accelerate=False), x)
    assert path == "native kernels at 2 of 3 spiking nodes"
    for mine, real in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, real, rtol=1e-4, atol=1e-6)
    _, path = asked(wrapped(net, STATIC), x, "rectangle")  # an estimator is for all nodes
    assert "is called by a layer of the framework" in path


def test_sequences_of_another_length_than_was_stated_are_refused() -> None:
    settings = {**TN, **TEMPORAL}
    accelerated = AcceleratedModel(wrapped(Sequence("length"), settings), Own())
    accelerated.outputs(inputs(settings))
    with pytest.raises(sr.InputError, match="expected sequences of 5 steps, as steps= says, got 6"):
        accelerated.outputs(inputs(settings, steps=6))


def test_longer_sequences_than_the_loop_are_read_as_far_as_it_goes() -> None:
    settings = {"layout": "NT", "encoder": None}
    model = wrapped(Sequence("select"), settings)
    accelerated, x = AcceleratedModel(model, Own()), inputs(settings, steps=7)
    torch.testing.assert_close(accelerated.outputs(x), model.outputs(x))
    with pytest.raises(sr.InputError, match="expected sequences of 5 steps, as the net's loop has, got 4"):
        accelerated.outputs(inputs(settings, steps=4))
