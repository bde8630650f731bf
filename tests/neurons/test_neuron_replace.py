"""`replace`: the copy has the other neuron, the user's net is unchanged."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import base, functional, layer, neuron, surrogate
from torch import Tensor, nn

from snnrobust.errors import InputError, InputTypeError
from snnrobust.neurons import PRESETS, LoopNode, Variant, lif, replace


def small_net() -> nn.Sequential:
    return nn.Sequential(
        layer.Linear(4, 5, step_mode="m"),
        lif(k=0.8, threshold=0.4, surrogate=surrogate.Sigmoid(alpha=2.0), detach_reset=True),
        nn.Linear(5, 3),
        neuron.ParametricLIFNode(2.5, decay_input=False, v_threshold=0.6, step_mode="m"),
    )


def currents(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_node_is_swapped_and_keeps_its_settings(preset: str) -> None:
    net = small_net().eval()
    new = replace(net, preset)
    variant = PRESETS[preset]
    for index, threshold in ((1, 0.4), (3, 0.6)):
        node = new[index]
        assert type(node) is variant.node_class
        assert node.v_threshold == threshold
        assert node.step_mode == "m"
        assert node.training is False
        assert node.surrogate_function is not net[index].surrogate_function
    assert new[1].detach_reset is True
    assert new[1].surrogate_function.alpha == 2.0
    if variant.recurrent:
        assert new[1].lateral.weight.shape == (5, 5)
        assert new[3].lateral.weight.shape == (3, 3)
    assert torch.equal(new[0].weight, net[0].weight)
    assert new[0].weight is not net[0].weight
    assert new(currents(6, 2, 4)).shape == (6, 2, 3)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_source_is_untouched_also_after_a_forward_with_gradients(preset: str) -> None:
    net = small_net()
    net[1].store_v_seq = True
    net(currents(6, 2, 4))
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(net)  # control: the state is in a graph
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    memories = dict(base.named_memories(net))
    modules = list(net.modules())

    new = replace(net, preset)
    new(currents(6, 3, 4)).sum().backward()
    functional.reset_net(new)

    assert list(net.modules()) == modules
    assert {name: id(value) for name, value in base.named_memories(net)} == {
        name: id(value) for name, value in memories.items()
    }
    assert all(value.grad_fn is not None for value in memories.values())
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert new[1].store_v_seq is True


def test_the_copy_starts_without_memories_and_resets_with_reset_net() -> None:
    net = small_net()
    functional.reset_net(net)  # SpikingJelly caches the modules of this net; the copy needs its own
    net(currents(6, 2, 4))
    new = replace(net, "no-reset")
    assert all(memory == 0.0 for memory in base.memories(new))
    first = new(currents(6, 2, 4))
    functional.reset_net(new)
    assert all(memory == 0.0 for memory in base.memories(new))
    assert torch.equal(new(currents(6, 2, 4)), first)


class Remembering(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        self.last = x * 1.0
        return self.last


def test_an_activation_kept_by_a_layer_does_not_hinder_the_copy() -> None:
    net = nn.Sequential(nn.Linear(4, 4), Remembering(), lif())
    net(currents(3, 2, 4))
    new = replace(net, "vanilla")
    assert torch.equal(new[1].last, net[1].last)
    assert new[1].last.grad_fn is None
    assert net[1].last.grad_fn is not None


def test_memories_of_other_layers_are_reset_too() -> None:
    net = nn.Sequential(nn.Linear(4, 4), layer.Dropout(0.5, step_mode="m"), lif())
    net(currents(3, 2, 4))
    new = replace(net, "recurrent")
    assert new[1].mask is None
    assert net[1].mask is not None


def test_replace_by_vanilla_keeps_the_function() -> None:
    net = nn.Sequential(nn.Linear(4, 5), lif(k=0.8), nn.Linear(5, 3), lif(k=0.3))
    new = replace(net, "vanilla")
    assert torch.equal(new(currents(6, 2, 4)), net(currents(6, 2, 4)))


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (lif(k=0.8), 0.8),
        (lif(reset="none", k=0.8), 0.8),
        (lif("learnable", k=0.8), 0.8),
        (lif("learnable", "none", k=0.8), 0.8),
        (neuron.SimpleLIFNode(tau=4.0, decay_input=False), 0.75),
        (lif("none"), 0.5),
        (lif("complete"), 0.5),
        (neuron.QIFNode(), 0.5),
    ],
)
def test_k_is_the_old_nodes_where_it_has_one_unless_given(node: nn.Module, expected: float) -> None:
    for target in ("no-reset", Variant("learnable", "none")):
        assert torch.as_tensor(replace(node, target).k).item() == pytest.approx(expected, rel=1e-6)
    assert replace(node, "no-reset", k=0.25).k == 0.25


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        node = lif(step_mode="s")
        self.block = layer.MultiStepContainer(nn.Linear(4, 4), node)
        self.node = node
        self.again = nn.ModuleDict({"same": node})
        self.listed = [node]
        self.recurrent = layer.LinearRecurrentContainer(
            nn.Sequential(nn.Linear(4, 4), neuron.IFNode(step_mode="s")), 4, 4, step_mode="m"
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.recurrent(self.block(x))
        return y


@pytest.mark.parametrize("preset", PRESETS)
def test_nested_nodes_are_swapped_and_shared_ones_stay_shared(preset: str) -> None:
    net = Nested()
    net(currents(3, 2, 4))
    new: Any = replace(net, preset)
    assert new.node is new.block[1] is new.again["same"] is new.listed[0]
    assert type(new.node) is type(new.recurrent.sub_module[1]) is PRESETS[preset].node_class
    assert new(currents(3, 2, 4)).shape == (3, 2, 4)


def test_a_single_node_can_be_replaced() -> None:
    assert type(replace(lif(), "no-leak")) is neuron.IFNode


def test_features_pass_layers_that_keep_the_last_dimension() -> None:
    net = nn.Sequential(nn.Conv1d(1, 1, 1), nn.Linear(4, 5), nn.LayerNorm(5), nn.Dropout(0.1), lif(), lif())
    new = replace(net, "recurrent")
    assert [new[4].lateral.in_features, new[5].lateral.in_features] == [5, 5]
    again = replace(new, "no-leak-recurrent")  # V is a Linear as well, but no layer of the net
    assert again[5].lateral.in_features == 5


def test_new_parameters_have_the_type_of_the_layers_around() -> None:
    net = nn.Sequential(nn.Linear(4, 5), lif()).double()
    assert replace(net, "recurrent")[1].lateral.weight.dtype == torch.float64
    assert replace(net, Variant("learnable", "none"))[1].w.dtype == torch.float64


def test_a_recurrent_variant_needs_a_linear_before_each_node() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Flatten(), lif())
    with pytest.raises(InputError, match=r"nn.Linear before the spiking node '2'.*got Flatten '1'"):
        replace(net, "recurrent")
    with pytest.raises(InputError, match="got nothing"):
        replace(lif(), "recurrent")
    assert isinstance(replace(net, "no-reset")[2], LoopNode)


def test_what_cannot_be_replaced_is_refused() -> None:
    with pytest.raises(InputError, match=r"did you mean 'no-leak'.*choose one of these"):
        replace(small_net(), "no-laek")
    with pytest.raises(InputTypeError, match="preset's name or a Variant"):
        replace(small_net(), 3)
    with pytest.raises(InputError, match="spiking nodes, got Linear without one"):
        replace(nn.Linear(2, 2), "vanilla")
    with pytest.raises(InputTypeError, match="torch module, got str"):
        replace("net", "vanilla")
    with pytest.raises(InputError, match="strictly between 0 and 1"):
        replace(small_net(), "vanilla", k=2.0)
    with pytest.raises(InputError, match="got '1', a PSN"):
        replace(nn.Sequential(lif(), neuron.PSN(4)), "vanilla")


def test_a_net_that_cannot_be_copied_is_refused_with_the_reason() -> None:
    net = small_net()
    net.stream = (each for each in "abc")
    with pytest.raises(InputError, match=r"can copy, got: .*generator"):
        replace(net, "vanilla")
