"""`first_spike_only`: the first spikes of any node, windows, lateral spikes, state, and gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.errors import InputError
from snnrobust.neurons import first_spike_only, lif

NODES: dict[str, Callable[[], nn.Module]] = {
    "if": lambda: neuron.IFNode(),
    "lif": lambda: neuron.LIFNode(tau=2.0),
    "soft lif": lambda: neuron.LIFNode(tau=2.0, v_reset=None, decay_input=False),
    "parametric": lambda: neuron.ParametricLIFNode(),
    "qif": lambda: neuron.QIFNode(),
    "eif": lambda: neuron.EIFNode(),
    "izhikevich": lambda: neuron.IzhikevichNode(),
    "no reset": lambda: lif(reset="none", k=0.8),
}


def firsts(spikes: Tensor) -> Tensor:
    """The first spike of each neuron of spikes [T, *]."""
    return spikes * (spikes.cumsum(dim=0) == 1)


def current(steps: int = 12) -> Tensor:
    return 3.0 * torch.rand(steps, 5, 7, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("name", NODES)
def test_the_first_spikes_are_those_of_the_node(name: str, mode: str, train: bool) -> None:
    node = NODES[name]()
    functional.set_step_mode(node, "m")
    node.train(train)
    once = first_spike_only(node)
    functional.set_step_mode(once, mode)
    x = current()
    for _ in range(2):  # a reset forgets which neurons have spiked
        functional.reset_net(node)
        functional.reset_net(once)
        spikes = node(x)
        found = once(x) if mode == "m" else torch.stack([once(each) for each in x])
        torch.testing.assert_close(found, firsts(spikes), rtol=0, atol=0)
    assert 0 < found.sum() < spikes.sum()


def test_a_neuron_integrates_before_its_window_and_is_silent_after_it() -> None:
    node = neuron.IFNode(step_mode="m")
    x = torch.tensor([0.5, 0.5, 0.5, -2.0, 0.0, 1.5, 0.0])[:, None, None]
    for window, spike in (((0, 7), 1), ((2, 7), 2), ((3, 7), 5), ((3, 5), None), ((5, 6), 5), ((0, 1), None)):
        found = first_spike_only(node, {"": window})(x).flatten()
        assert found.nonzero().flatten().tolist() == ([] if spike is None else [spike]), window


def test_windows_that_follow_each_other_make_a_pipeline() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(7, 30), neuron.LIFNode(), nn.Linear(30, 30), neuron.LIFNode())
    functional.set_step_mode(net, "m")
    seen: dict[str, Tensor] = {}
    once = first_spike_only(net, {"1": (0, 4), "3": (4, 12)})
    for name in ("1", "3"):
        once.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    once(2 * current())
    assert seen["1"].sum() > 0
    assert seen["1"][4:].sum() == 0
    assert seen["3"][:4].sum() == 0
    assert seen["3"].sum(dim=0).max() <= 1


def test_lateral_weights_see_first_spikes_alone() -> None:
    torch.manual_seed(0)
    node = lif(reset="hard", recurrent=True, k=0.5, features=7)
    functional.set_step_mode(node, "m")
    nn.init.normal_(node.lateral.weight)  # type: ignore[union-attr]
    x, weight = 0.3 * current(), node.lateral.weight  # type: ignore[union-attr]
    v, o, fired, outputs = torch.zeros(5, 7), torch.zeros(5, 7), torch.zeros(5, 7), []
    for each in x:
        u = 0.5 * v + each + o @ weight.T
        spike = (u >= 1).float()
        v, o = (1 - spike) * u, spike * (1 - fired)
        fired = torch.maximum(fired, spike)
        outputs.append(o)
    torch.testing.assert_close(first_spike_only(node)(x), torch.stack(outputs))
    functional.reset_net(node)
    assert (firsts(node(x)) != torch.stack(outputs)).any()  # the whole output's first spikes are others


def test_gradients_pass_up_to_the_first_spike() -> None:
    x = torch.tensor([0.4, 0.4, 0.4, 0.4, 0.4, 0.4])[:, None, None].requires_grad_()
    out = first_spike_only(neuron.IFNode(step_mode="m"))(x)  # spikes at step 2
    out.sum().backward()
    gradient = torch.as_tensor(x.grad).flatten()
    assert (gradient[:3] > 0).all()
    assert (gradient[3:] == 0).all()


def test_a_wrapped_net_is_attacked_and_each_neuron_spikes_once() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(layer.Linear(7, 40), neuron.LIFNode(), layer.Linear(40, 3))
    functional.set_step_mode(net, "m")
    with torch.no_grad():
        net[0].weight *= 3
        net[2].weight *= 3
    once = first_spike_only(net)
    model = sr.wrap(once, steps=8)
    x = torch.rand(20, 7)
    functional.reset_net(once)
    with torch.no_grad():
        expected = once(x.expand(8, 20, 7)).mean(dim=0)
    torch.testing.assert_close(model.logits(x), expected)
    y = model.predict(model.logits(x))
    decided = y >= 0  # no tie
    assert decided.sum() >= 5
    report = sr.evaluate(model, (x[decided], y[decided]), [sr.load("pgd", epsilon=0.5), "activity"], progress=False)
    assert report.robust("pgd").mean() < 1
    frame = report.to_frame()
    rate = frame.loc[frame["metric"] == "firing_rate:1", "value"].item()
    assert 0 < rate <= 1 / 8
    functional.reset_net(once)
    copied = copy.deepcopy(once)
    torch.testing.assert_close(copied(x.expand(8, 20, 7)).mean(dim=0), expected)


def test_bad_input_is_refused() -> None:
    net = nn.Sequential(nn.Linear(2, 2), neuron.IFNode())
    for windows, message in (({"0": (0, 3)}, "name of a node"), ({"1": (3, 3)}, "window"), ({"1": (-1, 3)}, "window")):
        with pytest.raises(InputError, match=message):
            first_spike_only(net, windows)
    with pytest.raises(InputError, match="nodes"):
        first_spike_only(nn.Linear(2, 2))
