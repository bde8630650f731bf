"""State of snnTorch, sinabs, Norse and of nets by hand: reset net by net, put back as it was, and handed on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import snnrobust as sr

T, IN, HIDDEN, CLASSES = 5, 6, 10, 3


def inputs(count: int = 7, seed: int = 3) -> Tensor:
    return torch.rand(count, IN, generator=torch.Generator().manual_seed(seed))


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """A net with weights large enough for spikes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build()
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(3)
    return net


class Nested(nn.Module):
    """Neurons of a net in a list of blocks and in a dict."""

    def __init__(self, node: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(IN, HIDDEN), nn.Sequential(node()))])
        self.head = nn.ModuleDict({"neuron": node(), "out": nn.Linear(HIDDEN, CLASSES)})

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head["out"](self.head["neuron"](x))
        return out


def snntorch_node(**more: Any) -> Callable[[], nn.Module]:
    snn = pytest.importorskip("snntorch", reason="neurons of it")
    return lambda: snn.Leaky(beta=0.8, init_hidden=True, **more)


def sinabs_node(recurrent: bool = False) -> Callable[[], nn.Module]:
    sl = pytest.importorskip("sinabs.layers", reason="layers of it")
    if recurrent:
        return lambda: sl.LIFRecurrent(tau_mem=5.0, rec_connect=nn.Linear(HIDDEN, HIDDEN))
    return lambda: sl.LIF(tau_mem=5.0)


def snntorch_net() -> nn.Module:
    return seeded(lambda: Nested(snntorch_node()))


def recurrent_snntorch_net() -> nn.Module:
    snn = pytest.importorskip("snntorch", reason="neurons of it")
    return seeded(lambda: Nested(lambda: snn.RLeaky(beta=0.8, linear_features=HIDDEN, init_hidden=True)))


def sinabs_net() -> nn.Module:
    return seeded(lambda: Nested(sinabs_node()))


def recurrent_sinabs_net() -> nn.Module:
    return seeded(lambda: Nested(sinabs_node(recurrent=True)))


NETS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "snntorch": (snntorch_net, "step"),
    "snntorch-recurrent": (recurrent_snntorch_net, "step"),
    "sinabs": (sinabs_net, "NT"),
    "sinabs-recurrent": (recurrent_sinabs_net, "NT"),
}
every_net = pytest.mark.parametrize("name", NETS)


def wrapped(name: str) -> tuple[nn.Module, sr.SpikingModel]:
    build, layout = NETS[name]
    net = build()
    return net, sr.wrap(net, layout=layout, steps=T)  # type: ignore[arg-type]  # one of the layouts


def run_by_user(net: nn.Module, x: Tensor) -> Tensor:
    """One call of the user's own, with a graph, that leaves state."""
    sequence = "Leaky" not in repr(net)
    out: Tensor = net(x.unsqueeze(1).repeat(1, T, 1) if sequence else x)
    return out


def state(net: nn.Module) -> dict[str, Tensor]:
    """The tensors that the neurons hold as state."""
    names = ("mem", "spk", "v_mem")
    return {name: each for name, each in net.named_buffers() if name.rpartition(".")[2] in names}


def evaluate(model: sr.SpikingModel) -> None:
    data = inputs(), model.logits(inputs()).argmax(dim=1)
    sr.evaluate(model, data, [sr.load("pgd", epsilon=[0.1], steps=2, gradient="atan"), "activity"], progress=False)


@every_net
def test_one_net_is_reset_and_another_keeps_its_state(name: str) -> None:
    (_, model), (other, _) = wrapped(name), wrapped(name)
    run_by_user(other, inputs())
    before = state(other)
    values = {key: each.detach().clone() for key, each in before.items()}
    assert any((each != 0).any() for each in values.values())
    evaluate(model)
    after = state(other)
    assert all(after[key] is each for key, each in before.items())
    assert all(torch.equal(after[key], each) for key, each in values.items())


@every_net
def test_a_users_state_and_its_graph_are_left_as_they_were(name: str) -> None:
    net, model = wrapped(name)
    out = run_by_user(net, inputs())
    before = state(net)
    values = {key: each.detach().clone() for key, each in before.items()}
    graphs = {key: each.grad_fn for key, each in before.items()}
    assert any(graph is not None for graph in graphs.values())
    evaluate(model)
    after = state(net)
    assert after.keys() == before.keys()
    assert all(after[key] is each for key, each in before.items())
    assert all(after[key].grad_fn is graph for key, graph in graphs.items())
    assert all(torch.equal(after[key], each) for key, each in values.items())
    weights = [each for each in net.parameters() if each.requires_grad]
    torch.autograd.grad(out.sum(), weights, allow_unused=True)  # what the graph needs is untouched


@pytest.mark.parametrize("name", ["sinabs", "sinabs-recurrent"])
def test_a_users_reset_in_place_works_after_an_evaluation(name: str) -> None:
    net, model = wrapped(name)
    run_by_user(net, inputs())
    evaluate(model)
    for each in state(net).values():
        each.detach_().zero_()
    evaluate(model)
    assert all(not each.any() for each in state(net).values())
    net, model = wrapped(name)
    run_by_user(net, inputs())
    evaluate(model)
    with torch.no_grad():  # as sinabs's own `reset_states` does
        for each in state(net).values():
            each.zero_()
            each.detach_()


