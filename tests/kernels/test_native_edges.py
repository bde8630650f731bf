"""The native kernel at the edges: SpikingJelly's own gradients, currents that are not finite, layouts and types."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeAlias

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly._ops import if_, lif, plif
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor

from snnrobust.frameworks.spikingjelly import SpikingJelly
from snnrobust.kernels.derivative import FAMILIES, Derivative
from snnrobust.kernels.dynamics import Charge, Dynamics, Reset
from snnrobust.kernels.fast import run_unit
from snnrobust.kernels.native import Native
from snnrobust.kernels.unit import Unit

ADAPTER = SpikingJelly()
# In the order of SpikingJelly's numbers for them.
SURROGATES = (
    surrogate.Sigmoid,
    surrogate.ATan,
    surrogate.PiecewiseQuadratic,
    surrogate.PiecewiseExp,
    surrogate.SoftSign,
    surrogate.SuperSpike,
    surrogate.Erf,
    surrogate.Rect,
)
Rules: TypeAlias = tuple[float | None, bool]
TAU = 2.3
W = torch.tensor(-0.3)  # of the parametric leak, sigmoid(W)
# Charge and rate of our own, and SpikingJelly's: package of its CPU operator, and the arguments that say the charge.
CHARGES: dict[str, tuple[Charge, float | Tensor, bool, ModuleType, tuple[Any, ...]]] = {
    "lif decay": ("divide", TAU, True, lif, (TAU, True)),
    "lif": ("divide", TAU, False, lif, (TAU, False)),
    "if": ("keep", 1.0, False, if_, ()),
    "plif decay": ("multiply", torch.sigmoid(W), True, plif, (W, True)),
    "plif": ("multiply", torch.sigmoid(W), False, plif, (W, False)),
}


def both_gradients(
    native: Native, kind: str, derivative: Derivative, number: int, alpha: float, rules: Rules, x: Tensor, g: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients to currents x from those g to spikes, [T, N, F] each: of the kernel, and of SpikingJelly's operator.

    (Its nodes on the CPU take autograd through the equation instead, which sums in another order.)

    Args:
        native: The kernel.
        kind: Of `CHARGES`.
        derivative: Of a spike.
        number: SpikingJelly's for it.
        alpha: Its sharpness.
        rules: The value of the hard reset, None for a soft one; and whether it is detached.
        x: Currents.
        g: Gradients to the spikes.
    """
    v_reset, detach = rules
    charge, rate, decay, package, arguments = CHARGES[kind]
    reset: Reset = "soft" if v_reset is None else "hard"
    dynamics = Dynamics(charge, rate, 1.0, reset, v_reset or 0.0, decay, detach)
    unit = Unit(dynamics, derivative, len(x))
    x = x.detach().requires_grad_()
    mine = run_unit((native,), unit, x)

    operator = importlib.import_module(f"{package.__name__}.cpu")
    start = torch.full_like(x[0], v_reset or 0.0).detach()
    shared = (*arguments, 1.0, v_reset, detach, alpha, True, number)
    spikes, _, charged = operator._forward_impl(x.detach(), start, *shared)
    assert torch.equal(mine, spikes)
    if package is plif:
        before = (g, torch.zeros_like(g), x.detach(), start, arguments[0], charged)
        gradient = operator._backward_impl(*before, *shared[1:])[0]
    else:
        gradient = operator._backward_impl(g, torch.zeros_like(g), charged, *shared)[0]
    return torch.autograd.grad(mine, x, g)[0], gradient


@pytest.mark.parametrize("rules", list(itertools.product((None, 0.0, -0.2), (False, True))), ids=repr)
@pytest.mark.parametrize("kind", CHARGES)
@pytest.mark.parametrize("number", range(7))
def test_gradients_are_bit_by_bit_those_of_the_operators_of_spikingjelly(
    number: int, kind: str, rules: Rules, native: Native
) -> None:
    function = SURROGATES[number]()
    node = neuron.LIFNode(surrogate_function=function)
    derivative = ADAPTER.derivative(node)
    assert derivative is not None
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 3, 333, generator=generator) * 1.5 + 0.3
    g = torch.randn(x.shape, generator=generator)
    mine, real = both_gradients(native, kind, derivative, number, function.alpha, rules, x, g)
    if derivative.family in ("sigmoid", "exponential", "gaussian"):  # an exponential's last bit depends on its library
        assert (mine - real).abs().max() <= 1e-6 * real.abs().max()
    else:
        assert torch.equal(mine, real)


