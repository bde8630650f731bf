"""What `check` finds before anything long starts: losses, gradients and operators that can't be measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor, nn

from snnrobust.data.evaluation_data import EvaluationData, prepare
from snnrobust.errors import InputError, PluginError
from snnrobust.plugin.task import load
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.wrap import wrap
from snnrobust_landscapes.measurements.connectivity import Connectivity
from snnrobust_landscapes.measurements.line import Line
from snnrobust_landscapes.measurements.plane import Plane
from snnrobust_landscapes.measurements.pyhessian import PyHessian
from snnrobust_landscapes.measurements.sharpness import Sharpness


def net(alpha: float = 2.0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        spikes = neuron.LIFNode(surrogate_function=surrogate.ATan(alpha), v_threshold=0.3, step_mode="m")
        return nn.Sequential(nn.Linear(5, 6), spikes, nn.Linear(6, 3))


def broken() -> nn.Module:
    own = net()
    own[2].weight.data[0, 0] = torch.nan
    return own


def smooth() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))


class Cut(nn.Sequential):
    """Nothing of its gradient gets through."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x)
        return out.detach() + 0 * next(self.parameters()).sum() + 0 * x.sum()


class Once(torch.autograd.Function):
    """A surrogate gradient that can't be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2


class Opaque(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = Once.apply(super().forward(x))
        return out


def cut() -> nn.Module:
    return Cut(*net())


def data(n: int = 12) -> EvaluationData:
    generator = torch.Generator().manual_seed(1)
    train = torch.rand(n, 5, generator=generator), torch.randint(3, (n,), generator=generator)
    return prepare({"test": train, "train": train}, 8)


def model(own: nn.Module) -> SpikingModel:
    return wrap(own, steps=3)


def check(plugin: Any, own: SpikingModel) -> None:
    """`check`, which measures nothing and leaves the net as it was."""
    before = {name: each.clone() for name, each in own.net.state_dict().items()}
    plugin.check(own, data(), load("clean"))
    assert not own.in_session
    assert all(torch.equal(each, before[name]) for name, each in own.net.state_dict().items())


@pytest.mark.parametrize(
    "plugin", [Plane(), Plane(space="inputs"), Line(), Line(space="inputs"), Sharpness(), Sharpness(space="inputs")]
)
def test_a_loss_that_is_not_finite(plugin: Any) -> None:
    with pytest.raises(InputError, match="finite training loss"):
        check(plugin, model(broken()))
    check(plugin, model(net()))  # control


def test_a_loss_that_is_not_finite_at_an_end(tmp_path: Path) -> None:
    path = tmp_path / "end.pt"
    torch.save(net().state_dict(), path)
    with pytest.raises(InputError, match="finite training loss"):
        check(Connectivity(str(path)), model(broken()))
    check(Connectivity(str(path)), model(net()))  # control
    far = net()
    far[2].weight.data.fill_(3e38)  # finite weights, whose sums are not
    torch.save(far.state_dict(), path)
    with pytest.raises(InputError, match="finite training loss"):
        check(Connectivity(str(path)), model(net()))


def test_pyhessian_on_what_it_cannot_measure() -> None:
    pytest.importorskip("pyhessian", reason="the extra 'pyhessian' is not installed")
    with pytest.raises(InputError, match="finite training loss"):
        check(PyHessian(), model(broken()))
    with pytest.raises(PluginError, match="differentiated again"):
        check(PyHessian(), model(Opaque(*net())))
    check(PyHessian(), model(net()))  # control


@pytest.mark.parametrize("space", ["weights", "inputs"])
def test_a_gradient_of_zeros(space: Any) -> None:
    plugins: list[Any] = [
        Line(direction="adversarial", space=space),
        Plane(second="adversarial", space=space),
        Sharpness(space=space),
    ]
    for plugin in plugins:
        with pytest.raises(InputError, match="not zero"):
            check(plugin, model(cut()))
        check(plugin, model(net()))  # control
    check(Plane(space=space), model(cut()))  # random directions ask for none


@pytest.mark.parametrize("space", ["weights", "inputs"])
@pytest.mark.parametrize(
    ("operator", "make", "error", "message"),
    [
        ("field", net, InputError, "expected a symmetric operator"),
        ("relaxed", smooth, InputError, "spiking nodes"),
        ("formal", lambda: Opaque(*net()), PluginError, "differentiated again"),
    ],
)
def test_an_operator_without_eigenvectors(
    space: Any, operator: Any, make: Callable[[], nn.Module], error: type[Exception], message: str
) -> None:
    plugins: list[Any] = [
        Line(direction="eigenvector", operator=operator, space=space),
        Plane(first="eigenvector", operator=operator, space=space),
        Plane(second="eigenvector", operator=operator, space=space),
    ]
    for plugin in plugins:
        with pytest.raises(error, match=message):
            check(plugin, model(make()))
    check(Plane(operator=operator, space=space), model(make()))  # random directions have no use for it
    symmetric = {"name": "field", "part": "symmetric"} if operator == "field" else operator
    check(Plane(first="eigenvector", operator=symmetric, space=space), model(net()))  # control


def test_more_eigenvectors_than_weights() -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x[:, :1] * self.weight, x[:, 1:3]], dim=1)

    own = wrap(One(), layout="N")
    with pytest.raises(InputError, match="between 1 and the parameters P = 1, got 2"):
        check(Plane(first="eigenvector", second="eigenvector"), own)
    check(Plane(first="eigenvector"), own)  # control


def test_the_smoothed_loss_is_tried_with_few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    own = model(net())
    call = SpikingModel.outputs
    monkeypatch.setattr(SpikingModel, "outputs", lambda self, x, **rest: asked.append(len(x)) or call(self, x, **rest))
    check(Line(direction="eigenvector", operator={"name": "smoothed", "draws": 10**6}), own)
    assert len(asked) < 20


def test_one_direction_twice_is_no_plane() -> None:
    with pytest.raises(InputError, match="span a plane"):
        Plane(first="adversarial", second="adversarial")
