"""A swap at a node that emits other values than H(u), or that can't be swapped, is refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, rnn, surrogate
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.errors import InputError
from snnrobust.neurons import lif
from snnrobust.spike_gradients.heaviside import emits_heaviside
from snnrobust.spike_gradients.swap import Own, SpikeGradient
from snnrobust_attacks.estimators.atan import ATan
from snnrobust_attacks.estimators.straight_through import StraightThrough

T, N, D = 4, 6, 5


class Strict(nn.Module):
    """Spikes above the threshold only, not at it."""

    def forward(self, u: Tensor) -> Tensor:
        return (u > 0).to(u)


class Channels(nn.Module):
    """Takes one shape alone; integer spikes."""

    def forward(self, u: Tensor) -> Tensor:
        return u.reshape(-1, D).round().clamp(0, 3).reshape(u.shape)


class Random(nn.Module):
    def forward(self, u: Tensor) -> Tensor:
        return torch.bernoulli(u.sigmoid())


class Signed(nn.Module):
    def forward(self, u: Tensor) -> Tensor:
        return (u >= 0).to(u) - (u <= -2).to(u)


def net_of(node: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(layer.Linear(D, D), node, layer.Linear(D, 3))
    functional.set_step_mode(net, getattr(node, "step_mode", "m"))
    return net


def inputs() -> Tensor:
    return 2 * torch.rand(T, N, D, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "node",
    [
        neuron.LIFNode(surrogate_function=Signed()),
        neuron.LIFNode(surrogate_function=Random()),
    ],
)
def test_other_values_than_spikes_are_refused_by_name(node: nn.Module) -> None:
    net, before = net_of(node), torch.random.get_rng_state()
    for estimator in (ATan(), {"1": ATan()}):
        with pytest.raises(InputError, match=rf"got node '1' \({type(node).__name__}\) whose surrogate .*per-module"):
            SpikeGradient(net, estimator)
    assert torch.equal(before, torch.random.get_rng_state())
    SpikeGradient(net, Own())
    SpikeGradient(net, {})  # the ways that the message names
    SpikeGradient(net, {"1": Own()})


def test_a_surrogate_set_after_the_swap_was_made_is_looked_at() -> None:
    net = net_of(neuron.LIFNode(step_mode="m"))
    swap = SpikeGradient(net, ATan())
    net[1].surrogate_function = Signed()
    with pytest.raises(InputError, match="Signed"), swap:
        pass
    assert type(net[1].surrogate_function) is Signed


def counting_if_node(step_mode: str) -> nn.Module:
    node: nn.Module = neuron.IFNode(surrogate_function=surrogate.MultiLevelSpikeCount(2), step_mode=step_mode)
    return node


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("kind", [neuron.ILIFNode, counting_if_node])
def test_counts_keep_their_value_and_take_the_gradient_of_the_nearest_level(
    kind: Callable[..., nn.Module], mode: str
) -> None:
    node = kind(step_mode=mode)
    before = dict(vars(node))
    most, x = node.surrogate_function.max_spike_count, 2 * inputs()[:1]
    own = node(x.clone() if mode == "m" else x[0].clone())
    node.reset()
    at = x.clone().requires_grad_()
    with SpikeGradient(node, ATan(alpha=4.0)):
        counts = node(at if mode == "m" else at[0])
    assert torch.equal(counts, own)
    assert counts.max() > 1
    u = at if isinstance(node, neuron.ILIFNode) else at - node.v_threshold  # from the reset state
    nearest = (u.detach() - 0.5).round().clamp(0, most - 1) + 0.5  # round(u) changes at 1/2, 3/2 ...
    expected = torch.autograd.grad(surrogate.ATan(alpha=4.0)(u - nearest).sum(), at)[0]
    assert torch.allclose(torch.autograd.grad(counts.sum(), at)[0], expected)
    node.reset()
    assert vars(node).keys() == before.keys()


@pytest.mark.parametrize("own", [Strict(), Channels()])
def test_where_the_grid_leaves_it_open_each_comparison_is_looked_at(own: nn.Module) -> None:
    assert emits_heaviside(own) == "unsure"
    net = net_of(neuron.IFNode(surrogate_function=own, step_mode="s"))
    with torch.no_grad():
        net[0].get_parameter("weight").copy_(torch.eye(D))
        net[0].get_parameter("bias").zero_()
    with SpikeGradient(net, ATan()):
        net(torch.full((N, D), 0.75))  # below the threshold: the same
    functional.reset_net(net)
    with pytest.raises(InputError, match="got node '1'"), SpikeGradient(net, ATan()):
        net(torch.full((N, D), 1.0 if isinstance(own, Strict) else 3.0))


SURROGATES = [
    surrogate.ATan,
    surrogate.Sigmoid,
    surrogate.PiecewiseQuadratic,
    surrogate.PiecewiseExp,
    surrogate.SoftSign,
    surrogate.SuperSpike,
    surrogate.Erf,
    surrogate.Rect,
    surrogate.NonzeroSignLogAbs,
    surrogate.PiecewiseLeakyReLU,
    surrogate.S2NN,
    surrogate.QPseudoSpike,
    surrogate.LeakyKReLU,
    surrogate.LogTailedReLU,
    surrogate.DeterministicPass,
]


@pytest.mark.parametrize("kind", SURROGATES)
def test_control_ordinary_surrogates_are_known_to_spike(kind: Callable[[], nn.Module]) -> None:
    assert emits_heaviside(kind()) == "yes"
    assert emits_heaviside(kind().double()) == "yes"


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize(
    "kind", [neuron.LIFNode, neuron.IFNode, neuron.ParametricLIFNode, neuron.TernaryLIFNode, lambda **_: lif()]
)
def test_control_the_forward_pass_is_the_nets_own(kind: Callable[..., nn.Module], mode: str) -> None:
    net = net_of(kind(step_mode=mode))
    functional.set_step_mode(net, mode)
    model, x = sr.wrap(net, steps=T, layout="TN" if mode == "m" else "step"), inputs()[0]
    plain = model.logits(x)
    with model.session(), SpikeGradient(net, ATan(alpha=4.0)) as swap:
        assert swap.exact
        assert torch.equal(model.logits(x), plain)


def psn_net(slope: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    nodes = (neuron.PSN(T), neuron.LIFNode(step_mode="m"))
    for node in nodes if slope is not None else ():
        node.surrogate_function = slope
    return nn.Sequential(net_of(nodes[0]), nodes[1])


def test_a_psn_beside_lif_is_swapped_too() -> None:
    x = inputs()

    def gradient(net: nn.Module) -> Tensor:
        functional.reset_net(net)
        at = x.clone().requires_grad_()
        found: Tensor = torch.autograd.grad(net(at).sum(), at)[0]
        return found

    net = psn_net()
    with SpikeGradient(net, ATan(alpha=4.0)):
        swapped = gradient(net)
    by_hand = psn_net(surrogate.ATan(alpha=4.0))
    by_hand.load_state_dict(net.state_dict())
    assert torch.allclose(swapped, gradient(by_hand))
    assert not torch.allclose(swapped, gradient(psn_net()))


def dsr_net() -> nn.Sequential:
    return nn.Sequential(net_of(neuron.DSRIFNode(T=T, step_mode="m")), neuron.LIFNode(step_mode="m"))


@pytest.mark.parametrize("estimator", [ATan(), StraightThrough()])
def test_a_dsr_beside_lif_does_not_keep_its_gradient_unsaid(estimator: ATan | StraightThrough) -> None:
    net = dsr_net()
    with pytest.raises(InputError, match=r"got '0.1' \(DSRIFNode\); they would keep their own gradient.*per-module"):
        SpikeGradient(net, estimator)
    with SpikeGradient(net, {"1": ATan()}):  # the user names what is swapped
        net(inputs())
    SpikeGradient(net, Own())


@pytest.mark.parametrize(
    ("other", "kind"),
    [
        (neuron.DSRIFNode(T=T, step_mode="m"), "DSRIFNode"),
        (neuron.STBIFNode(q_threshold=1.0, level=4, sym=True, step_mode="m"), "STBIFNode"),
        (rnn.SpikingLSTMCell(D, D), "SpikingLSTMCell"),
    ],
)
def test_siblings_of_psn(other: nn.Module, kind: str) -> None:
    net = nn.ModuleDict({"known": neuron.LIFNode(), "other": other})
    with pytest.raises(InputError, match=rf"got 'other' \({kind}\)"):
        SpikeGradient(net, ATan())


def test_control_membrane_outputs_and_shared_surrogates_are_no_spiking_nodes() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.surrogate_function = surrogate.ATan()
            self.node = neuron.LIFNode(surrogate_function=self.surrogate_function)
            self.out = neuron.NonSpikingLIFNode()

    SpikeGradient(Net(), ATan())


def test_clif_in_eval_mode_takes_an_estimator() -> None:
    """Its own gradient is none in eval mode; an estimator's is that of training with the same surrogate."""
    x = inputs()

    def gradient(net: nn.Module) -> tuple[Tensor, Tensor]:
        functional.reset_net(net)
        at = x.clone().requires_grad_()
        out = net(at)
        return out.detach(), torch.autograd.grad(out.square().sum(), at)[0]

    trained = net_of(neuron.ComplementaryLIFNode(surrogate_function=surrogate.ATan(alpha=4.0), step_mode="m")).train()
    want = gradient(trained)
    net = net_of(neuron.ComplementaryLIFNode(step_mode="m")).eval()
    with SpikeGradient(net, ATan(alpha=4.0)):
        got = gradient(net)
    assert torch.equal(got[0], want[0])
    assert want[1].abs().max() > 0
    torch.testing.assert_close(got[1], want[1])