@pytest.mark.parametrize("v_reset", [None, 0.0, -0.2])
@pytest.mark.parametrize("kind", CHARGES)
@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(
        st.sampled_from([torch.nan, torch.inf, -torch.inf, 3e38, -3e38, 1e-42, -0.0, 0.6, 1.5]), min_size=4, max_size=36
    )
)
def test_currents_that_are_no_numbers_act_as_in_spikingjelly(
    kind: str, v_reset: float | None, values: list[float], native: Native
) -> None:
    x = torch.tensor(values[: len(values) // 4 * 4]).reshape(4, 1, -1)
    mine, real = both_gradients(native, kind, Derivative.atan(2.0), 1, 2.0, (v_reset, False), x, torch.ones_like(x))
    assert torch.equal(mine.isnan(), real.isnan())
    assert torch.equal(mine.nan_to_num(), real.nan_to_num())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("kind", CHARGES)
def test_a_potential_that_is_no_number_does_not_fire_again(kind: str, value: float, native: Native) -> None:
    charge, rate, decay, _, _ = CHARGES[kind]
    unit = Unit(Dynamics(charge, rate, 1.0, "hard", decay_input=decay), Derivative.atan(2.0), 3)
    x = torch.tensor([value, 9.0, 9.0]).reshape(3, 1, 1)
    assert native.forward(unit, x, None).flatten().tolist() == [1.0 if value == torch.inf else 0.0, 0.0, 0.0]
    assert native.forward(unit, x.nan_to_num(0, 0, 0), None).flatten().tolist() == [0.0, 1.0, 1.0]  # the control


@pytest.mark.parametrize("family", FAMILIES)
def test_a_derivative_is_that_of_torch_everywhere(family: Any, native: Native) -> None:
    # One step without memory: the gradient is the derivative at current minus threshold.
    special = torch.tensor([0.0, -0.0, 1e-40, 3e38, -3e38, torch.inf, -torch.inf, torch.nan])
    u = torch.cat([special, torch.linspace(-60, 60, 4001)]).reshape(1, 1, -1).requires_grad_()
    derivative = Derivative(family, 2.0, 0.75)
    unit = Unit(Dynamics("keep", 0.0, threshold=0.0, reset="none"), derivative, 1)
    (mine,) = torch.autograd.grad(run_unit((native,), unit, u).sum(), u)
    real = derivative(u.detach())
    # In the tails of "sigmoid", 1 - s is a difference of rounded numbers.
    least = 1e-7 if family == "sigmoid" else 1e-37
    assert torch.allclose(mine, real, rtol=1e-6, atol=least, equal_nan=True)


@pytest.fixture
def unit() -> Unit:
    return Unit(Dynamics("divide", 2.3, threshold=1.0, reset="soft", decay_input=True), Derivative.atan(2.0), 3)


class Calls:
    """A backend that counts its calls."""

    name = "counting"

    def __init__(self, native: Native) -> None:
        self.native, self.supports = native, native.supports
        self.forwards = self.backwards = 0

    def forward(self, *arguments: Any) -> Tensor:
        self.forwards += 1
        return self.native.forward(*arguments)

    def backward(self, *arguments: Any) -> Tensor:
        self.backwards += 1
        return self.native.backward(*arguments)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types_take_the_eager_path(dtype: torch.dtype, unit: Unit, native: Native) -> None:
    calls = Calls(native)
    x = torch.randn(3, 2, 9, dtype=dtype).requires_grad_()
    out = run_unit((calls,), unit, x)
    assert out.dtype == dtype
    assert torch.equal(out, unit.eager(x))
    assert torch.autograd.grad(out.sum(), x)[0].dtype == dtype
    assert (calls.forwards, calls.backwards) == (0, 0)


def test_a_derivative_of_no_known_family_and_a_lateral_input_take_the_eager_path(unit: Unit, native: Native) -> None:
    calls = Calls(native)
    x = torch.randn(3, 2, 9).requires_grad_()
    unknown = Unit(unit.dynamics, torch.ones_like, 3)
    lateral = Dynamics("keep", 0.5, threshold=1.0, reset="soft", lateral=torch.randn(9, 9))
    for each in (unknown, Unit(lateral, unit.derivative, 3)):
        out = run_unit((calls,), each, x)
        assert torch.equal(out, each.eager(x))
        assert torch.autograd.grad(out.sum(), x)[0].shape == x.shape
    assert (calls.forwards, calls.backwards) == (0, 0)
    torch.autograd.grad(run_unit((calls,), unit, x).sum(), x)
    assert (calls.forwards, calls.backwards) == (1, 1)  # control: this unit is supported


def test_an_empty_batch_gives_an_empty_output_and_gradient(unit: Unit, native: Native) -> None:
    x = torch.zeros(3, 0, 9).requires_grad_()
    out = run_unit((native,), unit, x)
    assert out.shape == (3, 0, 9)
    assert torch.autograd.grad(out.sum(), x)[0].shape == (3, 0, 9)


def test_a_single_step_of_a_single_neuron(unit: Unit, native: Native) -> None:
    one = Unit(unit.dynamics, unit.derivative, 1)
    x = torch.tensor([[[2.3]], [[2.2]]]).reshape(1, 2, 1).requires_grad_()
    out = run_unit((native,), one, x)
    assert out.flatten().tolist() == [1.0, 0.0]  # 2.3 / 2.3 lands on the threshold


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "every other": lambda x: x.repeat_interleave(2, dim=-1)[..., ::2],
    "flipped": lambda x: x.flip(0).contiguous().flip(0),
    "time last": lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
    "expanded": lambda x: x[:1].expand_as(x),
    "offset": lambda x: torch.cat([torch.zeros(1), x.flatten()])[1:].reshape(x.shape),
}


@pytest.mark.parametrize("of_gradient", LAYOUTS)
@pytest.mark.parametrize("of_current", LAYOUTS)
def test_memory_layouts_do_not_matter(of_current: str, of_gradient: str, unit: Unit, native: Native) -> None:
    generator = torch.Generator().manual_seed(0)
    x = LAYOUTS[of_current](torch.randn(3, 5, 37, generator=generator) * 2).requires_grad_()
    weights = LAYOUTS[of_gradient](torch.randn(3, 5, 37, generator=generator))
    plain = x.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
    out, expected = run_unit((native,), unit, x), unit.eager(plain)
    assert torch.equal(out, expected)
    (gradient,) = torch.autograd.grad(out, x, weights)
    assert torch.equal(gradient, native.backward(unit, plain.detach(), None, weights.contiguous()))
    assert torch.allclose(gradient, torch.autograd.grad(expected, plain, weights)[0], rtol=1e-5, atol=1e-6)


def test_an_expanded_gradient_and_current_as_autograd_makes_them(unit: Unit, native: Native) -> None:
    image = torch.randn(1, 4, 11, generator=torch.Generator().manual_seed(0)) * 3
    gradients = []
    for function in (lambda x: run_unit((native,), unit, x), unit.eager):
        at = image.clone().requires_grad_()
        gradients.append(torch.autograd.grad(function(at.expand(3, -1, -1)).sum(), at)[0])
    assert gradients[1].count_nonzero() == 44
    assert torch.allclose(*gradients, rtol=1e-5)


def test_the_current_is_all_that_is_kept_and_is_not_written_to(unit: Unit, native: Native) -> None:
    x = torch.randn(3, 2, 9).requires_grad_()
    before, kept = x.detach().clone(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        out = run_unit((native,), unit, x)
    torch.autograd.grad(out.sum(), x)
    assert kept == [x.data_ptr()]
    assert torch.equal(x, before)
