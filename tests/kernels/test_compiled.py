"""The backend in torch code against the eager equation, and when it compiles."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import layer, neuron
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.acceleration.model import AcceleratedModel
from snnrobust.kernels.build import BuildError, find_compiler
from snnrobust.kernels.compiled import LANES, Compiled, _UnitCode
from snnrobust.kernels.dynamics import Dynamics
from snnrobust.kernels.fast import run_unit
from snnrobust.kernels.unit import Affine, Unit
from snnrobust.testing.tiny import tiny_data

CHARGES = (("divide", True), ("divide", False), ("multiply", True), ("multiply", False), ("keep", False))


@pytest.fixture(scope="module", autouse=True)
def _compiler() -> None:
    try:
        find_compiler()
    except BuildError as error:
        pytest.skip(str(error))


def strange(u: Tensor) -> Tensor:
    """A derivative that the native kernel does not support."""
    return torch.sigmoid(3 * u) * torch.sigmoid(-3 * u) / (1 + u.abs())


@st.composite
def units(draw: st.DrawFn) -> tuple[Unit, Affine | None, Tensor, Tensor]:
    """A unit, its affine map, a current, half of it in eighths so that some potentials are exactly on the threshold,
    and a gradient to the output."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31 - 1)))
    charge, decay = draw(st.sampled_from(CHARGES))
    steps, batch, lateral = draw(st.integers(1, 6)), draw(st.integers(1, 3)), draw(st.booleans())
    pool = None if lateral else draw(st.sampled_from((None, "mean", "max")))
    plane = not lateral and (pool is not None or draw(st.booleans()))
    shape = (2, draw(st.integers(2, 7)), draw(st.integers(2, 7))) if plane else (draw(st.integers(1, 40)),)
    affine = None
    if plane and draw(st.booleans()):
        affine = torch.randn(2, generator=generator) + 0.7, torch.randn(2, generator=generator)
    dynamics = Dynamics(
        charge,
        draw(st.sampled_from((0.0, 0.25, 0.7, 1.0))) if charge == "keep" else draw(st.sampled_from((0.3, 0.5, 2.0))),
        draw(st.sampled_from((0.5, 1.0, 1.3))),
        draw(st.sampled_from(("hard", "soft", "none"))),
        draw(st.sampled_from((0.0, -0.2))),
        decay,
        draw(st.booleans()),
        torch.randn(shape[0], shape[0], generator=generator) / 4 if lateral else None,
    )
    given_steps = draw(st.sampled_from((1, steps)))
    current = torch.randn(given_steps, batch, *shape, generator=generator) + 0.4
    eighths = torch.rand(current.shape, generator=generator) < 0.5
    current = torch.where(eighths, (current * 8).round() / 8, current)
    out = (steps, batch, *((2, shape[1] // 2, shape[2] // 2) if pool else shape))
    return Unit(dynamics, strange, steps, pool), affine, current, torch.randn(out, generator=generator)


def eager(unit: Unit, affine: Affine | None, current: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Output and gradient by autograd, with torch's own batch normalisation."""
    x = current.clone().requires_grad_()
    y = x
    if affine is not None:
        scale, shift = affine
        flat = F.batch_norm(x.flatten(0, 1), torch.zeros(2).to(x), torch.ones(2).to(x), scale, shift, eps=0.0)
        y = flat.reshape(x.shape)
    out = unit.eager(y)
    return out.detach(), torch.autograd.grad(out, x, gradient)[0]


def in_double(unit: Unit, affine: Affine | None, current: Tensor, gradient: Tensor) -> Any:
    lateral = unit.dynamics.lateral
    dynamics = replace(unit.dynamics, lateral=None if lateral is None else lateral.double())
    more = None if affine is None else (affine[0].double(), affine[1].double())
    return replace(unit, dynamics=dynamics), more, current.double(), gradient.double()


@given(units())
@settings(max_examples=150, deadline=None)
def test_spikes_are_those_of_eager_torch_and_gradients_too(case: Any) -> None:
    backend = Compiled()
    unit, affine, current, gradient = case
    out, _ = eager(*case)
    assert torch.equal(backend.forward(unit, current, affine), out)
    unit, affine, current, gradient = case = in_double(*case)
    out, to_current = eager(*case)
    assert torch.equal(backend.forward(unit, current, affine), out)
    torch.testing.assert_close(
        backend.backward(unit, current, affine, gradient), to_current, rtol=1e-9, atol=1e-11 * gradient.abs().sum()
    )


def test_no_parameter_gets_a_gradient_and_the_input_does() -> None:
    current, rate = torch.randn(3, 2, 5, requires_grad=True), torch.tensor(0.4, requires_grad=True)
    unit = Unit(Dynamics("multiply", rate, 1.0, "soft"), strange, 3)
    (run_unit([Compiled()], unit, current) * torch.randn(3, 2, 5)).sum().backward()
    assert current.grad is not None
    assert current.grad.abs().sum() > 0
    assert rate.grad is None


def test_what_it_does_not_know_is_left_to_others() -> None:
    backend, unit, current = Compiled(), Unit(Dynamics("keep", 1.0, 1.0, "soft"), strange, 2), torch.randn(2, 3, 4)
    assert backend.supports(unit, current)
    assert backend.supports(unit, current.double())
    assert not backend.supports(unit, current.half())
    assert not backend.supports(unit, current[:, :0])
    assert not backend.supports(unit, current.to("meta"))
    recurrent = replace(unit, dynamics=replace(unit.dynamics, lateral=torch.eye(4)))
    assert not backend.supports(recurrent, current)  # measured: slower than eager on the CPU

    class Unhashable:
        __hash__ = None  # type: ignore[assignment]  # what a class with __eq__ alone gets

        def __call__(self, u: Tensor) -> Tensor:
            return u

    assert not backend.supports(replace(unit, derivative=Unhashable()), current)


@dataclass(frozen=True)
class Strange:
    """A third-party estimator that is a function of u alone."""

    @property
    def derivative(self) -> Callable[[Tensor], Tensor]:
        return strange

    def backward(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        return strange(u)


def test_an_estimator_of_ones_own_searches_on_it_and_finds_the_same() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        layer.Conv2d(1, 4, 3, padding=1, step_mode="m"),
        layer.BatchNorm2d(4, step_mode="m"),
        neuron.LIFNode(step_mode="m"),
        layer.MaxPool2d(2, 2, step_mode="m"),
        nn.Flatten(2),
        nn.Linear(16, 3),
        neuron.IFNode(step_mode="m", v_reset=None),
    ).eval()
    for each in net.parameters():
        each.data *= 2
    data, found = tiny_data(count=20), []
    for accelerate in (True, False):
        model = sr.wrap(net, steps=4, accelerate=accelerate)
        own = replace(data, y=model.predict(model.logits(data.x)).clamp(min=0))
        pgd = sr.load("pgd", epsilon=[0.02, 0.1], steps=4, gradient=Strange())
        found.append(sr.evaluate(model, own, [pgd], evidence="none").robust("pgd"))
    assert np.array_equal(*found)
    assert 0 < found[0].mean() < 1
    accelerated = AcceleratedModel(sr.wrap(net, steps=4), Strange())
    accelerated.compare(data.x, data.index)
    assert str(accelerated.path) == "torch.compile kernels at 2 of 2 spiking nodes"


class Compiler:
    """Replaces torch.compile: counts calls and returns `change(function)`."""

    def __init__(self, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        self.calls = 0
        self._change = change

    def __call__(self, function: Callable[..., Any], **_: object) -> Callable[..., Any]:
        self.calls += 1
        return self._change(function)


@pytest.fixture
def unit() -> Unit:
    return Unit(Dynamics("divide", 2.0, 1.0, "hard"), strange, 4)


def codes(backend: Compiled) -> list[_UnitCode]:
    return list(backend._codes.values())


def test_a_kind_is_compiled_once_whatever_its_numbers_and_sizes(unit: Unit, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, backend = Compiler(lambda function: function), Compiled(after=-1.0)
    monkeypatch.setattr(torch, "compile", compiler)
    for steps, batch, tau in itertools.product((1, 4), (1, 7), (1.5, 3.0)):
        some = replace(unit, dynamics=replace(unit.dynamics, rate=tau), steps=steps)
        current, gradient = torch.randn(steps, batch, 30), torch.randn(steps, batch, 30)
        found = backend.backward(some, current, None, gradient)
        torch.testing.assert_close(found, eager(some, None, current, gradient)[1], rtol=1e-4, atol=1e-5)
    assert compiler.calls == 2  # the step and its adjoint
    assert len(codes(backend)) == 1
    backend.backward(replace(some, derivative=torch.ones_like), current, None, gradient)
    assert compiler.calls == 4


def test_nothing_is_compiled_before_its_time(unit: Unit, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = Compiler(lambda function: function)
    monkeypatch.setattr(torch, "compile", compiler)
    backend, x = Compiled(after=1e6), torch.randn(4, 2, 30)
    for _ in range(5):
        backend.backward(unit, x, None, x)
    assert compiler.calls == 0
    assert 0 < codes(backend)[0].seconds < 1e6


def failing(_: Callable[..., Any]) -> Callable[..., Any]:
    def fail(*_: object) -> Any:
        raise RuntimeError("no such instruction")

    return fail


def refusing(_: Callable[..., Any]) -> Callable[..., Any]:
    raise RuntimeError("no such instruction")


def exhausted(_: Callable[..., Any]) -> Callable[..., Any]:
    def fail(*_: object) -> Any:
        raise MemoryError

    return fail


def test_memory_that_runs_out_is_for_the_caller_to_deal_with(unit: Unit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", Compiler(exhausted))
    backend, x = Compiled(after=-1.0), torch.randn(4, 2, 30)
    with pytest.raises(MemoryError):
        backend.backward(unit, x, None, x)
    assert not codes(backend)[0].reason


def rounding(function: Callable[..., Any]) -> Callable[..., Any]:
    """Code that differs in the last bit."""
    return lambda *of: tuple(each * (1 + 2**-23) for each in function(*of))


@pytest.mark.parametrize(
    ("change", "reason"),
    [(failing, "no such instruction"), (refusing, "no such instruction"), (rounding, "rounds differently")],
)
def test_code_that_fails_or_rounds_otherwise_is_given_up_for_good(
    unit: Unit, change: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler, backend = Compiler(change), Compiled(after=-1.0)
    monkeypatch.setattr(torch, "compile", compiler)
    current, gradient = torch.randn(4, 2, 30), torch.randn(4, 2, 30)
    expected = Compiled().backward(unit, current, None, gradient)
    with pytest.warns(RuntimeWarning, match=reason):
        assert torch.equal(backend.backward(unit, current, None, gradient), expected)
    calls = compiler.calls
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(backend.backward(unit, current, None, gradient), expected)
    assert compiler.calls == calls
    assert reason in codes(backend)[0].reason


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return Compiled(after=-1.0)


@pytest.mark.slow
@pytest.mark.parametrize("charge", CHARGES)
@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_compiled_code_gives_the_bits_of_torch(compiled: Compiled, charge: Any, reset: Any) -> None:
    """More kinds than the eight that torch compiles of one function; one compilation for all sizes and numbers."""
    plain = Compiled(after=1e9)
    for k, (batch, features) in enumerate(((64, 500), (3, 7), (1, 1))):
        unit = Unit(Dynamics(charge[0], 0.6 + k / 10, 1.0 - k / 8, reset, -k / 4, charge[1]), strange, 4 + k)
        current, gradient = torch.randn(4 + k, batch, features) + 0.4, torch.randn(4 + k, batch, features)
        found = [compiled.backward(unit, current, None, gradient) for _ in range(2)]
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], plain.backward(unit, current, None, gradient))
        assert torch.equal(compiled.forward(unit, current, None), unit.eager(current))
        code = compiled._code(unit, current)
        assert code.compiled is not None, code.reason


@pytest.mark.slow
def test_a_sample_does_not_depend_on_its_place_in_the_batch(compiled: Compiled) -> None:
    unit = Unit(Dynamics("keep", 0.7, 1.0, "hard"), strange, 5)
    current, gradient = (
        torch.randn(5, 9, 7) + 0.4,
        torch.randn(5, 9, 7),
    )  # 63 neurons a step: not a multiple of a vector
    assert current[0].numel() % LANES
    together = compiled.backward(unit, current, None, gradient)
    for order in (torch.randperm(9), torch.tensor([8]), torch.tensor([8, 3])):
        part = compiled.backward(unit, current[:, order], None, gradient[:, order])
        assert torch.equal(part, together[:, order])
    assert compiled._code(unit, current).compiled is not None