@pytest.mark.parametrize("kind", [neuron.OTTTLIFNode, neuron.SLTTLIFNode])
def test_online_nodes_in_eval_mode_get_advice_that_works(kind: type) -> None:
    torch.manual_seed(0)
    node = kind(tau=3.0, v_threshold=0.4)
    net = net_of(node).eval()
    with pytest.raises(InputError, match=rf"got '1' \({kind.__name__}\); put SpikingJelly's LIFNode"):
        SpikeGradient(net, ATan())
    like = neuron.LIFNode(3.0, node.decay_input, 0.4, node.v_reset, node.surrogate_function, node.detach_reset)
    advised = net_of(like).eval()
    model, other = (sr.wrap(each, layout="step", steps=T, bounds=(0, 2)) for each in (net, advised))
    x = inputs()[0]
    assert torch.equal(model.logits(x), other.logits(x))
    data = x, other.logits(x).argmax(dim=1)
    report = sr.evaluate(other, data, [sr.load("pgd", epsilon=[0.1], steps=2, gradient="atan")], progress=False)
    assert report.curve("pgd").value
    for name in ("square", "random-search"):  # the other advice, on the node itself
        settings = {"norm": "l1"} if name == "random-search" else {}
        attack = sr.load(name, epsilon=[0.1], steps=3, **settings)
        sr.evaluate(model, data, [attack], progress=False, evidence="none")
    SpikeGradient(net.train(), ATan())  # while training it calls its surrogate


def test_an_evaluation_names_the_node_and_standard_the_members_left_out() -> None:
    signed = neuron.LIFNode(surrogate_function=Signed())
    model = sr.wrap(net_of(signed), layout="step", steps=T, bounds=(0, 2))
    x = inputs()[0]
    data = x, model.logits(x).argmax(dim=1)
    with pytest.raises(InputError, match=r"node '1' \(LIFNode\)"):
        sr.evaluate(model, data, [sr.load("pgd", epsilon=[0.1], steps=2, gradient="atan")], progress=False)
    report = sr.evaluate(model, data, [sr.load("pgd", epsilon=[0.1], steps=2)], progress=False, evidence="none")
    assert report.curve("pgd").value
    small = sr.load("standard", epsilon=[0.1])
    members = [f for f in sr.evaluate(model, data, [small], progress=False).findings if f.name == "members"]
    assert members
    assert "atan 4" in members[0].why
