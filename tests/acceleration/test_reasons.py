"""What is not accelerated says why, with the true reason: in multi-step nets, called step by step, and with loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.acceleration.model import AcceleratedModel, NotAccelerated
from snnrobust.kernels.backends import backends
from snnrobust.spike_gradients.swap import Own
from snnrobust_attacks.estimators.atan import ATan

pytestmark = pytest.mark.skipif(not backends("cpu")[0], reason="no fast kernels on this machine")
T = 4


class Net(nn.Module):
    """A node between two layers, or T calls of them."""

    def __init__(self, node: nn.Module, loop: bool) -> None:
        super().__init__()
        self.first, self.node, self.last, self.loop = layer.Linear(6, 8), node, layer.Linear(8, 3), loop

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.node(self.first(x)))
        for _ in range(T - 1 if self.loop else 0):
            out = out + self.last(self.node(self.first(x)))
        return out


KINDS: dict[str, tuple[bool, str, dict[str, Any]]] = {
    "multi-step": (False, "m", {"layout": "TN", "steps": T}),
    "step": (False, "s", {"layout": "step", "steps": T}),
    "loop": (True, "s", {"layout": "N"}),
}


def wrapped(kind: str, node: nn.Module, mode: str | None = None) -> sr.SpikingModel:
    loop, own_mode, settings = KINDS[kind]
    net = Net(node, loop)
    functional.set_step_mode(net, mode or own_mode)
    return sr.wrap(net.eval(), **settings)


def lif(own: nn.Module | None = None, **settings: Any) -> Any:
    return neuron.LIFNode(surrogate_function=own or surrogate.ATan(), v_threshold=0.2, **settings)


def storing() -> nn.Module:
    node = lif()
    node.store_v_seq = True
    return node


def with_thresholds(values: Tensor) -> nn.Module:
    node = lif()
    node.v_threshold = values
    return node


def hooked(register: str) -> nn.Module:
    node = lif()
    getattr(node, register)(lambda *_: None)
    return node


#: Node, why the net's own surrogate has no kernel, and whether another estimator has none either.
CAUSES: dict[str, tuple[Callable[[], nn.Module], str, bool]] = {
    "membranes": (storing, "stores its membrane potentials; set store_v_seq=False", True),
    "hook": (lambda: hooked("register_forward_hook"), "has hooks, which are to be called", True),
    "backward hook": (lambda: hooked("register_full_backward_hook"), "has hooks, which are to be called", True),
    "surrogate": (
        lambda: lif(surrogate.SquarewaveFourierSeries()),
        "has the surrogate SquarewaveFourierSeries, for which there is no fast kernel",
        False,
    ),
    "setting": (
        lambda: lif(surrogate.QPseudoSpike(alpha=3.0)),
        "has the surrogate QPseudoSpike, for which there is no fast kernel with its settings",
        False,
    ),
    "equation": (neuron.QIFNode, "is not of the leaky integrate-and-fire family", True),
    "thresholds": (
        lambda: with_thresholds(0.2 + torch.zeros(8)),
        "is not of the leaky integrate-and-fire family with one threshold",
        True,
    ),
}


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_cause_is_named(kind: str, cause: str) -> None:
    build, words, _ = CAUSES[cause]
    with pytest.raises(NotAccelerated, match=rf"node 'node' \(\w+\) {words}"):
        AcceleratedModel(wrapped(kind, build()), Own())


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_estimators_derivative_that_counts(kind: str, cause: str) -> None:
    build, words, refused = CAUSES[cause]
    model = wrapped(kind, build())
    if refused:
        with pytest.raises(NotAccelerated, match=rf"node 'node' \(\w+\) {words}"):
            AcceleratedModel(model, ATan())
    else:
        assert list(AcceleratedModel(model, ATan()).fast) == ["node"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("estimator", [Own(), ATan()])
def test_the_control_without_a_cause_is_accelerated(kind: str, estimator: Any) -> None:
    accelerated = AcceleratedModel(wrapped(kind, lif()), estimator)
    accelerated.compare(torch.rand(4, 6), torch.arange(4))
    assert list(accelerated.fast) == ["node"]


@pytest.mark.parametrize("estimator", [Own(), ATan()])
@pytest.mark.parametrize(
    ("kind", "mode", "words"),
    [
        ("multi-step", "s", r"is single-step; set step_mode='m', .* or wrap the net with layout='step'"),
        ("step", "m", r"is multi-step in a net that is called step by step; set step_mode='s'"),
    ],
)
def test_the_wrong_step_mode_is_named(kind: str, mode: str, words: str, estimator: Any) -> None:
    with pytest.raises(NotAccelerated, match=rf"node 'node' \(LIFNode\) {words}"):
        AcceleratedModel(wrapped(kind, lif(), mode), estimator)


def test_a_multi_step_node_in_a_loop_is_called_more_than_once() -> None:
    with pytest.raises(NotAccelerated, match=r"nodes \['node'\] are called more than once a pass"):
        AcceleratedModel(wrapped("loop", lif(), "m"), Own())


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_has_the_reason(kind: str) -> None:
    model = wrapped(kind, storing())
    x = torch.rand(6, 6, generator=torch.Generator().manual_seed(0))
    data = x, model.logits(x).argmax(dim=1)
    report = sr.evaluate(model, data, [sr.load("pgd", epsilon=[0.1], steps=2)], progress=False, evidence="none")
    (path,) = report.execution_paths()["pgd"]
    assert "node 'node' (LIFNode) stores its membrane potentials" in str(path)
