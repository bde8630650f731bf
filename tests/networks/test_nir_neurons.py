"""Neurons of NIR graphs against closed forms and hand-computed steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from snnrobust.networks import from_nir
from snnrobust.networks.nir.neurons import Delay, Neuron

nir = pytest.importorskip("nir")
pytest.importorskip("nirtorch")
BOTH = pytest.mark.parametrize("spikingjelly", [True, False])


def one(value: float) -> np.ndarray:
    return np.array([value])


def number(value: float) -> Tensor:
    return torch.tensor(value)


def lif(**settings: float) -> object:
    given = {"tau": 10e-4, "r": 1.0, "v_leak": 0.0, "v_threshold": 1.0, **settings}
    return nir.LIF(**{name: one(value) for name, value in given.items()})


def response(node: object, x: list[float], **settings: object) -> list[float]:
    """The output of a single neuron for a current."""
    net = from_nir(nir.NIRGraph.from_list(node), **{"dt": 1e-4, **settings})
    with torch.no_grad():
        return net(torch.tensor(x).reshape(-1, 1, 1)).flatten().tolist()


@BOTH
def test_lif_fires_where_the_closed_form_crosses(spikingjelly: bool) -> None:
    """u[t] = 2 (1 - .9^t) after a reset, above 1 first at t = 7."""
    spikes = response(lif(), [2.0] * 21, spikingjelly=spikingjelly)
    assert spikes == [float(t % 7 == 0) for t in range(1, 22)]


@BOTH
def test_leak_to_another_rest(spikingjelly: bool) -> None:
    """Without input u goes to v_leak = 2 as 2 (1 - .9^t)."""
    spikes = response(lif(v_leak=2.0), [0.0] * 14, spikingjelly=spikingjelly)
    assert spikes == [float(t % 7 == 0) for t in range(1, 15)]


def test_lif_with_soft_reset_by_hand() -> None:
    """tau of two steps, current 3: u = 1.5; v = .5, u = 1.75; v = .75, u = 1.875; with r = .5: .75, 1.125, .8125."""
    assert response(lif(tau=2e-4), [3.0, 3.0, 3.0], reset="soft") == [1, 1, 1]
    # u: .75 | 1.125 -> .125 | .8125 | 1.15625 -> .15625 | .828125
    assert response(lif(tau=2e-4, r=0.5), [3.0] * 5, reset="soft") == [0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("reset", "spikes"),
    [
        ("hard", [0, 0, 1, 0, 0, 1, 0, 0, 1, 0]),  # .375 .75 1.125
        # .375 .75 1.125 -> .125 | .5 .875 1.25 -> .25 | .625 1.0, at the threshold | 1.375 -> .375 | .75
        ("soft", [0, 0, 1, 0, 0, 1, 0, 0, 1, 0]),
    ],
)
def test_if_by_hand(reset: str, spikes: list[int]) -> None:
    node = nir.IF(r=one(1.0), v_threshold=one(1.0))
    assert response(node, [0.375] * 10, dt=1.0, reset=reset) == spikes


def test_resets_differ() -> None:
    node = nir.IF(r=one(1.0), v_threshold=one(1.0))
    assert response(node, [1.5] * 4, dt=1.0, reset="hard") == [1, 1, 1, 1]
    assert response(node, [0.75] * 4, dt=1.0, reset="hard") == [0, 1, 0, 1]
    assert response(node, [0.75] * 4, dt=1.0, reset="soft") == [0, 1, 1, 0]  # .75 | 1.5 | 1.25 | 1.0: not above


@BOTH
def test_no_spike_at_the_threshold(spikingjelly: bool) -> None:
    node = nir.IF(r=one(1.0), v_threshold=one(1.0))
    assert response(node, [1.0] * 4, dt=1.0, spikingjelly=spikingjelly) == [0, 1, 0, 1]


def test_integrator_is_scaled_by_the_step() -> None:
    assert response(nir.I(r=one(4.0)), [1.0, 1.0, 2.0], dt=0.5) == [2.0, 4.0, 8.0]


def test_leaky_integrator_has_the_step_response() -> None:
    node = nir.LI(tau=one(4e-4), r=one(3.0), v_leak=one(1.0))
    expected = 4 * (1 - 0.75 ** np.arange(1, 11))  # towards v_leak + r
    np.testing.assert_allclose(response(node, [1.0] * 10), expected, rtol=1e-5)


def test_current_based_neuron_has_the_impulse_response() -> None:
    """v[t] = r w / (tau_syn tau_mem) (b^(t+1) - a^(t+1)) / (b - a), a and b the shares that a step keeps."""
    tau_syn, tau_mem, r, w = 2.0, 5.0, 3.0, 0.7
    node = Neuron(number(r), tau=number(tau_mem), v_leak=number(0.0), synapse=(number(tau_syn), number(w)))
    impulse = torch.zeros(12, 1, 1)
    impulse[0] = 1
    a, b, t = 1 - 1 / tau_syn, 1 - 1 / tau_mem, np.arange(12)
    expected = r * w / (tau_syn * tau_mem) * (b ** (t + 1) - a ** (t + 1)) / (b - a)
    np.testing.assert_allclose(node(impulse).flatten().numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize(("reset", "spikes"), [("hard", [0, 1, 0, 1]), ("soft", [0, 1, 1, 1])])
def test_current_based_neuron_by_hand(reset: str, spikes: list[int]) -> None:
    """Both time constants two steps, w_in and r 2, input 1: I = 1, 1.5, 1.75, 1.875; u = v / 2 + I.

    Hard: 1 (at the threshold) | 2 -> 0 | 1.75 -> 0 ... with v_threshold 1.8: 1 | 2 -> 0 | 1.75 | 2.75.
    Soft: 1 | 2 -> .2 | 1.85 -> .05 | 1.9.
    """
    names = ("tau_syn", "tau_mem", "r", "v_leak", "v_threshold", "w_in")
    node = nir.CubaLIF(**dict(zip(names, map(one, (2e-4, 2e-4, 2.0, 0.0, 1.8, 2.0)), strict=True)))
    assert response(node, [1.0] * 4, reset=reset) == spikes


def test_reset_value_of_the_graph_is_used() -> None:
    if not hasattr(lif(), "v_reset"):
        pytest.skip("this nir has no v_reset")
    node = nir.IF(r=one(1.0), v_threshold=one(1.0), v_reset=one(0.75))
    for spikingjelly in (True, False):
        # .75 + .5 fires, each time
        assert response(node, [0.5] * 3, dt=1.0, spikingjelly=spikingjelly) == [1, 1, 1]
    assert response(node, [0.5] * 3, dt=1.0, reset="soft") == [0, 0, 1]


def test_threshold_is_strict() -> None:
    assert response(nir.Threshold(threshold=one(0.5)), [0.4, 0.5, 0.6]) == [0, 0, 1]


def test_delays_shift_each_entry_by_its_own() -> None:
    x = torch.arange(1.0, 13.0).reshape(4, 1, 3)
    delayed = Delay(torch.tensor([0.0, 1.0, 3.0]))(x)
    expected = torch.tensor([[1.0, 0, 0], [4, 2, 0], [7, 5, 0], [10, 8, 3]])
    assert torch.equal(delayed[:, 0], expected)


def test_delay_in_seconds() -> None:
    assert response(nir.Delay(delay=one(2e-4)), [1.0, 2.0, 3.0, 4.0]) == [0, 0, 1, 2]


@pytest.mark.parametrize("kind", ["IF", "LIF", "LIF at another rest"])
def test_spikes_of_spikingjelly_nodes_and_ours_are_equal(kind: str) -> None:
    shape = (3, 4)
    full = {name: np.full(shape, value) for name, value in {"r": 1.0, "v_threshold": 0.9}.items()}
    rest = 0.0
    if kind == "LIF at another rest":
        if not hasattr(lif(), "v_reset"):
            pytest.skip("this nir has no v_reset")
        rest = full["v_reset"] = np.full(shape, 0.2)
    node = nir.IF(**full) if kind == "IF" else nir.LIF(tau=np.full(shape, 3.7), v_leak=np.zeros(shape) + rest, **full)
    graph = nir.NIRGraph.from_list(node)
    theirs = from_nir(graph, dt=1.0)
    ours = from_nir(graph, dt=1.0, spikingjelly=False)
    x = 2.5 * torch.rand(40, 8, *shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert any(isinstance(each, neuron.BaseNode) for each in theirs.modules())
    assert not any(isinstance(each, neuron.BaseNode) for each in ours.modules())
    a, b = theirs(x), ours(x)
    assert 0.05 < a.mean() < 0.95
    assert torch.equal(a, b)
    weights = torch.rand(a.shape, generator=torch.Generator().manual_seed(1))
    first, second = (torch.autograd.grad((out * weights).sum(), x)[0] for out in (a, b))
    torch.testing.assert_close(first, second)


def test_neurons_that_differ_from_spikingjellys_are_ours() -> None:
    """Another constant for each neuron, a soft reset, a resistance, or one other neuron in the graph."""

    def has_theirs(*nodes: object, **settings: object) -> bool:
        net = from_nir(nir.NIRGraph.from_list(*nodes), dt=1.0, **settings)
        return any(isinstance(each, neuron.BaseNode) for each in net.modules())

    same = nir.IF(r=np.ones(2), v_threshold=np.ones(2))
    assert has_theirs(same)
    assert has_theirs(same, nir.LI(tau=np.full(2, 3.0), r=np.ones(2), v_leak=np.zeros(2)))
    assert not has_theirs(same, reset="soft")
    assert not has_theirs(nir.IF(r=np.ones(2), v_threshold=np.array([1.0, 2.0])))
    assert not has_theirs(nir.IF(r=np.full(2, 0.5), v_threshold=np.ones(2)))
    assert not has_theirs(same, nir.Threshold(threshold=np.ones(2)))


def test_the_surrogate_is_the_users() -> None:
    class Step(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, u: Tensor) -> Tensor:
            return (u >= 0).float()

        @staticmethod
        def backward(ctx: object, *gradients: Tensor) -> Tensor:
            return 7 * gradients[0]

    class Seven(nn.Module):
        def forward(self, u: Tensor) -> Tensor:
            return Step.apply(u)

    net = from_nir(nir.NIRGraph.from_list(lif(tau=1e-4)), dt=1e-4, surrogate=Seven())
    x = torch.ones(1, 1, 1, requires_grad=True)
    net(x).sum().backward()
    assert x.grad is not None
    assert x.grad.item() == 7
