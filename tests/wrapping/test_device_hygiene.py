"""Forward passes of wrapped models on fake CUDA tensors: no tensor may be made on the CPU by accident."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import snnrobust as sr
from snnrobust.wrapping.readout import READOUTS


@pytest.fixture(autouse=True)
def without_restoring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Putting a net back compares values, which fake tensors have none of."""
    monkeypatch.setattr(sr.SpikingModel, "session", lambda _: nullcontext())


def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(2), nn.Linear(16, 3), neuron.LIFNode(step_mode="m"))


@pytest.mark.parametrize("encoder", ["repeat", "latency"])
@pytest.mark.parametrize("readout", READOUTS)
def test_a_wrapped_model_stays_on_its_device(encoder: str, readout: str) -> None:
    with FakeTensorMode(), torch.device("cuda"):
        model = sr.wrap(net(), steps=4, encoder=encoder, readout=readout, normalize=([0.1], [0.3]))
        x = torch.rand(5, 1, 4, 4, requires_grad=True)
        logits = model.logits(x, lengths=torch.tensor([1, 2, 3, 4, 4]))
        assert logits.device.type == "cuda"
        assert model.predict(logits).device.type == "cuda"


def test_a_tensor_on_the_wrong_device_is_noticed() -> None:
    class Stray(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.flatten(1)) + torch.ones(3, device="cpu")

    with FakeTensorMode(), torch.device("cuda"):
        model = sr.wrap(Stray(), layout="N")
        with pytest.raises((RuntimeError, sr.InputError), match="device"):
            model.logits(torch.rand(5, 1, 4, 4))
