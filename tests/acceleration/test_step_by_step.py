"""Nets that are called step by step run on multi-step kernels: other layers take all steps of all samples at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import layer, neuron, surrogate
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.acceleration.model import AcceleratedModel, NotAccelerated
from snnrobust.data.batch import Batch
from snnrobust.objectives.logits import CrossEntropy
from snnrobust.search.queries import ModelQueries
from snnrobust.spike_gradients.swap import Own

T, N = 5, 12


def lif(**settings: Any) -> nn.Module:
    return neuron.LIFNode(**{"v_threshold": 0.3, "surrogate_function": surrogate.ATan(), **settings})


def dense() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 20), lif(), nn.Linear(20, 10), lif(v_reset=None), nn.Linear(10, 3))


def convolutional() -> nn.Module:
    net = nn.Sequential(
        layer.Conv2d(3, 6, 3, padding=1, bias=False),
        layer.BatchNorm2d(6),
        lif(),
        layer.MaxPool2d(2, 2),
        layer.Conv2d(6, 8, 3, padding=1, bias=False),
        lif(decay_input=False),
        nn.Flatten(),
        nn.Linear(32, 3),
    )
    with torch.no_grad():
        net[1].running_mean.uniform_(-0.2, 0.2)
        net[1].weight.uniform_(2, 3)
    return net


class Residual(nn.Module):
    """The input is added to spikes: one step of it to all steps of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.node, self.out = nn.Linear(48, 48), lif(), nn.Linear(48, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        out: Tensor = self.out(self.node(self.first(x)) + 0.1 * x)
        return out


def made(build: Callable[[], nn.Module], temporal: bool = False) -> tuple[nn.Module, dict[str, Any], Tensor]:
    """A net, the settings that wrap it, and inputs."""
    torch.manual_seed(0)
    net = build().eval()
    x = torch.rand((N, *([T] if temporal else []), 3, 4, 4), generator=torch.Generator().manual_seed(0))
    return net, {"layout": "step", **({"encoder": None} if temporal else {"steps": T})}, x


@pytest.mark.parametrize("gradient", ["own", "rectangle"])
@pytest.mark.parametrize("temporal", [False, True])
@pytest.mark.parametrize("build", [dense, convolutional, Residual])
def test_outputs_and_gradients_are_those_of_the_loop(build: Any, temporal: bool, gradient: str) -> None:
    net, settings, x = made(build, temporal)
    estimator = sr.load("pgd", epsilon=0.1, gradient=gradient).attack
    assert estimator is not None
    batch, found = Batch(x, torch.arange(N) % 3, torch.arange(N)), []
    for accelerate in (True, False):
        model = sr.wrap(net, accelerate=accelerate, **settings)
        with model.session():
            queries = ModelQueries(model, CrossEntropy(), estimator.gradient)
            found.append(queries.gradient(batch))
            assert queries.execution.path.accelerated is accelerate, queries.execution.path
            assert sum(queries.execution.path.kernels.values()) == (
                sum(map(is_node, net.modules())) if accelerate else 0
            )
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert found[0][0].any()
    assert found[0][2].std() > 0


def is_node(module: nn.Module) -> bool:
    return isinstance(module, neuron.BaseNode)


@pytest.mark.parametrize("build", [dense, convolutional, Residual])
def test_bits_do_not_depend_on_the_number_of_samples(build: Any) -> None:
    net, settings, x = made(build)
    accelerated = AcceleratedModel(sr.wrap(net, **settings), Own())
    whole = accelerated.outputs(x)
    for size in (1, 3, 5):
        assert torch.equal(torch.cat([accelerated.outputs(x[at]) for at in torch.arange(N).split(size)]), whole)


def test_an_evaluation_finds_the_same() -> None:
    net, settings, x = made(convolutional)
    y = sr.wrap(net, **settings).logits(x).argmax(1)
    found = []
    for accelerate in (True, False):
        model = sr.wrap(net, name="net", accelerate=accelerate, **settings)
        report = sr.evaluate(model, (x, y), [sr.load("pgd", epsilon=[0.02, 0.1], steps=5)], evidence="none")
        (path,) = report.execution_paths("net")["pgd"]
        assert path.accelerated is accelerate
        found.append([report.cell("net", "pgd", k)["correct"].tolist() for k in range(2)])
    assert found[0] == found[1]
    assert all(node.v == 0.0 for node in net.modules() if is_node(node))


class Recurrent(nn.Module):
    """Keeps its last spikes in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.back, self.node = nn.Linear(48, 8), nn.Linear(8, 8), lif()
        self.out, self.last = nn.Linear(8, 3), torch.zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        current = self.first(x.flatten(1))
        if self.last.ndim == 2:
            current = current + 3 * self.back(self.last)
        self.last = self.node(current)
        out: Tensor = self.out(self.last)
        return out

    def forget(self) -> None:
        self.last = torch.zeros(1)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.node = nn.Linear(48, 48), lif()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.node(self.layer(self.node(self.layer(x.flatten(1)))))
        return out


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (Twice, r"nodes \['node'\] are called more than once a pass"),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 8), lif(), nn.Linear(8, 3), neuron.QIFNode()),
            r"nodes \['4'\] keep their state from call to call",
        ),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 3), lif(step_mode="m")),
            r"node '2' \(LIFNode\) is multi-step in a net that is called step by step; set step_mode='s'",
        ),
    ],
)
def test_what_can_not_be_merged_says_why(build: Any, words: str) -> None:
    net, settings, _ = made(build)
    with pytest.raises(NotAccelerated, match=words):
        AcceleratedModel(sr.wrap(net, **settings), Own())


def test_state_beside_the_nodes_is_noticed() -> None:
    """A net that feeds its last spikes back by itself: the comparison with the net refuses."""
    net, settings, x = made(Recurrent)
    model = sr.wrap(net, reset=net.forget, **settings)  # type: ignore[operator]
    batch = Batch(x, torch.arange(N) % 3, torch.arange(N))
    with model.session():
        queries = ModelQueries(model, CrossEntropy(), Own())
        gradient, _, logits = queries.gradient(batch)
        assert not queries.execution.path.accelerated
        assert torch.equal(logits, model.logits(x))
        assert gradient.any()
