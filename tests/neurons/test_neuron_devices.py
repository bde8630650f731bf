"""Device handling without a GPU: fake CUDA tensors, on which torch refuses an operation that mixes devices."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from spikingjelly.activation_based import base, functional
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from snnrobust.neurons import PRESETS, LoopNode, Variant, replace

VARIANTS = {
    **PRESETS,
    "learnable": Variant("learnable"),
    "learnable-recurrent": Variant("learnable", "soft", True),
}


@pytest.fixture
def fake_cuda() -> Iterator[None]:
    with FakeTensorMode(), torch.device("cuda"):
        yield


@pytest.mark.usefixtures("fake_cuda")
@pytest.mark.parametrize("step_mode", ["s", "m"])
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_a_forward_stays_on_the_device_of_its_input(variant: Variant, step_mode: str) -> None:
    """SpikingJelly's own nodes too: its operators have fake implementations. (A backward needs a CUDA context.)"""
    net = nn.Sequential(
        nn.Linear(3, 4), variant.build(step_mode=step_mode, features=4 if variant.recurrent else None), nn.Linear(4, 2)
    )
    assert all(parameter.device.type == "cuda" for parameter in net.parameters())
    x = torch.randn(*([5] if step_mode == "m" else []), 2, 3)
    for _ in range(2):  # the second call carries state
        assert net(x).device.type == "cuda"
    assert all(memory.device.type == "cuda" for memory in base.memories(net))
    functional.reset_net(net)
    assert net(x).device.type == "cuda"


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_replace_puts_new_nodes_on_the_device_of_the_net(variant: Variant) -> None:
    """On the meta device, since a fake tensor can't be copied by copy.deepcopy."""
    with torch.device("meta"):
        net = nn.Sequential(nn.Linear(3, 4), Variant().build(), nn.Linear(4, 2))
        x = torch.randn(5, 2, 3)
    new = replace(net, variant)  # outside torch.device: a tensor made anew is on the CPU
    assert all(parameter.device.type == "meta" for parameter in new.parameters())
    assert new(x).device.type == "meta"


class Careless(LoopNode):
    """Negative control: a tensor made on the CPU in the forward pass."""

    def single_step_functional_forward(
        self, inputs: tuple[Tensor, ...], states: tuple[Tensor, ...], **kwargs: object
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        shifted = inputs[0] + torch.zeros(inputs[0].shape, device="cpu")
        return super().single_step_functional_forward((shifted,), states)


@pytest.mark.usefixtures("fake_cuda")
def test_a_node_that_mixes_devices_is_caught() -> None:
    node = Careless(
        "normal",
        "none",
        k=0.5,
        threshold=1.0,
        surrogate_function=torch.sigmoid,
        detach_reset=False,
        step_mode="m",
        features=None,
    )
    with pytest.raises(RuntimeError, match="device"):
        node(torch.randn(5, 2, 3))
