"""Operators against explicit float64 matrices of a net written by hand, with derivatives computed in other ways."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor, nn
from torch.nn import functional

from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.wrap import wrap
from snnrobust_landscapes.loss.inputs import InputLandscape
from snnrobust_landscapes.loss.landscape import Landscape
from snnrobust_landscapes.loss.weights import WeightLandscape
from snnrobust_landscapes.operators.asymmetry import asymmetry
from snnrobust_landscapes.operators.field import Field
from snnrobust_landscapes.operators.gauss_newton import Fisher, GaussNewton
from snnrobust_landscapes.operators.hessian import Formal
from snnrobust_landscapes.operators.operator import Operator
from snnrobust_landscapes.operators.relaxed import Relaxed, relaxation_gap

N, T, SCALE = 5, 3, 2.5
SIZES = [(4, 3), (4, 4), (3, 4)]  # two spiking layers and a linear read-out
INPUTS = SIZES[0][1]
P = sum(rows * columns + rows for rows, columns in SIZES)
RNG = Draws(0, "operators")
Fire = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """A net with SpikingJelly's nodes, and the same net in a dozen lines of tensor code.

    Attributes:
        hard: Reset to 0, rather than by subtraction.
        detach: Whether no gradient passes through the reset.
        own: The surrogate.
    """

    hard: bool = True
    detach: bool = False
    own: Any = field(default_factory=surrogate.ATan)

    def model(self) -> SpikingModel:
        def node() -> nn.Module:
            reset = 0.0 if self.hard else None
            settings = {"v_threshold": 0.5, "v_reset": reset, "detach_reset": self.detach, "step_mode": "m"}
            lif: nn.Module = neuron.LIFNode(tau=1.7, surrogate_function=self.own, **settings)
            return lif

        layers: list[nn.Module] = []
        for rows, columns in SIZES:
            layers += [nn.Linear(columns, rows), node()]
        net = nn.Sequential(*layers[:-1]).double()
        with torch.no_grad():
            generator = torch.Generator().manual_seed(3)
            for p in net.parameters():
                p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
        return wrap(net, steps=T)

    def logits(self, theta: Tensor, x: Tensor, fire: Fire) -> Tensor:
        """Scaled logits [n, 3] for weights theta [P] and inputs x [n, 3]."""
        pieces = iter(theta.split([size for rows, columns in SIZES for size in (rows * columns, rows)]))
        layers = [(next(pieces).reshape(rows, columns), next(pieces)) for rows, columns in SIZES]
        v = [torch.zeros(len(x), rows, dtype=theta.dtype) for rows, _ in SIZES[:-1]]
        total = torch.zeros(())
        for _ in range(T):
            here = x
            for number, (weight, bias) in enumerate(layers[:-1]):
                u = v[number] + (here @ weight.T + bias - v[number]) / 1.7
                here = fire(u - 0.5)
                seen = here.detach() if self.detach else here
                v[number] = u * (1 - seen) if self.hard else u - 0.5 * seen
            total = total + here @ layers[-1][0].T + layers[-1][1]
        return SCALE * total / T

    def smooth(self, u: Tensor) -> Tensor:
        """The primitive of the surrogate."""
        out: Tensor = self.own.primitive_function(u.clone(), self.own.alpha)
        return out

    def formal(self, u: Tensor) -> Tensor:
        """The primitive, shifted by a constant such that its value is the spike."""
        p = self.smooth(u)
        return p + ((u >= 0).to(u) - p).detach()


def samples() -> Dataset:
    generator = torch.Generator().manual_seed(1)
    x = 2 * torch.rand(N, INPUTS, generator=generator)
    return Dataset.of(x, torch.randint(3, (N,), generator=generator))


CASES = {
    "hard": Case(),
    "hard detached": Case(detach=True),
    "soft": Case(hard=False),
    "soft detached": Case(hard=False, detach=True),
    "sigmoid": Case(own=surrogate.Sigmoid(4.0)),
}


def theta(model: SpikingModel) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.net.parameters()])


def matrix(operator: Operator, transposed: bool = False) -> Tensor:
    """[P, P], or [N, D, D] in inputs."""
    landscape = operator.landscape
    multiply = operator.apply_transposed if transposed else operator.apply
    unit = torch.eye(landscape.size, dtype=torch.float64)
    if landscape.space == "weights":
        return multiply(unit).T
    return torch.stack([multiply(each.expand(landscape.blocks, -1)) for each in unit], dim=2)


def assert_equal(operator: Operator, expected: Tensor) -> None:
    found = matrix(operator)
    assert expected.abs().max() > 1e-3
    assert found.dtype == torch.float64
    tolerance = 1e-8 * min(1.0, float(expected.abs().max()))
    assert (found - expected).abs().max() <= tolerance
    if not operator.symmetric:
        assert (matrix(operator, transposed=True) - expected.mT).abs().max() <= tolerance


def logits(case: Case, space: str, rows: slice, fire: Fire) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Logits [n, 3] of samples as a function of the weights or of one sample's input, and the point itself."""
    x, weights = samples().x[rows].double(), theta(case.model())
    if space == "weights":
        return lambda at: case.logits(at, x, fire), weights
    return lambda at: case.logits(weights, at[None], fire), x[0]


def hessian(case: Case, space: str, fire: Fire) -> Tensor:
    """Torch's second derivatives of plain tensor code."""

    def one(rows: slice) -> Tensor:
        function, at = logits(case, space, rows, fire)
        loss = lambda z: functional.cross_entropy(function(z), samples().y[rows])  # noqa: E731  # shorter
        second: Tensor = torch.autograd.functional.hessian(loss, at)
        return second

    return one(slice(None)) if space == "weights" else torch.stack([one(slice(n, n + 1)) for n in range(N)])


