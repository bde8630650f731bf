"""Outcomes depend on no torch mode around the call, and on no graph or flag of the caller's tensors and net."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import layer, neuron
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.testing.tiny import tiny_data, tiny_model

DATA = tiny_data(count=16)
TASKS = [
    sr.load("pgd", epsilon=[0.02, 0.05], steps=3),
    sr.load("square", epsilon=[0.05], steps=6),
    sr.load("gaussian", severity=[0.2], draws=2),
]


class Default64(AbstractContextManager[None]):
    """The default dtype is float64 inside."""

    def __enter__(self) -> None:
        torch.set_default_dtype(torch.float64)

    def __exit__(self, *_: object) -> None:
        torch.set_default_dtype(torch.float32)


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "default dtype": Default64,
    "default device": lambda: torch.device("meta"),
    "no mode": nullcontext,
}


def outcomes(x: Tensor, y: Tensor, model: sr.SpikingModel) -> list[np.ndarray]:
    """Everything that an evaluation, an attack and a probe compute."""
    report = sr.evaluate(model, (x, y), TASKS, evidence="basic", progress=False)
    found = [
        array for task in ("clean", "pgd", "square", "gaussian") for array in report.cell("tiny", task, 0).values()
    ]
    found.append(np.array([each.value for each in report.findings]))
    found.append(sr.attack(model, (x, y), TASKS[1], progress=False).x.numpy())
    found.append(np.array([each.value for each in sr.probe(model, (x, y))]))
    return found


def equal(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(first, second, strict=True))


@pytest.fixture(scope="module")
def plain() -> list[np.ndarray]:
    return outcomes(DATA.x, DATA.y, tiny_model())


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_around_the_call_changes_nothing(mode: str, plain: list[np.ndarray]) -> None:
    model = tiny_model()
    with MODES[mode]():
        inside = outcomes(DATA.x, DATA.y, model)
        assert torch.is_inference_mode_enabled() is (mode == "inference_mode")  # the caller's mode is left on
        assert torch.get_default_dtype() is (torch.float64 if mode == "default dtype" else torch.float32)
    assert equal(inside, plain)


def test_tensors_made_in_inference_mode_or_with_a_graph(plain: list[np.ndarray]) -> None:
    with torch.inference_mode():
        x, y = DATA.x.clone(), DATA.y.clone()
    assert x.is_inference()
    assert equal(outcomes(x, y, tiny_model()), plain)
    leaf = DATA.x.clone().requires_grad_()
    assert equal(outcomes(leaf, DATA.y, tiny_model()), plain)
    assert equal(outcomes(leaf * 1.0, DATA.y, tiny_model()), plain)
    assert leaf.grad is None
    assert leaf.requires_grad
    assert not sr.data.Dataset.of(leaf, DATA.y).x.requires_grad


def test_weights_made_in_inference_mode_are_refused() -> None:
    with torch.inference_mode():
        net = tiny_model().net
        net = nn.Sequential(nn.Flatten(1), nn.Linear(16, 3))
    model = sr.wrap(net, layout="N", name="frozen")
    message = r"got inference tensors \['1.weight', '1.bias'\]; build and load the net outside"
    with pytest.raises(sr.InputError, match=message):
        sr.evaluate(model, (DATA.x, DATA.y), [sr.load("pgd", epsilon=0.1)])


class InPlace(nn.Module):
    """Changes its input in place before anything else."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(1.5).clamp_(0, 1)
        out: Tensor = self.net(x)
        return out


