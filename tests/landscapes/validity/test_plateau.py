"""The plateau around the weights: nets whose spikes are known to flip, and nets without one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor, nn

from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.errors import InputError
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.wrap import wrap
from snnrobust_landscapes.loss.weights import WeightLandscape
from snnrobust_landscapes.validity.plateau import (
    DOUBLINGS,
    HALVINGS,
    Plateau,
    distinct_losses,
    hidden_parameters,
    plateau,
)

RNG = Draws(0, "plateau")


def one_neuron(*inputs: float, weight: float = 1.0) -> tuple[SpikingModel, Dataset]:
    """One weight, a node that fires once from 1 on, and a linear read-out of two classes."""
    net = nn.Sequential(nn.Linear(1, 1, bias=False), neuron.IFNode(step_mode="m"), nn.Linear(1, 2)).double()
    with torch.no_grad():
        net[0].weight.fill_(weight)
        net[2].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        net[2].bias.copy_(torch.tensor([0.5, -0.2]))
    x = torch.tensor(inputs)[:, None]
    return wrap(net, steps=1), Dataset.of(x, torch.zeros(len(x), dtype=torch.long))


def measured(model: SpikingModel, data: Dataset, **settings: Any) -> Plateau | None:
    with model.session():
        return plateau(WeightLandscape(model, data), RNG, **settings)


def test_the_edges_are_where_the_spikes_flip() -> None:
    model, data = one_neuron(1.004, 0.998, 0.6)  # the first stops at 1 / 1.004, the second starts at 1 / 0.998
    found = measured(model, data)
    assert found is not None
    expected = (1 - 1 / 1.004) + (1 / 0.998 - 1)
    assert expected * (1 - 2.0**-HALVINGS) <= found.width <= expected + 1e-6  # inputs are float32
    assert found.distinct == 3  # none of two, both of two, and the one in between
    assert found.low <= expected + 1e-6  # every direction moves the one weight
    assert expected - 1e-6 <= found.high <= expected * (1 + 2.0 ** (1 - HALVINGS))
    assert (found.points, found.reach, found.directions) == (401, 0.01, 8)
    assert measured(model, data) == found


def test_a_plateau_wider_than_was_looked_at() -> None:
    found = measured(*one_neuron(1.5, 0.5), reach=0.1, points=11)
    assert found is not None
    assert (found.width, found.low, found.high) == (pytest.approx(0.2), pytest.approx(0.2), math.inf)
    assert found.distinct == 1


def test_a_plateau_narrower_than_can_be_told() -> None:
    found = measured(*one_neuron(1.0, 1 - 2.0**-24))  # on the threshold, and one rounding error below it
    assert found is not None
    assert (found.width, found.low, found.high) == (0.0, 0.0, 0.02 / 2**DOUBLINGS)
    assert found.distinct == 3


def test_one_edge_alone_is_a_lower_bound() -> None:
    model, data = one_neuron(1.004)
    found = measured(model, data, directions=3)
    assert found is not None
    assert found.width == pytest.approx(0.01 + 1 - 1 / 1.004, rel=2.0**-HALVINGS)
    assert found.high == math.inf  # on the other side no loss changed
    assert found.distinct == 2


@pytest.mark.parametrize(
    ("count", "censored", "low", "high"),
    [
        (8, 0, 1.0, 9.0),  # the smallest and the largest cover the median at 1 - 2 / 2^8
        (8, 1, 1.0, math.inf),
        (9, 0, 2.0, 9.0),  # from 9 on without the outermost ones: 1 - 2 * 10 / 2^9 = .961
        (9, 1, 2.0, 9.0),
        (9, 2, 2.0, math.inf),
        (1, 0, 1.0, 2.0),
    ],
)
def test_the_interval_of_the_median_over_directions(
    count: int, censored: int, low: float, high: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Direction k is flat up to k + 1 and has changed at k + 2; the last ones never change."""
    numbers = iter(range(count))

    def width(*_: object) -> tuple[float, float]:
        k = next(numbers)
        return k + 1.0, math.inf if k >= count - censored else k + 2.0

    monkeypatch.setattr("snnrobust_landscapes.validity.plateau._width", width)
    found = measured(*one_neuron(1.004), directions=count, points=2)
    assert found is not None
    assert (found.width, found.low, found.high) == ((count + 1) / 2, low, high)


def test_which_weights_are_hidden() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.early, self.skip, self.late = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)
            self.unused = nn.Parameter(torch.ones(2))
            self.node = neuron.LIFNode(step_mode="m")

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.late(self.node(self.early(x)) + self.skip(x))
            return out

    data = Dataset.of(torch.rand(4, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(4, dtype=torch.long))
    model = wrap(Net(), steps=2)
    with model.session():
        assert hidden_parameters(WeightLandscape(model, data)) == ["unused", "early.weight", "early.bias"]
        late = WeightLandscape(model, data, chosen=lambda name: name.startswith("late"))
        assert hidden_parameters(late) == []
        assert plateau(late, RNG) is None
        bias = WeightLandscape(model, data, chosen=lambda name: name == "early.bias")
        assert hidden_parameters(bias) == ["early.bias"]
        assert plateau(bias, RNG) is None  # filter-normalised directions do not move it
    spiking = tiny_model()  # its output is spikes
    with spiking.session():
        assert len(hidden_parameters(WeightLandscape(spiking, tiny_data()))) == 4


def test_read_out_weights_stay() -> None:
    model, data = one_neuron(1.5)
    with model.session():
        landscape = WeightLandscape(model, data)
        moved = landscape.direction(RNG)
        assert distinct_losses(landscape, moved, points=21) == 21  # with the read-out's
        found = plateau(landscape, RNG, points=21)
        assert found is not None
        assert found.distinct == 1


@pytest.mark.parametrize("smooth", ["softplus", "surrogate"])
def test_a_smooth_net_has_no_plateau(smooth: str) -> None:
    node = neuron.IFNode(step_mode="m", surrogate_function=surrogate.Sigmoid(spiking=False))
    act: nn.Module = nn.Softplus() if smooth == "softplus" else node
    net = nn.Sequential(nn.Linear(3, 4), act, nn.Linear(4, 2)).double()
    x = torch.rand(6, 3, generator=torch.Generator().manual_seed(0))
    data = Dataset.of(x, torch.arange(6) % 2)
    model = wrap(net, steps=1, reset=lambda: None)
    with model.session():
        landscape = WeightLandscape(model, data)
        assert hidden_parameters(landscape) == []
        assert plateau(landscape, RNG) is None
        assert distinct_losses(landscape, landscape.direction(RNG), points=101) == 101


def test_the_net_is_left_alone() -> None:
    model = tiny_model()
    model.net.train()
    own = [type(node.surrogate_function) for node in (model.net[2], model.net[4])]
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    assert measured(model, tiny_data(), directions=2, points=5) is not None
    assert model.net.training
    assert own == [type(node.surrogate_function) for node in (model.net[2], model.net[4])]
    assert all(torch.equal(before[name], value) for name, value in model.net.state_dict().items())


@pytest.mark.parametrize("settings", [{"directions": 0}, {"points": 1}, {"reach": 0.0}, {"reach": math.inf}])
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="at least 1 direction and 2 points"):
        measured(*one_neuron(1.0), **settings)
