"""Outputs over time are told from outputs of samples, also where there are as many of one as of the other."""

from __future__ import annotations

from typing import Any

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
@pytest.mark.parametrize("out_layout", [None, "TN"])
def test_time_is_not_taken_for_samples(samples: int, out_layout: Any) -> None:
    """In layout "N" a net may return [T, N, K] or [N, T, K]: one sample alone shows which."""
    x = torch.rand(samples, D, generator=torch.Generator().manual_seed(0))
    want = sr.wrap(Net(time_first=False), layout="N", out_layout="NT").logits(x)
    model = sr.wrap(Net(time_first=True), layout="N", out_layout=out_layout)
    assert torch.equal(model.logits(x), want)
    fresh = sr.wrap(Net(time_first=True), layout="N", out_layout=out_layout)
    assert fresh.record(x).spikes["node"].any()
    with model.session():
        for count in (1, T, T + 2):
            x = torch.rand(count, D)
            assert model.outputs(x).shape == (count, T, K)
    data = x, model.logits(x).argmax(1)
    report = sr.evaluate(model, data, [sr.load("fgsm", epsilon=[0.1])], progress=False)
    assert report.clean("model")["correct"].all()


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


class AxesSwapped(nn.Module):
    """Takes the stated layout, and returns [N, T, K] for [T, N, *] or the other way round."""

    def forward(self, x: Tensor) -> Tensor:
        return (2 * x).transpose(0, 1)


class MeanOver(nn.Module):
    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        return (x * torch.arange(x.shape[-1])).cumsum(self.axis).mean(self.axis)


@pytest.mark.parametrize("count", [4, 6])
@pytest.mark.parametrize("layout", ["TN", "NT"])
def test_as_many_samples_as_steps_hide_no_swapped_axes(layout: Any, count: int) -> None:
    x = torch.rand(count, 4, 3, generator=torch.Generator().manual_seed(0))
    swapped = sr.wrap(AxesSwapped(), layout=layout, encoder=None)
    with pytest.raises(InputError, match=r"out_layout='(NT|TN)'"):
        swapped.logits(x)
    time = 0 if layout == "TN" else 1
    other = "NT" if layout == "TN" else "TN"
    advised = sr.wrap(AxesSwapped(), layout=layout, encoder=None, out_layout=other)
    torch.testing.assert_close(advised.logits(x), 2 * x.mean(1))
    with pytest.raises(InputError, match=f"layout='{other}'"):
        sr.wrap(MeanOver(1 - time), layout=layout, encoder=None).logits(x)
    want = (x * torch.arange(3)).cumsum(1).mean(1)
    torch.testing.assert_close(sr.wrap(MeanOver(1 - time), layout=other, encoder=None).logits(x), want)  # the advice
    torch.testing.assert_close(sr.wrap(MeanOver(time), layout=layout, encoder=None).logits(x), want)  # the control


@pytest.mark.parametrize("count", [4, 6])
def test_a_step_without_classes_is_refused(count: int) -> None:
    class OneNumber(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum(dim=1)

    with pytest.raises(InputError, match=r"expected output \[N, K\] or a sequence"):
        sr.wrap(OneNumber(), layout="step", encoder=None).logits(torch.rand(count, 4, 3))
