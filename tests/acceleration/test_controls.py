"""Nets that an accelerated model must refuse, wholly or in part; their outcomes stay the same, and so do the nets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import layer, neuron, surrogate
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.acceleration.model import AcceleratedModel, NotAccelerated
from snnrobust.acceleration.node import FastNode
from snnrobust.data.batch import Batch
from snnrobust.kernels.backends import backends
from snnrobust.objectives.logits import CrossEntropy
from snnrobust.search.queries import ModelQueries
from snnrobust.spike_gradients.swap import Own
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.estimators.atan import ATan


def described(model: SpikingModel, x: Tensor, index: Tensor) -> str:
    """What a search with the net's own surrogates runs on, in words."""
    queries = ModelQueries(model, CrossEntropy(), Own())
    with model.session():
        queries.value(Batch(x, torch.zeros(len(x), dtype=torch.long), index))
    return str(queries.execution.path)


pytestmark = pytest.mark.skipif(not backends("cpu")[0], reason="no fast kernels on this machine")
STEPS, N = 5, 16


def lif(mode: str = "m") -> nn.Module:
    return neuron.LIFNode(decay_input=False, step_mode=mode, v_threshold=0.4, surrogate_function=surrogate.ATan())


class Plain(nn.Module):
    """[T, N, 6] to spikes [T, N, 3]; the nets below are this one with a difference."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.node, self.last, self.out = nn.Linear(6, 12), lif(), nn.Linear(12, 3), lif()
        self.first.weight.data *= 3
        self.last.weight.data *= 3

    def hidden(self, x: Tensor) -> Tensor:
        out: Tensor = self.node(self.first(x))
        return out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.last(self.hidden(x)))
        return out


class NodeTwice(Plain):
    def hidden(self, x: Tensor) -> Tensor:
        out: Tensor = self.node(self.node(self.first(x)) * 2)
        return out


class BranchesOnValues(Plain):
    def hidden(self, x: Tensor) -> Tensor:
        h = self.first(x)
        out: Tensor = self.node(h + 0.5 if h.mean() > 0 else h)
        return out


class TwiceOnValues(Plain):
    def hidden(self, x: Tensor) -> Tensor:
        h = self.node(self.first(x))
        out: Tensor = self.node(h) if h.mean() >= 0 else h
        return out


class Loops(Plain):
    """Calls multi-step nodes once for each step: their memory must last."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super(Loops, self).forward(step[None]) for step in x])


