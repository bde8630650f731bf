"""Every leak x reset x recurrence against the written equations, in an independent float64 loop of numpy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import Tensor, nn

from snnrobust.neurons import LoopNode, lif

FEATURES = 3
COMBINATIONS = list(
    itertools.product(("normal", "none", "complete", "learnable"), ("hard", "soft", "none"), (False, True))
)
ks = st.floats(0.01, 0.99)
seeds = st.integers(0, 2**31 - 1)


def equations(
    x: NDArray[np.float64], leak: str, reset: str, k: float, threshold: float, lateral: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Spikes [T, N, F] for currents x [T, N, F], written from the paper with the un-reset membrane as state."""
    k = {"none": 1.0, "complete": 0.0}.get(leak, k)
    u = np.zeros_like(x[0])
    o = np.zeros_like(x[0])
    spikes = []
    for current in x:
        if reset == "hard":
            kept = u * (1 - o)
        elif reset == "soft":
            kept = u - threshold * o
        else:
            kept = u
        u = k * kept + current + o @ lateral.T
        o = (u >= threshold).astype(np.float64)
        spikes.append(o)
    return np.stack(spikes)


def currents(seed: int, steps: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(steps, 4, FEATURES, generator=generator, dtype=torch.float64)


def spike_train(node: nn.Module, x: Tensor) -> Tensor:
    """Spikes of a freshly reset node, in whichever step mode it is."""
    functional.reset_net(node)
    return node(x) if node.step_mode == "m" else torch.stack([node(step) for step in x])


def with_lateral(node: nn.Module, seed: int) -> NDArray[np.float64]:
    """Draws V for a recurrent node in place; zeros stand for no recurrence."""
    lateral = torch.zeros(FEATURES, FEATURES, dtype=torch.float64)
    if isinstance(node, LoopNode) and node.lateral is not None:
        lateral.normal_(generator=torch.Generator().manual_seed(seed + 1))
        node.lateral.weight.data.copy_(lateral)
    return lateral.numpy()


@pytest.mark.parametrize(("leak", "reset", "recurrent"), COMBINATIONS)
@settings(max_examples=8, deadline=None)
@given(seed=seeds, k=ks, threshold=st.floats(0.1, 2.0))
def test_spikes_follow_the_equations_in_both_step_modes(
    leak: str, reset: str, recurrent: bool, seed: int, k: float, threshold: float
) -> None:
    node = lif(leak, reset, recurrent, k=k, threshold=threshold, features=FEATURES if recurrent else None).double()
    lateral = with_lateral(node, seed)
    if leak == "learnable":
        k = 1 - 1 / (1 + np.exp(-node.w.item()))  # w was rounded to float32 when it was made
    x = currents(seed)
    expected = equations(x.numpy(), leak, reset, k, threshold, lateral)

    multi = spike_train(node, x)
    node.step_mode = "s"
    single = spike_train(node, x)

    np.testing.assert_array_equal(multi.detach().numpy(), expected)
    assert torch.equal(multi, single)


def test_the_drawn_currents_tell_every_combination_apart() -> None:
    """Negative control: where two combinations differ on paper, the inputs of the test above show it."""
    x = currents(0, steps=40).numpy()
    lateral = np.random.default_rng(0).normal(size=(FEATURES, FEATURES))
    trains = {
        (leak, reset, recurrent): equations(x, leak, reset, 0.6, 0.8, lateral * recurrent).tobytes()
        for leak, reset, recurrent in COMBINATIONS
        if leak in ("normal", "none")
    }
    assert len(set(trains.values())) == len(trains)


@settings(max_examples=15, deadline=None)
@given(seed=seeds, k=ks, reset=st.sampled_from(("hard", "soft")), detach=st.booleans())
def test_loop_node_has_the_spikes_and_gradients_of_lif_node(seed: int, k: float, reset: str, detach: bool) -> None:
    common = {"surrogate_function": surrogate.ATan(), "detach_reset": detach, "step_mode": "m"}
    loop = LoopNode("normal", reset, k=k, threshold=1.0, features=None, **common)
    theirs = neuron.LIFNode(1 / (1 - k), decay_input=False, v_reset=0.0 if reset == "hard" else None, **common)
    x = currents(seed).requires_grad_()
    weights = currents(seed + 1)

    ours_spikes, their_spikes = loop(x), theirs(x)
    (ours,) = torch.autograd.grad((ours_spikes * weights).sum(), x)
    (expected,) = torch.autograd.grad((their_spikes * weights).sum(), x)

    assert torch.equal(ours_spikes, their_spikes)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-10)
    assert expected.abs().sum() > 0


@pytest.mark.parametrize("reset", ["hard", "soft"])
@pytest.mark.parametrize(("leak", "theirs"), [("none", neuron.IFNode), ("learnable", neuron.ParametricLIFNode)])
def test_loop_node_has_the_gradients_of_the_other_nodes_of_spikingjelly(
    leak: str, theirs: type[nn.Module], reset: str
) -> None:
    own = lif(leak, reset, k=0.7).double()
    loop = LoopNode(
        leak,
        reset,
        k=0.7,
        threshold=1.0,
        surrogate_function=surrogate.ATan(),
        detach_reset=False,
        step_mode="m",
        features=None,
    ).double()
    assert type(own) is theirs
    x = currents(3).requires_grad_()
    ours = torch.autograd.grad(loop(x).mul(currents(4)).sum(), [x, *loop.parameters()])
    expected = torch.autograd.grad(own(x).mul(currents(4)).sum(), [x, *own.parameters()])
    for gradient, reference in zip(ours, expected, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("leak", "reset", "recurrent"), COMBINATIONS)
def test_gradients_of_the_smooth_node_pass_gradcheck(leak: str, reset: str, recurrent: bool) -> None:
    """With the surrogate's primitive for a spike every derivative, those of V and w too, has a finite difference."""
    node = lif(
        leak, reset, recurrent, surrogate=surrogate.ATan(spiking=False), features=FEATURES if recurrent else None
    ).double()
    with_lateral(node, 0)
    names = [name for name, _ in node.named_parameters()]

    def smooth(x: Tensor, *parameters: Tensor) -> Tensor:
        functional.reset_net(node)
        return torch.func.functional_call(node, dict(zip(names, parameters, strict=True)), (x,))

    x = currents(5, steps=4)[:, :2].requires_grad_()
    assert torch.autograd.gradcheck(smooth, (x, *node.parameters()))


@pytest.mark.parametrize("reset", ["hard", "soft", "none"])
def test_complete_leakage_forgets_even_an_infinite_membrane(reset: str) -> None:
    x = currents(6)
    x[0] = torch.inf
    node = lif("complete", reset)
    assert torch.equal(spike_train(node, x)[1:], spike_train(node, x[1:]))


@pytest.mark.parametrize("k", [0.01, 0.3, 0.5, 0.9, 0.999])
def test_a_learnable_leak_starts_at_k(k: float) -> None:
    loop, own = lif("learnable", "none", k=k), lif("learnable", k=k)
    assert isinstance(loop, LoopNode)
    assert loop.k.item() == pytest.approx(k, rel=1e-4)
    assert 1 - torch.sigmoid(own.w).item() == pytest.approx(k, rel=1e-4)
    torch.testing.assert_close(loop.w, own.w)
