"""Operators with faulty backward passes, and errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.errors import InputError, PluginError
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.wrap import wrap
from snnrobust_landscapes.loss.inputs import InputLandscape
from snnrobust_landscapes.loss.landscape import Landscape
from snnrobust_landscapes.loss.weights import WeightLandscape
from snnrobust_landscapes.operators.asymmetry import asymmetry
from snnrobust_landscapes.operators.field import Field
from snnrobust_landscapes.operators.gauss_newton import Fisher, GaussNewton
from snnrobust_landscapes.operators.hessian import Formal
from snnrobust_landscapes.operators.operator import OperatorSpec
from snnrobust_landscapes.operators.relaxed import Relaxed

RNG = Draws(0, "controls")
EXACT: list[OperatorSpec] = [GaussNewton("own"), Fisher(), Formal(), Relaxed(), Field(), Field("symmetric")]


class Fused(torch.autograd.Function):
    """A spike whose backward pass is a kernel that autograd can't differentiate: gradients without a grad_fn."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return (u >= 0).to(u)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return torch.from_numpy(grad.detach().numpy() / (1 + ctx.saved_tensors[0].detach().numpy() ** 2))


class Dropping(Fused):
    """Differentiable in the incoming gradient, not in u: the derivative comes from a kernel."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad / (1 + ctx.saved_tensors[0].detach() ** 2)


class Inconsistent(Fused):
    """Another derivative in the second pass than in the first."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (u,) = ctx.saved_tensors
        return _Product.apply(grad, u)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, u: Tensor) -> Tensor:
        ctx.save_for_backward(grad, u)
        return grad / (1 + u**2)

    @staticmethod
    def backward(ctx: Any, again: Tensor) -> tuple[Tensor, Tensor]:
        grad, u = ctx.saved_tensors
        return again * (u.abs() < 0.5), again * grad


class Once(Fused):
    """A backward pass marked `once_differentiable`."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad / (1 + ctx.saved_tensors[0] ** 2)


class Through(nn.Module):
    """A surrogate from a function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, u: Tensor) -> Tensor:
        out: Tensor = self.function.apply(u)
        return out


def model(own: nn.Module | None = None) -> SpikingModel:
    own = own or surrogate.ATan(2.0)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        net = nn.Sequential(
            nn.Linear(3, 6),
            neuron.LIFNode(surrogate_function=own, v_threshold=0.3, step_mode="m"),
            nn.Linear(6, 3),
        ).double()
    return wrap(net, steps=3)


def samples(n: int = 12) -> Dataset:
    generator = torch.Generator().manual_seed(1)
    return Dataset.of(2 * torch.rand(n, 3, generator=generator), torch.randint(3, (n,), generator=generator))


def applied(each: OperatorSpec, own: SpikingModel, n: int = 12) -> Tensor:
    with own.session():
        landscape = WeightLandscape(own, samples(n), chunk=5)
        return each.on(landscape, 1.0, RNG).apply(torch.ones(1, landscape.size, dtype=torch.float64))


def index(each: OperatorSpec, own: SpikingModel) -> float:
    with own.session():
        return asymmetry(each.on(WeightLandscape(own, samples(), chunk=5), 1.0, RNG), RNG)


@pytest.mark.parametrize("function", [Fused, Inconsistent])
def test_the_asymmetry_index_catches_a_faulty_backward(function: Any) -> None:
    assert index(Formal(), model(Through(function))) > 0.05
    assert index(Formal(), model()) < 1e-12  # control


def test_the_index_does_not_see_a_derivative_taken_for_constant() -> None:
    assert index(Formal(), model(Through(Dropping))) < 1e-12


@pytest.mark.parametrize("each", [GaussNewton("own"), Fisher()])
@pytest.mark.parametrize(("function", "caught"), [(Fused, True), (Inconsistent, True), (Dropping, False)])
def test_products_of_jacobians_need_the_incoming_gradient_alone(
    each: OperatorSpec, function: Any, caught: bool
) -> None:
    found = index(each, model(Through(function)))
    assert found > 0.05 if caught else found < 1e-12


def test_where_nothing_can_be_differentiated_again_it_is_an_error() -> None:
    for each in (GaussNewton("own"), Fisher(), Formal(), Field()):
        with pytest.raises(PluginError, match=f"differentiated again for the {each.name}.*'smoothed'"):
            applied(each, model(Through(Once)))
    for function in (Fused, Dropping):
        with pytest.raises(PluginError, match=r"a surrogate derivative without a grad_fn.*'smoothed'"):
            applied(Field(), model(Through(function)))
    own = model(Through(Fused))
    with own.session():  # no gradient reaches the input
        operator = GaussNewton("own").on(InputLandscape(own, samples()), 1.0, RNG)
        with pytest.raises(PluginError, match="gradients without a grad_fn"):
            operator.apply(torch.ones(12, 3, dtype=torch.float64))


