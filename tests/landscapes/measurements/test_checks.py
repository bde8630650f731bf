"""What `check` finds before anything long starts: losses, gradients and operators that can't be measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.errors import InputError, PluginError
from snnrobust.plugin.task import load
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.wrap import wrap
from snnrobust_landscapes.measurements.connectivity import Connectivity
from snnrobust_landscapes.measurements.line import Line
from snnrobust_landscapes.measurements.plane import Plane
from snnrobust_landscapes.measurements.pyhessian import PyHessian
from snnrobust_landscapes.measurements.sharpness import Sharpness


def broken(own: nn.Sequential) -> nn.Sequential:
    own[2].weight.data[0, 0] = torch.nan
    return own


class Cut(nn.Sequential):
    """Nothing of its gradient gets through."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x)
        return out.detach() + 0 * next(self.parameters()).sum() + 0 * x.sum()


Net = Callable[..., nn.Sequential]
Make = Callable[[str], nn.Module]
Check = Callable[[Any, SpikingModel], None]


def model(own: nn.Module) -> SpikingModel:
    return wrap(own, steps=3)


@pytest.fixture
def check(random_data: Callable[..., EvaluationData]) -> Check:
    """Calls `check`, which measures nothing and leaves the net as it was."""

    def call(plugin: Any, own: SpikingModel) -> None:
        before = {name: each.clone() for name, each in own.net.state_dict().items()}
        plugin.check(own, random_data(12, (5,), 3, batch_size=8), load("clean"))
        assert not own.in_session
        assert all(torch.equal(each, before[name]) for name, each in own.net.state_dict().items())

    return call


@pytest.fixture
def make(lif_net: Net, unmeasurable: Callable[..., nn.Module]) -> Make:
    """Makes a net of a kind: "spiking", "smooth", or "once differentiable", which can't be differentiated twice."""
    kinds: dict[str, Callable[[], nn.Module]] = {
        "spiking": lif_net,
        "smooth": lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)),
        "once differentiable": lambda: unmeasurable("once differentiable", lif_net()),
    }
    return lambda kind: kinds[kind]()


@pytest.mark.parametrize(
    "plugin", [Plane(), Plane(space="inputs"), Line(), Line(space="inputs"), Sharpness(), Sharpness(space="inputs")]
)
def test_a_loss_that_is_not_finite(check: Check, lif_net: Net, plugin: Any) -> None:
    with pytest.raises(InputError, match="finite training loss"):
        check(plugin, model(broken(lif_net())))
    check(plugin, model(lif_net()))  # control


def test_a_loss_that_is_not_finite_at_an_end(check: Check, lif_net: Net, tmp_path: Path) -> None:
    path = tmp_path / "end.pt"
    torch.save(lif_net().state_dict(), path)
    with pytest.raises(InputError, match="finite training loss"):
        check(Connectivity(str(path)), model(broken(lif_net())))
    check(Connectivity(str(path)), model(lif_net()))  # control
    far = lif_net()
    far[2].weight.data.fill_(3e38)  # finite weights, whose sums are not
    torch.save(far.state_dict(), path)
    with pytest.raises(InputError, match="finite training loss"):
        check(Connectivity(str(path)), model(lif_net()))


def test_pyhessian_on_what_it_cannot_measure(check: Check, lif_net: Net, make: Make) -> None:
    pytest.importorskip("pyhessian", reason="the extra 'pyhessian' is not installed")
    with pytest.raises(InputError, match="finite training loss"):
        check(PyHessian(), model(broken(lif_net())))
    with pytest.raises(PluginError, match="differentiated again"):
        check(PyHessian(), model(make("once differentiable")))
    check(PyHessian(), model(lif_net()))  # control


@pytest.mark.parametrize("space", ["weights", "inputs"])
def test_a_gradient_of_zeros(check: Check, lif_net: Net, space: Any) -> None:
    plugins: list[Any] = [
        Line(direction="adversarial", space=space),
        Plane(second="adversarial", space=space),
        Sharpness(space=space),
    ]
    for plugin in plugins:
        with pytest.raises(InputError, match="not zero"):
            check(plugin, model(Cut(*lif_net())))
        check(plugin, model(lif_net()))  # control
    check(Plane(space=space), model(Cut(*lif_net())))  # random directions ask for none


@pytest.mark.parametrize("space", ["weights", "inputs"])
@pytest.mark.parametrize(
    ("operator", "kind", "error", "message"),
    [
        ("field", "spiking", InputError, "expected a symmetric operator"),
        ("relaxed", "smooth", InputError, "spiking nodes"),
        ("formal", "once differentiable", PluginError, "differentiated again"),
    ],
)
def test_an_operator_without_eigenvectors(
    check: Check, lif_net: Net, make: Make, space: Any, operator: Any, kind: str, error: type[Exception], message: str
) -> None:
    plugins: list[Any] = [
        Line(direction="eigenvector", operator=operator, space=space),
        Plane(first="eigenvector", operator=operator, space=space),
        Plane(second="eigenvector", operator=operator, space=space),
    ]
    for plugin in plugins:
        with pytest.raises(error, match=message):
            check(plugin, model(make(kind)))
    check(Plane(operator=operator, space=space), model(make(kind)))  # random directions have no use for it
    symmetric = {"name": "field", "part": "symmetric"} if operator == "field" else operator
    check(Plane(first="eigenvector", operator=symmetric, space=space), model(lif_net()))  # control


def test_more_eigenvectors_than_weights(check: Check) -> None:
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


def test_the_smoothed_loss_is_tried_with_few_draws(check: Check, lif_net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    own = model(lif_net())
    call = SpikingModel.outputs
    monkeypatch.setattr(SpikingModel, "outputs", lambda self, x, **rest: asked.append(len(x)) or call(self, x, **rest))
    check(Line(direction="eigenvector", operator={"name": "smoothed", "draws": 10**6}), own)
    assert len(asked) < 20


def test_one_direction_twice_is_no_plane() -> None:
    with pytest.raises(InputError, match="span a plane"):
        Plane(first="adversarial", second="adversarial")