class OutOfPlace(InPlace):
    """The same without changing its input."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net((x * 1.5).clamp(0, 1))
        return out


@pytest.mark.parametrize(("layout", "steps"), [("N", None), ("TN", 1), ("step", 1), ("NT", None)])
@pytest.mark.parametrize("accelerate", [True, False])
def test_a_net_that_changes_its_input_in_place(layout: Any, steps: int | None, accelerate: bool) -> None:
    def made(kind: type[InPlace]) -> sr.SpikingModel:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(1 if layout in ("N", "step") else 2), nn.Linear(16, 3))
        settings: dict[str, Any] = {"steps": steps} if steps else {"encoder": None if layout == "NT" else "repeat"}
        return sr.wrap(kind(net), layout=layout, name="tiny", accelerate=accelerate, **settings)

    x = DATA.x.unsqueeze(1) if layout == "NT" else DATA.x
    before = x.clone()
    results = [outcomes(x, DATA.y, made(kind)) for kind in (InPlace, OutOfPlace)]
    assert torch.equal(x, before)
    assert equal(*results)
    assert made(InPlace).logits(x).equal(made(OutOfPlace).logits(x))
    assert torch.equal(x, before)


class Hidden(NamedTuple):
    v: Tensor
    s: Tensor


class Keeps(nn.Module):
    """State in a buffer, an attribute, a list or a named tuple; its reset detaches in place."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.linear = nn.Linear(16, 3)
        zero = torch.zeros(3)
        if where == "buffer":
            self.register_buffer("v", zero)
        else:
            self.v: Any = {"attribute": zero, "list": [zero], "named tuple": Hidden(zero, zero)}[where]

    def state(self) -> Tensor:
        held: Any = self.v
        state: Tensor = held if isinstance(held, Tensor) else held[0]
        return state

    def reset(self) -> None:
        self.state().zero_().detach_()

    def forward(self, x: Tensor) -> Tensor:
        v = 0.5 * self.state() + self.linear(x.flatten(1)).mean(dim=0)
        self.v = {"buffer": v, "attribute": v, "list": [v], "named tuple": Hidden(v, v)}[self.where]
        return torch.sigmoid(v) * self.linear(x.flatten(1))


@pytest.mark.parametrize("where", ["buffer", "attribute", "list", "named tuple"])
def test_state_with_a_graph_of_the_users_own_stays_what_it_was(where: str) -> None:
    net = Keeps(where)
    net(DATA.x)
    state, values = net.state(), net.state().detach().clone()
    assert not state.is_leaf
    model = sr.wrap(net, layout="step", steps=2, reset=net.reset)
    model.logits(DATA.x)
    assert net.state() is state
    assert not state.is_leaf
    assert torch.equal(state, values)
    state.sum().backward()  # the graph is whole
    assert net.linear.weight.grad is not None
    net.reset()  # and the user's own reset still works


def test_a_compiled_net_is_evaluated_as_its_original(plain: list[np.ndarray]) -> None:
    net = tiny_model().net
    model = sr.wrap(torch.compile(net, backend="eager"), name="tiny", steps=4)  # type: ignore[arg-type]
    assert model.net is net
    assert equal(outcomes(DATA.x, DATA.y, model), plain)


def test_a_traced_net_runs_as_it_is() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(1), nn.Linear(16, 3))
    traced = torch.jit.trace(net, DATA.x)
    results = [outcomes(DATA.x, DATA.y, sr.wrap(each, layout="N", name="tiny")) for each in (net, traced)]
    for first, second in zip(*results, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)


def test_a_quantised_net_has_no_gradient_and_says_so() -> None:
    net = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Flatten(1), nn.Linear(16, 3)), {nn.Linear})
    model = sr.wrap(net, layout="N", name="tiny")
    report = sr.evaluate(model, (DATA.x, DATA.y), [sr.load("square", epsilon=0.3, steps=5)], progress=False)
    assert "input-gradient" in [each.name for each in report.findings if each.passed is False]


def test_the_multi_step_layers_of_a_compiled_net_are_found() -> None:
    net = nn.Sequential(layer.Flatten(step_mode="m"), layer.Linear(16, 3, step_mode="m"), neuron.LIFNode(step_mode="m"))
    model = sr.wrap(torch.compile(net, backend="eager"), steps=4)  # type: ignore[arg-type]
    found = sr.attack(model, (DATA.x, DATA.y), sr.load("pgd", epsilon=0.05, steps=2, gradient="atan"))
    assert len(found) == len(DATA)