@pytest.mark.parametrize("each", EXACT, ids=str)
def test_a_surrogate_of_no_known_family(each: OperatorSpec) -> None:
    """The field uses the derivative of the surrogate itself; the relaxation needs an integral."""
    if isinstance(each, Relaxed):
        with pytest.raises(InputError, match=r"known integral .*got Through.* at node '1'.*gauss-newton"):
            applied(each, model(Through(_Unknown)))
        return
    assert torch.allclose(applied(each, model(Through(_Unknown))), applied(each, model()), atol=1e-12)


def test_a_derivative_that_is_constant_between_jumps() -> None:
    field, formal = applied(Field(), model(surrogate.Rect())), applied(Formal(), model(surrogate.Rect()))
    assert field.isfinite().all()
    assert not torch.allclose(field, formal)
    with pytest.raises(InputError, match=r"a continuous derivative .* got Rect.* at node '1'.*'formal'"):
        applied(Relaxed(), model(surrogate.Rect()))


class _Unknown(Fused):
    """ATan(2) under another name."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        z = torch.pi * ctx.saved_tensors[0]
        return grad / (1 + z * z)


@pytest.mark.parametrize("each", [Relaxed(), Field()])
def test_spikes_of_no_known_framework(each: OperatorSpec) -> None:
    own = wrap(nn.Sequential(nn.Flatten(), nn.Linear(3, 3)), layout="N")
    with pytest.raises(InputError, match=r"spiking nodes of SpikingJelly .* got Sequential; use operator='gauss"):
        applied(each, own)


@pytest.mark.parametrize("each", EXACT, ids=str)
def test_a_loss_that_is_not_finite(each: OperatorSpec) -> None:
    own = model()
    next(own.net.parameters()).data[0, 0] = torch.nan
    own.net[2].bias.data[0] = torch.nan
    with pytest.raises(InputError, match="finite training loss of model 'model'"):
        applied(each, own)


def test_a_loss_without_a_gradient() -> None:
    own = wrap(_Hard(), layout="N")
    with pytest.raises(InputError, match=r"depends on the weights, got one without a gradient"):
        applied(GaussNewton("own"), own)
    own = wrap(nn.Sequential(_Cut(), *model().net).double(), steps=3)
    for each in EXACT:
        with own.session(), pytest.raises(InputError, match="depends on the inputs, got one without a gradient"):
            each.on(InputLandscape(own, samples()), 1.0, RNG).apply(torch.ones(12, 3, dtype=torch.float64))


class _Cut(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


class _Hard(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight >= 1).float()


@pytest.mark.parametrize("each", EXACT, ids=str)
def test_parameters_that_the_loss_does_not_depend_on_count_as_zero(each: OperatorSpec) -> None:
    own = model()
    own.net[0].register_parameter("idle", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    with own.session():
        landscape = WeightLandscape(own, samples(), chunk=5)
        at = torch.cat([torch.full((p.numel(),), "idle" in name) for name, p in own.net.named_parameters()])
        product = each.on(landscape, 1.0, RNG).apply(torch.ones(1, landscape.size, dtype=torch.float64))[0]
    assert at.sum() == 2
    assert not product[at].any()
    assert torch.allclose(product[~at], applied(each, model())[0], atol=1e-12)


class _Given:
    """An operator with this matrix."""

    name, symmetric, products = "given", False, 0

    def __init__(self, landscape: Landscape, matrix: Tensor) -> None:
        self.landscape, self.matrix = landscape, matrix

    def apply(self, vectors: Tensor) -> Tensor:
        return vectors @ self.matrix.mT

    def apply_transposed(self, vectors: Tensor) -> Tensor:
        raise AssertionError("not needed")


def test_the_index_of_matrices_that_are_known() -> None:
    landscape = WeightLandscape(model(), samples())
    m = torch.randn(landscape.size, landscape.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert asymmetry(_Given(landscape, m + m.T), RNG) < 1e-14
    assert asymmetry(_Given(landscape, m - m.T), RNG) == pytest.approx(2)
    assert asymmetry(_Given(landscape, 0 * m), RNG) == 0
    for share in (0.01, 1.0):
        part = m + m.T + share * (m - m.T)
        exact = float(torch.linalg.norm(part - part.T) / torch.linalg.norm(part))
        assert asymmetry(_Given(landscape, part), RNG) == pytest.approx(exact, rel=0.2)
    with pytest.raises(InputError, match="at least 2 probes, got 1"):
        asymmetry(_Given(landscape, m), RNG, probes=1)
