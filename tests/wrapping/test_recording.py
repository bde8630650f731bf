"""What `record` hears equals what the equations say, in either step mode, and leaves nothing behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from spikingjelly.activation_based import base, layer, neuron, surrogate
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.errors import InputError

T, N, D = 6, 3, 4
THRESHOLD = 0.7


def build(step_mode: str) -> nn.Sequential:
    torch.manual_seed(0)
    shared = surrogate.ATan()
    net = nn.Sequential(
        layer.Linear(D, 5, step_mode=step_mode),
        nn.Sequential(neuron.IFNode(v_threshold=THRESHOLD, surrogate_function=shared, step_mode=step_mode)),
        layer.Linear(5, 2, step_mode=step_mode),
        neuron.LIFNode(v_threshold=THRESHOLD, surrogate_function=shared, step_mode=step_mode),
    )
    return net


def wrap(step_mode: str) -> sr.SpikingModel:
    return sr.wrap(build(step_mode), layout="TN" if step_mode == "m" else "step", steps=T)


def inputs() -> Tensor:
    return torch.rand(N, D, generator=torch.Generator().manual_seed(2)) * 2


@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_against_the_equations_by_hand(step_mode: str) -> None:
    model, x = wrap(step_mode), inputs()
    recording = model.record(x)
    assert list(recording.spikes) == ["1.0", "3"]
    net = model.net
    v1, v2 = torch.zeros(N, 5), torch.zeros(N, 2)
    for t in range(T):
        u1 = v1 + net[0](x[None])[0] if step_mode == "m" else v1 + net[0](x)
        s1 = (u1 >= THRESHOLD).float()
        v1 = u1 * (1 - s1)
        current = net[2](s1[None])[0] if step_mode == "m" else net[2](s1)
        u2 = v2 + (current - v2) / 2
        s2 = (u2 >= THRESHOLD).float()
        v2 = u2 * (1 - s2)
        for name, u, s in (("1.0", u1, s1), ("3", u2, s2)):
            assert torch.equal(recording.spikes[name][:, t], s)
            assert torch.allclose(recording.membranes[name][:, t], u, atol=1e-5)
            assert torch.allclose(recording.distances[name][:, t], u - THRESHOLD, atol=1e-5)
    assert 0 < float(recording.spikes["1.0"].mean()) < 1


def test_both_step_modes_record_the_same() -> None:
    single, multi = wrap("s").record(inputs()), wrap("m").record(inputs())
    for name in single.spikes:
        assert torch.equal(single.spikes[name], multi.spikes[name])
        assert torch.allclose(single.membranes[name], multi.membranes[name], atol=1e-6)
        assert single.spikes[name].shape[:2] == (N, T)
        assert not single.membranes[name].requires_grad


@pytest.mark.parametrize("step_mode", ["s", "m"])
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(step_mode: str, fails: bool) -> None:
    model = wrap(step_mode)
    net = model.net.train()
    surrogates = {name: module.surrogate_function for name, module in net.named_modules() if hasattr(module, "v")}
    before = model.logits(inputs())
    if fails:
        with pytest.raises(RuntimeError):
            model.record(torch.rand(N, D + 1))
    else:
        model.record(inputs())
    for name, own in surrogates.items():
        assert net.get_submodule(name).surrogate_function is own
    assert not any(module._forward_hooks for module in net.modules())
    assert all(module.training for module in net.modules())
    assert torch.equal(model.logits(inputs()), before)


def test_recording_works_inside_a_session_and_without_state_from_before() -> None:
    model = wrap("s")
    fresh = model.record(inputs()).spikes["3"]
    with model.session():
        model.logits(torch.rand(N, D) * 5)
        own = model.net[3].surrogate_function
        assert torch.equal(model.record(inputs()).spikes["3"], fresh)
        assert model.net[3].surrogate_function is own  # not only when the session ends
        assert not model.net[3]._forward_hooks


class Deaf(base.MemoryModule):
    """A node that never asks its surrogate function."""

    def __init__(self) -> None:
        super().__init__()
        self.surrogate_function = surrogate.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return (x > 0.5).to(x)


@pytest.mark.parametrize("net", [nn.Linear(D, 2), nn.Sequential(layer.Dropout())])
def test_nets_that_do_not_spike_are_refused(net: Any) -> None:
    with pytest.raises(InputError, match=r"expected spikes .*, got .* none were found; .*spike=MyFunction"):
        sr.wrap(net, layout="step", steps=2).record(inputs())


def test_spikes_are_recorded_where_comparisons_are_not_known() -> None:
    found = sr.wrap(nn.Sequential(Deaf()), layout="step", steps=2).record(inputs())
    assert torch.equal(found.spikes["0"][:, 0], (inputs() > 0.5).float())
    assert not found.distances
    assert not found.membranes


def test_a_spare_node_that_never_runs_is_left_out() -> None:
    net = build("s")
    spare = nn.ModuleDict({"body": net, "spare": neuron.IFNode()})

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = spare

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.parts["body"](x)
            return out

    assert list(sr.wrap(Outer(), layout="step", steps=2).record(inputs()).spikes) == ["parts.body.1.0", "parts.body.3"]
