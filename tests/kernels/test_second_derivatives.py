"""Second derivatives against a dense float64 reference: scalar loops that carry derivatives forward, written by hand.

The reference knows no tensors and no graph. Each number is a `Jet`: a value, its gradient and its Hessian, all with
respect to every input and weight at once; a spike has the value H(u), the first derivative sg(u) and the second sg'(u).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeAlias

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from snnrobust.kernels.derivative import FAMILIES, Derivative
from snnrobust.kernels.dynamics import Dynamics, multi_step
from snnrobust.kernels.spike import spike

Array: TypeAlias = NDArray[np.float64]
Loss: TypeAlias = Callable[[Tensor], Tensor]
STEPS, INPUTS, HIDDEN, OUTPUTS = 3, 2, 3, 2
TOLERANCE = 1e-8

HARD = Dynamics("divide", 2.3, threshold=0.5, reset="hard", reset_value=-0.1, decay_input=True)
DYNAMICS = {
    "lif decay hard": HARD,
    "lif hard detached": replace(HARD, decay_input=False, detach_reset=True),
    "lif soft": replace(HARD, reset="soft", reset_value=0.0, decay_input=False),
    "plif decay soft": replace(HARD, charge="multiply", rate=0.3, reset="soft", reset_value=0.0),
    "if soft detached": Dynamics("keep", 1.0, threshold=0.5, reset="soft", detach_reset=True),
    "no reset": Dynamics("keep", 0.7, threshold=0.5, reset="none"),
    "no memory": Dynamics("keep", 0.0, threshold=0.3, reset="hard"),
}


@dataclass(frozen=True)
class Jet:
    """A number with its gradient [P] and Hessian [P, P]."""

    value: float
    first: Array
    second: Array

    def __add__(self, other: Jet | float) -> Jet:
        other = self.like(other)
        return Jet(self.value + other.value, self.first + other.first, self.second + other.second)

    def __mul__(self, other: Jet | float) -> Jet:
        other = self.like(other)
        cross = np.outer(self.first, other.first)
        second = self.value * other.second + other.value * self.second + cross + cross.T
        return Jet(self.value * other.value, self.value * other.first + other.value * self.first, second)

    def __sub__(self, other: Jet | float) -> Jet:
        return self + self.like(other) * -1.0

    def like(self, number: Jet | float) -> Jet:
        if isinstance(number, Jet):
            return number
        return Jet(number, np.zeros_like(self.first), np.zeros_like(self.second))

    def fired(self, derivative: Derivative) -> Jet:
        """H(u), by the chain rule with sg for its derivative."""
        first, second = SLOPES[derivative.family](self.value, derivative.a, derivative.b)
        outer = np.outer(self.first, self.first)
        return Jet(float(self.value >= 0), first * self.first, first * self.second + second * outer)

    def frozen(self) -> Jet:
        return self.like(self.value)


def logistic(u: float, a: float, b: float) -> tuple[float, float]:
    s = 1 / (1 + math.exp(-a * u))
    return b * s * (1 - s), a * b * s * (1 - s) * (1 - 2 * s)


def sign(u: float) -> float:
    return math.copysign(1.0, u)


# A spike's derivative and its own derivative, at u.
SLOPES: dict[str, Callable[[float, float, float], tuple[float, float]]] = {
    "atan": lambda u, a, b: (b / (1 + (a * u) ** 2), -2 * a * a * b * u / (1 + (a * u) ** 2) ** 2),
    "sigmoid": logistic,
    "sigmoid-tails": logistic,
    "quadratic": lambda u, a, b: (a - b * abs(u), -b * sign(u)) if b * abs(u) < a else (0.0, 0.0),
    "triangle": lambda u, a, b: ((a - abs(u)) / b, -sign(u) / b) if abs(u) < a else (0.0, 0.0),
    "exponential": lambda u, a, b: (b * math.exp(-a * abs(u)), -a * b * sign(u) * math.exp(-a * abs(u))),
    "soft-sign": lambda u, a, b: (1 / (b * (a + abs(u)) ** 2), -2 * sign(u) / (b * (a + abs(u)) ** 3)),
    "fast-sigmoid": lambda u, a, b: (b / (1 + a * abs(u)) ** 2, -2 * a * b * sign(u) / (1 + a * abs(u)) ** 3),
    "gaussian": lambda u, a, b: (b * math.exp(-((a * u) ** 2)), -2 * a * a * b * u * math.exp(-((a * u) ** 2))),
    "rectangle": lambda u, a, b: (b if abs(u) < a else 0.0, 0.0),
    "leaky-rectangle": lambda u, a, b: (1 / (2 * a) if abs(u) < a else b, 0.0),
    "step": lambda u, a, b: (b if u >= 0 else a, 0.0),
    "reciprocal": lambda u, a, b: (b / (a + abs(u)), -b * sign(u) / (a + abs(u)) ** 2),
    "log-tailed": lambda u, a, b: (a, 0.0) if u <= 0 else ((b, 0.0) if u <= 1 else (b / u, -b / u**2)),
    "sigmoid-reciprocal": lambda u, a, b: logistic(u, a, a) if u < 0 else (b / (u + 1), -b / (u + 1) ** 2),
}


def layer(
    currents: list[list[Jet]], dynamics: Dynamics, derivative: Derivative, lateral: list[list[Jet]]
) -> list[list[Jet]]:
    """Spikes [T][F] of a layer, from the equations of the docstring of `Dynamics`; lateral is V [F][F] or empty."""
    zero = currents[0][0].like(0.0)
    r, rate, threshold = dynamics.reset_value, dynamics.rate, dynamics.threshold
    assert isinstance(rate, float)
    v = [zero + dynamics.start for _ in currents[0]]
    o = [zero for _ in currents[0]]
    spikes = []
    for x in currents:
        if dynamics.charge == "keep":
            u = [before * rate + each for before, each in zip(v, x, strict=True)]
        else:
            share = 1 / rate if dynamics.charge == "divide" else rate
            gain = share if dynamics.decay_input else 1.0
            u = [before - (before - r) * share + each * gain for before, each in zip(v, x, strict=True)]
        if lateral:
            u = [each + dot(row, o) for each, row in zip(u, lateral, strict=True)]
        o = [(each - threshold).fired(derivative) for each in u]
        seen = [each.frozen() for each in o] if dynamics.detach_reset else o
        if dynamics.reset == "hard":
            v = [fired * r + (fired * -1.0 + 1.0) * each for fired, each in zip(seen, u, strict=True)]
        elif dynamics.reset == "soft":
            v = [each - fired * threshold for fired, each in zip(seen, u, strict=True)]
        else:
            v = u
        spikes.append(o)
    return spikes


def dot(row: list[Jet], column: list[Jet]) -> Jet:
    out = row[0] * column[0]
    for a, b in zip(row[1:], column[1:], strict=True):
        out = out + a * b
    return out


class Net(nn.Module):
    """Two layers of spiking neurons, with V in the first or not: x [T, N, INPUTS] to rates [N, OUTPUTS]."""

    def __init__(self, dynamics: Dynamics, derivative: Derivative, recurrent: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        draw = lambda *shape: nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64))  # noqa: E731  # shorter
        self.first, self.second = draw(HIDDEN, INPUTS), draw(OUTPUTS, HIDDEN)
        self.lateral = draw(HIDDEN, HIDDEN) if recurrent else None
        self.dynamics, self.derivative = dynamics, derivative

    def forward(self, x: Tensor) -> Tensor:
        fire = lambda u: spike(u, self.derivative)  # noqa: E731  # shorter
        hidden = multi_step(replace(self.dynamics, lateral=self.lateral), x @ self.first.T, fire)
        rates: Tensor = multi_step(self.dynamics, hidden @ self.second.T, fire).mean(dim=0)
        return rates

    def loss(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        """A loss with curvature of its own, for one sample x [T, INPUTS]."""
        rates = functional_call(self, parameters, (x[:, None],))[0]
        return (rates * torch.arange(1, OUTPUTS + 1)).sum() + (rates**2).sum() * 0.7 + rates.prod()


def reference(net: Net, parameters: dict[str, Tensor], x: Tensor) -> Jet:
    """The loss of `Net.loss` as a jet over (x, *parameters), flattened."""
    numbers = torch.cat([x.flatten(), *(each.detach().flatten() for each in parameters.values())]).tolist()
    unit, none = np.eye(len(numbers)), np.zeros((len(numbers), len(numbers)))
    jets = iter([Jet(number, unit[i], none) for i, number in enumerate(numbers)])
    take = lambda shape: [[next(jets) for _ in range(shape[1])] for _ in range(shape[0])]  # noqa: E731  # shorter
    inputs = take(x.shape)
    weights = {name: take(each.shape) for name, each in parameters.items()}
    currents = [[dot(row, step) for row in weights["first"]] for step in inputs]
    hidden = layer(currents, net.dynamics, net.derivative, weights.get("lateral", []))
    currents = [[dot(row, step) for row in weights["second"]] for step in hidden]
    spikes = layer(currents, net.dynamics, net.derivative, [])
    rates = [sum((step[k] for step in spikes[1:]), start=spikes[0][k]) * (1 / STEPS) for k in range(OUTPUTS)]
    out, product = rates[0].like(0.0), rates[0].like(1.0)
    for k, rate in enumerate(rates):
        out, product = out + rate * (k + 1.0) + rate * rate * 0.7, product * rate
    return out + product


@dataclass(frozen=True)
class AttackContext:
    """The loss as a function of one vector z [P] = (x, *parameters), its point, and the reference there."""

    net: Net
    point: Tensor
    jet: Jet

    def loss(self, z: Tensor) -> Tensor:
        x, *weights = z.split([STEPS * INPUTS, *(each.numel() for each in self.net.parameters())])
        shapes = {name: each.shape for name, each in self.net.named_parameters()}
        named = {name: w.reshape(shapes[name]) for name, w in zip(shapes, weights, strict=True)}
        return self.net.loss(named, x.reshape(STEPS, INPUTS))

    @property
    def gradient(self) -> Tensor:
        return torch.from_numpy(self.jet.first)

    @property
    def hessian(self) -> Tensor:
        return torch.from_numpy(self.jet.second)


@cache
def problem(dynamics: str, family: str = "atan", recurrent: bool = False, seed: int = 0) -> AttackContext:
    net = Net(DYNAMICS[dynamics], Derivative(family, 1.3, 0.8), recurrent)  # type: ignore[arg-type]  # one of FAMILIES
    x = torch.randn(STEPS, INPUTS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    parameters = dict(net.named_parameters())
    z = torch.cat([x.flatten(), *(each.detach().flatten() for each in parameters.values())])
    return AttackContext(net, z, reference(net, parameters, x))


def assert_close(mine: Tensor, real: Tensor) -> None:
    assert mine.dtype == torch.float64
    assert (mine - real).abs().max() <= TOLERANCE * max(1.0, real.abs().max().item())


def by_double_backward(each: AttackContext) -> tuple[Tensor, Tensor]:
    """Gradient [P], and the Hessian [P, P] row by row."""
    z = each.point.clone().requires_grad_()
    (first,) = torch.autograd.grad(each.loss(z), z, create_graph=True)
    return first, torch.stack([torch.autograd.grad(entry, z, retain_graph=True)[0] for entry in first])


CASES = [(dynamics, "atan", recurrent) for dynamics in DYNAMICS for recurrent in (False, True)]
CASES += [("lif decay hard", family, True) for family in FAMILIES if family != "atan"]


@pytest.mark.parametrize(("dynamics", "family", "recurrent"), CASES)
def test_double_backward_gives_the_dense_hessian(dynamics: str, family: str, recurrent: bool) -> None:
    each = problem(dynamics, family, recurrent)
    assert each.loss(each.point).item() == pytest.approx(each.jet.value, abs=1e-12)
    first, second = by_double_backward(each)
    assert_close(first, each.gradient)
    assert_close(second, each.hessian)
    assert each.gradient.count_nonzero() > len(each.point) / 3  # spikes are passed
    assert each.hessian.abs().max() > 0.01


HESSIANS: dict[str, Callable[[Loss, Tensor], Tensor]] = {
    "forward over reverse": lambda f, z: hessian(f)(z),
    "reverse over reverse": lambda f, z: jacrev(jacrev(f))(z),
    "reverse over forward": lambda f, z: jacrev(jacfwd(f))(z),
    "forward over forward": lambda f, z: jacfwd(jacfwd(f))(z),
}
PRODUCTS: dict[str, Callable[[Loss, Tensor, Tensor], Tensor]] = {
    "jvp of grad": lambda f, z, along: jvp(grad(f), (z,), (along,))[1],
    "vjp of grad": lambda f, z, along: vjp(grad(f), z)[1](along)[0],
    "grad of grad": lambda f, z, along: grad(lambda at: grad(f)(at) @ along)(z),
    "vmap": lambda f, z, along: vmap(lambda each: jvp(grad(f), (z,), (each,))[1])(torch.stack([0 * along, along]))[1],
}


@pytest.mark.parametrize("dynamics", DYNAMICS)
@pytest.mark.parametrize("transform", HESSIANS)
def test_transforms_give_the_dense_hessian(transform: str, dynamics: str) -> None:
    each = problem(dynamics, recurrent=True)
    assert_close(HESSIANS[transform](each.loss, each.point), each.hessian)


@pytest.mark.parametrize("dynamics", DYNAMICS)
@pytest.mark.parametrize("transform", PRODUCTS)
def test_transforms_give_the_products_of_the_dense_hessian(transform: str, dynamics: str) -> None:
    each = problem(dynamics, recurrent=True)
    along = torch.randn(len(each.point), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    assert_close(PRODUCTS[transform](each.loss, each.point, along), each.hessian @ along)


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_first_derivatives_by_grad_jvp_and_vjp(dynamics: str) -> None:
    each = problem(dynamics)
    along = torch.randn(len(each.point), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    value, slope = jvp(each.loss, (each.point,), (along,))
    assert value.item() == pytest.approx(each.jet.value, abs=1e-12)
    assert_close(slope, each.gradient @ along)
    assert_close(grad(each.loss)(each.point), each.gradient)
    assert_close(vjp(each.loss, each.point)[1](torch.tensor(2.0, dtype=torch.float64))[0], 2 * each.gradient)


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_vmap_gives_per_sample_gradients(dynamics: str) -> None:
    several = [problem(dynamics, seed=seed) for seed in range(4)]
    net = several[0].net
    x = torch.stack([each.point[: STEPS * INPUTS].reshape(STEPS, INPUTS) for each in several])
    parameters = {name: each.detach() for name, each in net.named_parameters()}
    to_parameters, to_x = vmap(grad(net.loss, argnums=(0, 1)), in_dims=(None, 0))(parameters, x)
    mine = torch.cat([to_x.flatten(1), *(each.flatten(1) for each in to_parameters.values())], dim=1)
    assert_close(mine, torch.stack([each.gradient for each in several]))


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_vmap_over_weights(dynamics: str) -> None:
    each = problem(dynamics)
    net, x = each.net, each.point[: STEPS * INPUTS].reshape(STEPS, INPUTS)
    parameters = {name: torch.stack([p.detach(), -p.detach(), 0.5 * p.detach()]) for name, p in net.named_parameters()}
    losses = vmap(net.loss, in_dims=(0, None))(parameters, x)
    gradients = vmap(grad(net.loss), in_dims=(0, None))(parameters, x)
    for i in range(3):
        jet = reference(net, {name: p[i] for name, p in parameters.items()}, x)
        assert losses[i].item() == pytest.approx(jet.value, abs=1e-12)
        mine = torch.cat([p[i].flatten() for p in gradients.values()])
        assert_close(mine, torch.from_numpy(jet.first)[STEPS * INPUTS :])


def test_the_reference_sees_a_spike_whose_derivative_is_not_differentiated() -> None:
    # The control: a spike function that saves its derivative as a number has the same gradient and another Hessian.
    right = problem("lif decay hard")
    derivative = right.net.derivative
    right.net.derivative = lambda u: derivative(u).detach()
    try:
        first, second = by_double_backward(right)
    finally:
        right.net.derivative = derivative
    assert_close(first, right.gradient)
    assert (second - right.hessian).abs().max() > 0.05
