"""Nodes that run on their framework's operators are not replaced; what is equal at each step is hoisted."""

from __future__ import annotations

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate

import snnrobust as sr
from snnrobust.acceleration.model import AcceleratedModel, NotAccelerated
from snnrobust.frameworks.spikingjelly import SpikingJelly
from snnrobust.kernels.native import Native
from snnrobust.spike_gradients.swap import Own
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust_attacks.estimators.atan import ATan

CUDA = torch.device("cuda")


def test_on_cuda_spikingjelly_has_operators_for_its_nodes_with_its_surrogates() -> None:
    adapter = SpikingJelly()
    lif = neuron.LIFNode(surrogate_function=surrogate.Sigmoid(), step_mode="m")
    assert adapter.has_operator(lif, CUDA)
    assert not adapter.has_operator(lif, torch.device("cpu"))
    assert not adapter.has_operator(neuron.LIFNode(surrogate_function=surrogate.LeakyKReLU(), step_mode="m"), CUDA)
    assert not adapter.has_operator(sr.neurons.Variant("learnable", "none").build(), CUDA)


def test_a_net_of_such_nodes_still_has_what_is_the_same_at_each_step_hoisted(
    native: Native, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SpikingJelly, "has_operator", lambda *_: True)
    model, data = tiny_model(), tiny_data(count=20)
    accelerated, calls = AcceleratedModel(model, Own()), []
    assert not accelerated.fast
    hook = next(each for each in model.net if isinstance(each, torch.nn.Linear)).register_forward_hook(
        lambda _module, inputs, _output: calls.append(inputs[0].shape)
    )
    ours = accelerated.outputs(data.x, keys=data.index)
    hook.remove()
    assert [shape[0] for shape in calls] == [1]  # one step for all of T
    torch.testing.assert_close(ours, model.outputs(data.x, keys=data.index))
    with model.session():
        accelerated.compare(data.x, data.index)
    assert "no kernels at any of 2" in str(accelerated.path)


def test_another_derivative_than_the_nets_own_is_compiled_there(
    native: Native, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SpikingJelly, "has_operator", lambda *_: True)
    assert len(AcceleratedModel(tiny_model(), ATan(alpha=3.0)).fast) == 2


def test_where_nothing_is_gained_there_is_no_accelerated_model(native: Native, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SpikingJelly, "has_operator", lambda *_: True)
    with pytest.raises(NotAccelerated, match="operators of their framework"):
        AcceleratedModel(tiny_model(temporal=True), Own())
