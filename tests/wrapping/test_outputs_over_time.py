"""Layout "N": a net that returns [T, N, K] is refused also where there are as many samples as steps."""

from __future__ import annotations

import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.errors import InputError

T, D, K = 4, 5, 3


class Net(nn.Module):
    def __init__(self, time_first: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.node, self.dim = nn.Linear(D, K), neuron.LIFNode(v_threshold=0.2), 0 if time_first else 1

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.node(self.linear(x)) for _ in range(T)], dim=self.dim)


@pytest.mark.parametrize("samples", [1, T, T + 2])
def test_time_is_not_taken_for_samples(samples: int) -> None:
    x = torch.rand(samples, D)
    for call in ("logits", "record"):
        with pytest.raises(InputError, match="expected output"):
            getattr(sr.wrap(Net(time_first=True), layout="N"), call)(x)
    data = x, torch.zeros(samples, dtype=torch.long)
    with pytest.raises(InputError, match="expected"):
        sr.evaluate(sr.wrap(Net(time_first=True), layout="N"), data, [sr.load("fgsm", epsilon=[0.1])], progress=False)


def test_control_outputs_over_time_are_read_as_before() -> None:
    x, net = torch.rand(T, D), Net(time_first=False)
    model = sr.wrap(net, layout="N")
    want = torch.stack([sr.wrap(net, layout="N").logits(x[i : i + 1])[0] for i in range(T)])
    passes: list[int] = []
    net.register_forward_hook(lambda module, args, out: passes.append(len(out)))
    assert torch.equal(model.logits(x), want)
    assert passes == [T, 1]  # one sample alone, once
    assert torch.equal(model.logits(x), want)
    assert passes == [T, 1, T]


def test_control_recording_hears_one_pass() -> None:
    x = torch.rand(T, D)
    fresh = sr.wrap(Net(time_first=False), layout="N").record(x).spikes["node"]
    known = sr.wrap(Net(time_first=False), layout="N")
    known.logits(x)
    assert torch.equal(fresh, known.record(x).spikes["node"])