def sandwich(case: Case, space: str, middle: Callable[[Tensor, int], Tensor]) -> Tensor:
    """A loop over samples of J^T middle(p, y) J."""
    blocks = []
    for n in range(N):
        function, at = logits(case, space, slice(n, n + 1), case.formal)
        jacobian = torch.autograd.functional.jacobian(lambda z, function=function: function(z)[0], at)  # [3, P]
        blocks.append(jacobian.T @ middle(function(at)[0].softmax(dim=0), int(samples().y[n])) @ jacobian)
    return torch.stack(blocks).mean(dim=0) if space == "weights" else torch.stack(blocks)


ONE_HOT = torch.eye(3, dtype=torch.float64)
REFERENCE: dict[str, Callable[[Case, str], Tensor]] = {
    # Without `detach_reset`: the Hessian of the smooth net's loss.
    "relaxed": lambda case, space: hessian(replace(case, detach=False), space, case.smooth),
    "formal": lambda case, space: hessian(case, space, case.formal),
    "gauss-newton": lambda case, space: sandwich(case, space, lambda p, y: p.diag() - torch.outer(p, p)),
    "fisher": lambda case, space: sandwich(case, space, lambda p, y: torch.outer(p - ONE_HOT[y], p - ONE_HOT[y])),
}
KINDS = {"gauss-newton": GaussNewton("own"), "fisher": Fisher(), "formal": Formal(), "relaxed": Relaxed()}


def on(space: str, model: SpikingModel, chunk: int = 3) -> Landscape:
    make = WeightLandscape if space == "weights" else InputLandscape
    return make(model, samples(), chunk=chunk, logit_scale=SCALE)


@pytest.mark.parametrize("space", ["weights", "inputs"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_explicit_matrix(kind: str, name: str, space: str) -> None:
    model = CASES[name].model()
    with model.session():
        operator = KINDS[kind].on(on(space, model), 1.0, RNG)
        assert operator.symmetric
        assert_equal(operator, REFERENCE[kind](CASES[name], space))
        assert asymmetry(operator, RNG) < 1e-12


def field_by_differences(landscape: Landscape, step: float = 1e-4) -> Tensor:
    """Central differences, fourth order, of the surrogate gradient; no spike flips."""
    columns = []
    shape = (P,) if landscape.space == "weights" else (N, landscape.size)
    for unit in torch.eye(landscape.size, dtype=torch.float64):
        at = lambda k, unit=unit: landscape.gradient((k * step * unit).expand(shape))  # noqa: E731  # shorter
        columns.append((8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * step))
    return torch.stack(columns, dim=-1)


@pytest.mark.parametrize("space", ["weights", "inputs"])
@pytest.mark.parametrize("name", ["hard", "hard detached", "soft"])
def test_the_field_equals_differences_of_the_surrogate_gradient(name: str, space: str) -> None:
    model = CASES[name].model()
    with model.session():
        landscape = on(space, model)
        expected = field_by_differences(on(space, model, chunk=N))
        whole = Field().on(landscape, 1.0, RNG)
        assert_equal(whole, expected)
        assert not whole.symmetric
        index = float(torch.linalg.norm(expected - expected.mT) / torch.linalg.norm(expected))
        # With the same input at each step, each neuron of the first layer depends on it through one number.
        assert index > 0.1 if space == "weights" else index < 1e-9
        assert asymmetry(whole, RNG, probes=64) == pytest.approx(index, rel=0.25, abs=1e-9)
        half = Field("symmetric").on(landscape, 1.0, RNG)
        assert_equal(half, (expected + expected.mT) / 2)
        assert half.symmetric
        assert asymmetry(half, RNG) < 1e-12


def test_the_field_of_an_input_over_time_is_not_symmetric() -> None:
    model = wrap(CASES["hard"].model().net, encoder=None)
    x = 2 * torch.rand(N, T, INPUTS, generator=torch.Generator().manual_seed(2))
    with model.session():
        landscape = InputLandscape(model, Dataset.of(x, samples().y), chunk=3)
        expected = field_by_differences(landscape)
        assert_equal(Field().on(landscape, 1.0, RNG), expected)
        assert torch.linalg.norm(expected - expected.mT) > 0.01 * torch.linalg.norm(expected)


@pytest.mark.parametrize("kind", [*KINDS.values(), Field()], ids=str)
def test_a_layer_is_a_diagonal_block_whatever_the_chunk_and_the_memory(kind: Any) -> None:
    model = CASES["soft"].model()
    with model.session():
        whole = matrix(kind.on(on("weights", model), 1.0, RNG))
        layer = WeightLandscape(model, samples(), chunk=5, logit_scale=SCALE, chosen=lambda name: name.startswith("2."))
        block = slice(16, 16 + 20)
        for memory in (1.0, 0.0):
            assert torch.allclose(matrix(kind.on(layer, memory, RNG)), whole[block, block], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_the_gap_is_that_of_the_net_written_by_hand(name: str) -> None:
    case = CASES[name]
    model = case.model()
    at, x, y = theta(model), samples().x.double(), samples().y
    smooth, real = (case.logits(at, x, fire) for fire in (case.smooth, case.formal))
    loss = functional.cross_entropy(smooth, y) - functional.cross_entropy(real, y)
    accuracy = (smooth.argmax(1) == y).double().mean() - (real.argmax(1) == y).double().mean()
    assert abs(float(loss)) > 1e-3
    for space in ("weights", "inputs"):
        with model.session():
            assert relaxation_gap(on(space, model)) == pytest.approx((float(loss), float(accuracy)), abs=1e-10)