class KeepsPasses(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.latest: Tensor | None = None

    def hidden(self, x: Tensor) -> Tensor:
        self.latest = super().hidden(x)
        self.seen.append(self.latest)
        return sum(self.seen[-1:], torch.zeros(()))


class MakesTensors(Plain):
    def hidden(self, x: Tensor) -> Tensor:
        out: Tensor = self.node(self.first(x) + torch.linspace(0, 1, 12) + 0.1 * torch.arange(len(x))[:, None, None])
        return out


class PlainTensor(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.full((6,), 2.0)  # no buffer

    def hidden(self, x: Tensor) -> Tensor:
        return super().hidden(x * self.gain)


class ReadsMembrane(Plain):
    def hidden(self, x: Tensor) -> Tensor:
        return super().hidden(x) + self.node.v * 0.5  # the number 0 where a fast node left it alone


class AsksMembrane(Plain):
    def hidden(self, x: Tensor) -> Tensor:
        return super().hidden(x) + self.node.v.abs()


class InPlace(Plain):
    def hidden(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h.mul_(2.0)
        out: Tensor = self.node(h)
        return out


class Masks(Plain):
    def hidden(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h[h < 0] = 0.0
        out: Tensor = self.node(h).mul_(0.5)
        return out


class Filtered(Plain):
    """State that is no spiking node's, before and after one."""

    def __init__(self) -> None:
        super().__init__()
        self.before = layer.SynapseFilter(tau=2.0, step_mode="m")
        self.after = layer.SynapseFilter(tau=3.0, learnable=True, step_mode="m")

    def hidden(self, x: Tensor) -> Tensor:
        out: Tensor = self.after(super().hidden(self.before(x)))
        return out


class Recurrent(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.node = layer.LinearRecurrentContainer(lif("s"), 12, 12, step_mode="m")


class Fedback(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.node = layer.ElementWiseRecurrentContainer(lif("s"), torch.add, step_mode="m")


class StuckNorm(Plain):
    """Batch norm that the net's own `eval` leaves in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = layer.BatchNorm2d(12, step_mode="m")

    def train(self, mode: bool = True) -> StuckNorm:
        super().train(mode)
        self.norm.train(True)
        return self

    def hidden(self, x: Tensor) -> Tensor:
        out: Tensor = self.node(self.norm(self.first(x)[..., None, None])).flatten(2)
        return out


class Noisy(Plain):
    def hidden(self, x: Tensor) -> Tensor:
        h = self.first(x)
        out: Tensor = self.node(h + torch.randn_like(h))
        return out


class Stores(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.node.store_v_seq = True

    def hidden(self, x: Tensor) -> Tensor:
        return super().hidden(x) + 0.1 * self.node.v_seq


class Smooth(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.node.surrogate_function = surrogate.ATan(spiking=False)


class Double(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.double()


class Frozen(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.first.weight.requires_grad_(False)


class Stepwise(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.node, self.out = lif("s"), lif("s")

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([super(Stepwise, self).forward(step) for step in x])


class Own2(neuron.LIFNode):  # type: ignore[misc]  # SpikingJelly ships no types: its base class is Any
    """A user's node, derived from one that is known."""

    def neuronal_charge(self, x: Tensor) -> None:
        self.v = self.v + x


class Derived(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.node = Own2(step_mode="m", surrogate_function=surrogate.ATan(), v_threshold=0.4)


def listening(net: Plain) -> Plain:
    net.node.register_full_backward_hook(lambda *_: None)
    return net


#: Net -> how many of its nodes are fast, or why none may be.
NETS: list[tuple[Callable[[], nn.Module], int | str]] = [
    (Plain, 2),
    (NodeTwice, 1),
    (BranchesOnValues, 2),
    (TwiceOnValues, r"\['node'\] are called more than once"),
    (Loops, "called more than once"),
    (KeepsPasses, 2),
    (MakesTensors, 2),
    (PlainTensor, 2),
    (ReadsMembrane, "outputs differ"),
    (AsksMembrane, "fails with AttributeError"),
    (InPlace, "fails with RuntimeError"),
    (Masks, 2),
    (Filtered, 2),
    (Recurrent, 1),
    (Fedback, 1),
    (StuckNorm, 2),
    (Noisy, "outputs differ"),
    (Stores, 1),
    (Smooth, 1),
    (Double, 2),
    (Frozen, 2),
    (Stepwise, 2),
    (Derived, 1),
    (lambda: listening(Plain()), 1),
    (lambda: nn.Sequential(nn.Linear(6, 3), nn.ReLU()), "no spiking nodes of SpikingJelly"),
]
IDS = [getattr(make, "__name__", "") for make, _ in NETS]


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    x = torch.rand(N, 6, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(N) % 3, torch.arange(N)


def state(net: nn.Module) -> list[Any]:
    """All that a net holds: which objects, and what is in them; and whether a graph of the user's own still holds."""
    held: list[Any] = []
    for module in net.modules():
        for name, value in sorted(vars(module).items()):
            inside = list(value.items()) if isinstance(value, dict) else value if isinstance(value, list) else []
            held.append((name, id(value), [id(each) if isinstance(each, Tensor) else each for each in inside]))
    for tensor in (*net.parameters(), *net.buffers()):
        version = 0 if isinstance(net, StuckNorm) else tensor._version  # whose buffers each pass changes
        held.append((id(tensor), tensor.requires_grad, tensor.grad is None, version, tensor.detach().tolist()))
    return held


@pytest.mark.parametrize(("make", "expected"), NETS, ids=IDS)
@pytest.mark.parametrize("encoder", ["repeat", None])
def test_difficult_nets_keep_their_outcomes(make: Callable[[], nn.Module], expected: int | str, encoder: Any) -> None:
    net = make()
    model = sr.wrap(net, steps=STEPS, encoder="repeat") if encoder else sr.wrap(net, encoder=None)
    x, y, index = inputs()
    x = (x if encoder else torch.rand(N, STEPS, 6, generator=torch.Generator().manual_seed(0))).to(model.dtype)
    if encoder is None and make is InPlace:
        expected = 2  # each step has memory of its own
    if encoder is None and make is Stepwise:
        expected = r"'node' \(LIFNode\) is single-step; set step_mode='m'.*pass steps= to wrap"
    before = state(net)
    said = described(model, x, index)
    if isinstance(expected, int):
        nodes = len(model.adapter.nodes(net)) if model.adapter is not None else 0
        assert said.endswith(f" kernels at {expected} of {nodes} spiking nodes")
        assert make is Double or not said.startswith("eager ")
    else:
        with pytest.raises(NotAccelerated, match=expected):
            AcceleratedModel(model, Own()).compare(x, index)
        assert said.startswith("eager, ")
    fast = ModelQueries(model, CrossEntropy(), Own())
    plain = sr.wrap(net, steps=model.steps, encoder=encoder, accelerate=False)
    with model.session(), plain.session():
        found = fast.gradient(Batch(x, y, index))
        expectation = ModelQueries(plain, CrossEntropy(), Own()).gradient(Batch(x, y, index))
    assert isinstance(fast.execution.model, AcceleratedModel) is isinstance(expected, int)
    for mine, real in zip(found, expectation, strict=True):
        assert bool(real.any())
        if make is not Noisy:  # who has other values at each pass
            torch.testing.assert_close(mine, real, rtol=1e-4, atol=1e-5 * float(real.abs().max()))
    assert state(net) == before


def test_the_net_is_left_alone_where_a_accelerated_model_fails_later(monkeypatch: pytest.MonkeyPatch) -> None:
    net = BranchesOnValues()  # runs as it is, with fast nodes put in place
    model, (x, y, index) = sr.wrap(net, steps=STEPS), inputs()
    net.node(torch.rand(STEPS, 3, 12))  # a memory of the user's own
    before, memory = state(net), net.node.v
    queries = ModelQueries(model, CrossEntropy(), Own())
    forward = FastNode.forward

    def failing(fast: FastNode, spikes: Tensor) -> Tensor:
        if spikes.shape[-1] == 3:  # the second node
            raise ValueError("in the middle")
        return forward(fast, spikes)

    with model.session():  # which would put back what is left behind, but only at its end
        inside = state(net)
        queries.gradient(Batch(x, y, index))
        assert state(net) == inside
        monkeypatch.setattr(FastNode, "forward", failing)
        with pytest.raises(ValueError, match="in the middle"):
            queries.gradient(Batch(x, y, index))
        assert state(net) == inside
    assert state(net) == before
    assert net.node.v is memory


def test_smooth_nodes_are_refused_for_an_estimator_as_ever() -> None:
    with pytest.raises(sr.InputError, match="spiking=False"):
        ModelQueries(sr.wrap(Smooth(), steps=STEPS), CrossEntropy(), ATan())