@every_net
def test_logits_depend_neither_on_what_ran_before_nor_on_the_batch(name: str) -> None:
    net, model = wrapped(name)
    expected = model.logits(inputs())
    assert expected.abs().sum() > 0
    for count in (7, 4):  # a state of the same and of another batch size
        run_by_user(net, inputs(count, seed=count))
        assert torch.equal(model.logits(inputs()), expected)
    for part in (1, 2, 7):
        found = torch.cat([model.logits(inputs()[k : k + part]) for k in range(0, 7, part)])
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)
    with model.session():  # state is reset between passes of one session too
        assert torch.equal(model.logits(inputs()), expected)
        model.logits(inputs(3, seed=1))
        assert torch.equal(model.logits(inputs()), expected)


@every_net
def test_logits_draw_no_random_numbers(name: str) -> None:
    net, model = wrapped(name)
    run_by_user(net, inputs(4))
    before = torch.random.get_rng_state()
    for count in (7, 3, 5):  # sinabs fills up a state of another batch size from random samples of the old one
        model.logits(inputs(count))
    assert torch.equal(before, torch.random.get_rng_state())


@every_net
def test_a_pass_is_the_users_own_on_a_new_net(name: str) -> None:
    net, model = wrapped(name)
    run_by_user(net, inputs(4))
    fresh = NETS[name][0]().eval()
    if NETS[name][1] == "step":
        expected = torch.stack([fresh(inputs()) for _ in range(T)]).mean(dim=0)
    else:
        expected = fresh(inputs().unsqueeze(1).repeat(1, T, 1)).mean(dim=1)
    assert torch.equal(model.logits(inputs()), expected)


def norse_net(node: Callable[[], nn.Module], scale: float) -> nn.Module:
    """A net that spikes at each layer within T steps of Norse's default 1 ms."""
    library = pytest.importorskip("norse.torch", reason="a net of it")
    net = seeded(lambda: library.SequentialState(nn.Linear(IN, HIDDEN), node(), nn.Linear(HIDDEN, HIDDEN), node()))
    with torch.no_grad():
        for layer in (net[0], net[2]):  # type: ignore[index]  # a sequence
            layer.weight.abs_().mul_(scale)
    return net


def handed_on(net: nn.Module, x: Tensor, hand_on: bool = True) -> Tensor:
    """The mean output of T calls by hand, with the state handed on or without."""
    state, outputs = None, []
    for _ in range(T):
        out, state = net(x, state if hand_on else None)
        outputs.append(out)
    return torch.stack(outputs).mean(dim=0)


@pytest.mark.parametrize("kind", ["LIFCell", "LIFBoxCell", "IAFCell", "LSNNCell"])
def test_norse_gets_its_state_back_at_each_step(kind: str) -> None:
    library = pytest.importorskip("norse.torch", reason="a net of it")
    net = norse_net(getattr(library, kind), scale=0.3 if kind == "IAFCell" else 4)  # it has no leak
    model = sr.wrap(net, layout="step", steps=T)
    expected = handed_on(net, inputs())
    assert expected.any()
    assert not torch.equal(expected, handed_on(net, inputs(), hand_on=False))
    for _ in range(2):  # the state of one pass is not that of the next
        assert torch.equal(model.logits(inputs()), expected)
    evaluate(model)
    assert torch.equal(model.logits(inputs()), expected)


class Spike(torch.autograd.Function):
    """H(u) with a rectangle as surrogate derivative."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return (u > 0).to(u)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        slope: Tensor = gradient * (ctx.saved_tensors[0].abs() < 0.5)
        return slope


class Own(nn.Module):
    """Takes its state and returns it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(IN, HIDDEN), nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        u = (0.0 if state is None else 0.8 * state) + self.first(x)
        spikes = Spike.apply(u - 1)
        out: Tensor = self.out(spikes)
        after: Tensor = u - spikes
        return out, after


class Keyword(Own):
    """The state as a keyword."""

    def forward(  # type: ignore[override]  # as its user calls it
        self, x: Tensor, *, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return super().forward(x, state)


class Third(Own):
    """The state as third argument."""

    def forward(  # type: ignore[override]  # as its user calls it
        self, x: Tensor, gain: Tensor | None = None, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return super().forward(x if gain is None else gain * x, state)


@pytest.mark.parametrize("kind", [Own, Keyword, Third])
def test_an_own_net_gets_its_state_back_at_each_step(kind: type[Own]) -> None:
    net = seeded(kind)
    model = sr.wrap(net, layout="step", steps=T)  # of (outputs, state), the first
    chosen = sr.wrap(net, layout="step", steps=T, output=0)
    assert torch.equal(model.logits(inputs()), chosen.logits(inputs()))
    expected = handed_on(seeded(Own), inputs())
    assert not torch.equal(expected, handed_on(seeded(Own), inputs(), hand_on=False))
    assert torch.equal(model.logits(inputs()), expected)
    evaluate(model)
    assert torch.equal(model.logits(inputs()), expected)
