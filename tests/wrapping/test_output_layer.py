"""Which node is the output layer, what is captured of it, and that nothing stays behind."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import nn

import snnrobust as sr
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.wrapping.output_layer import OutputLayer


def test_the_last_node_is_found_where_its_spikes_are_the_outputs() -> None:
    found = OutputLayer(tiny_model(), tiny_data().x)
    assert found.spikes
    assert found._name == "4"


def test_outputs_of_a_layer_that_does_not_spike_are_graded() -> None:
    node = neuron.LIFNode(step_mode="m", surrogate_function=surrogate.ATan())
    model = sr.wrap(nn.Sequential(nn.Linear(4, 4), node, nn.Linear(4, 3)), steps=3)
    x = torch.rand(5, 4)
    found = OutputLayer(model, x)
    assert not found.spikes
    with found.capture("membrane"):
        outputs = model.outputs(x)
    assert found.captured(outputs) is outputs
    plain = OutputLayer(sr.wrap(nn.Linear(4, 3), layout="N"), x)
    assert not plain.spikes


def test_what_is_captured_is_what_was_compared() -> None:
    """Spikes are just where the distance to threshold is not below zero, at every step."""
    model, x = tiny_model(), tiny_data(count=10).x
    found = OutputLayer(model, x[:2])
    with model.session(), found.capture("membrane"):  # a session of its own would restore the node
        outputs = model.outputs(x)
    assert torch.equal((found.captured(outputs) >= 0).float(), outputs)
    torch.testing.assert_close(found.captured(outputs), model.record(x).distances["4"])


@pytest.mark.parametrize("to", ["membrane", "current"])
def test_the_node_is_restored(to: Literal["membrane", "current"]) -> None:
    model, x = tiny_model(), tiny_data().x
    node = model.net[4]
    before, hooks = node.surrogate_function, len(node._forward_pre_hooks)
    found = OutputLayer(model, x)

    def interrupted() -> None:
        with found.capture(to):
            model.outputs(x)
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        interrupted()
    assert node.surrogate_function is before
    assert len(node._forward_pre_hooks) == hooks
    assert not node._forward_hooks


def test_each_pass_is_captured_by_itself() -> None:
    model, x = tiny_model(), tiny_data().x
    found = OutputLayer(model, x)
    captured = []
    for part in (x, x[:3]):
        with model.session(), found.capture("current"):
            captured.append(found.captured(model.outputs(part)))
    assert captured[0].shape[:2] == (len(x), 4)
    torch.testing.assert_close(captured[1], captured[0][:3])
