"""Moves of membrane potentials: closed forms, and the Gauss-Newton matrix that is matched to them."""

from __future__ import annotations

import math

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import nn

from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.errors import InputError
from snnrobust.spike_gradients.swap import SpikeGradient
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.wrap import wrap
from snnrobust_landscapes.loss.inputs import InputLandscape
from snnrobust_landscapes.loss.weights import WeightLandscape
from snnrobust_landscapes.operators.gauss_newton import GaussNewton
from snnrobust_landscapes.operators.membrane_noise import BlurredSpike, membrane_noise

RNG = Draws(0, "noise")


def model(alpha: float = 2.0, scale: float = 1.0) -> SpikingModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        linear = nn.Linear(60, 80), nn.Linear(80, 3)
    with torch.no_grad():
        for each in linear:
            each.weight.mul_(3 * scale)
            each.bias.zero_()
    nodes = [neuron.IFNode(scale, surrogate_function=surrogate.ATan(alpha), step_mode="m") for _ in linear]
    return wrap(nn.Sequential(linear[0], nodes[0], linear[1], nodes[1]).double(), steps=1)


def samples(count: int = 40) -> Dataset:
    generator = torch.Generator().manual_seed(1)
    return Dataset.of(torch.rand(count, 60, generator=generator), torch.randint(3, (count,), generator=generator))


def test_of_a_first_layer_in_closed_form() -> None:
    """Filter j moves by radius |w_j| in a random direction, and the potential by radius |w_j| |x| / sqrt(inputs)."""
    own, data = model(), samples()
    with own.session():
        found = membrane_noise(WeightLandscape(own, data), 0.05, RNG)
    rows = own.net[0].weight.detach().square().sum(dim=1).mean()
    inputs = data.x.double().square().sum(dim=1).mean()
    assert found.keys() == {"1", "3"}
    assert found["1"] == pytest.approx(0.05 * math.sqrt(float(rows * inputs) / 60), rel=0.05)


def test_in_inputs_and_at_another_radius() -> None:
    own, data = model(), samples()
    with own.session():
        small, large = (membrane_noise(InputLandscape(own, data), radius, RNG)["1"] for radius in (0.05, 0.1))
        again = membrane_noise(InputLandscape(own, data), 0.05, Draws(0, "another task"))["1"]
        other = membrane_noise(InputLandscape(own, data), 0.05, Draws(1, "noise"))["1"]
    assert large == pytest.approx(2 * small)
    assert again == small  # only the seed is used, so that all operators of a run agree
    assert other != small


def test_a_layer_has_the_noise_of_the_whole_net() -> None:
    own, data = model(), samples()
    with own.session():
        whole = membrane_noise(WeightLandscape(own, data), 0.1, RNG)
        layer = membrane_noise(WeightLandscape(own, data, chosen=lambda name: name.startswith("2")), 0.1, RNG)
    assert whole == layer


def test_a_net_without_nodes_keeps_its_own_derivatives() -> None:
    smooth = wrap(nn.Sequential(nn.Linear(60, 4), nn.Tanh(), nn.Linear(4, 3)).double(), layout="N")
    with smooth.session():
        landscape = WeightLandscape(smooth, samples())
        assert membrane_noise(landscape, 0.1, RNG) == {}
        vectors = torch.rand(1, landscape.size, dtype=torch.float64)
        matched, own = (GaussNewton(each).on(landscape, 1.0, RNG).apply(vectors) for each in ("matched", "own"))
    assert torch.equal(matched, own)


def test_the_blurred_spike_integrates_to_one_with_its_deviation() -> None:
    u = torch.linspace(-8, 8, 16001, dtype=torch.float64)
    density = BlurredSpike(0.7).backward(u, {})
    step = float(u[1] - u[0])
    assert float(density.sum()) * step == pytest.approx(1)
    assert math.sqrt(float((density * u * u).sum()) * step) == pytest.approx(0.7)


def test_the_matched_matrix_is_that_of_the_net_with_blurred_surrogates() -> None:
    own = model()
    with own.session():
        landscape = WeightLandscape(own, samples())
        noise = membrane_noise(landscape, 0.1, RNG)
        vectors = torch.rand(2, landscape.size, dtype=torch.float64)
        found = GaussNewton().on(landscape, 1.0, RNG).apply(vectors)
        with SpikeGradient(own.net, {name: BlurredSpike(width) for name, width in noise.items()}):
            expected = GaussNewton("own").on(landscape, 1.0, RNG).apply(vectors)
        plain = GaussNewton("own").on(landscape, 1.0, RNG).apply(vectors)
    assert torch.allclose(found, expected, rtol=1e-12)
    assert not torch.allclose(found, plain, rtol=0.1)


def test_it_does_not_depend_on_the_surrogate_nor_on_the_unit_of_the_membrane() -> None:
    """With weights and thresholds ten times as large, curvature times the weights squared is the same."""
    traces = {}
    for alpha, scale in ((1.0, 1.0), (8.0, 1.0), (1.0, 10.0)):
        each = model(alpha, scale)
        with each.session():
            landscape = WeightLandscape(each, samples())
            direction = landscape.direction(RNG)
            for kind in (GaussNewton(), GaussNewton("own")):
                operator = kind.on(landscape, 1.0, RNG)
                traces[kind.surrogate, alpha, scale] = float(direction @ operator.apply(direction[None])[0])
    assert traces["matched", 8.0, 1.0] == pytest.approx(traces["matched", 1.0, 1.0])
    assert traces["matched", 1.0, 10.0] == pytest.approx(traces["matched", 1.0, 1.0])
    assert traces["own", 8.0, 1.0] != pytest.approx(traces["own", 1.0, 1.0], rel=0.2)
    assert traces["own", 1.0, 10.0] != pytest.approx(traces["own", 1.0, 1.0], rel=0.2)


@pytest.mark.parametrize("settings", [{"surrogate": "mine"}, {"radius": 0.0}, {"radius": math.inf}])
def test_settings_out_of_range(settings: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        GaussNewton(**settings)  # type: ignore[arg-type]  # wrong on purpose


def temporal(padding: float) -> Dataset:
    """Sequences of six steps, of which the last three are padding."""
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(20, 6, 60, generator=generator)
    x[:, 3:] = padding
    return Dataset.of(x, torch.randint(3, (20,), generator=generator), lengths=torch.full((20,), 3))


def test_padding_of_sequences_is_not_watched() -> None:
    own = wrap(model().net, encoder=None, bounds=(0, 5))
    with own.session():
        for space in (WeightLandscape, InputLandscape):
            clean, padded = (space(own, temporal(padding)) for padding in (0.0, 5.0))
            assert membrane_noise(clean, 0.1, RNG) == pytest.approx(membrane_noise(padded, 0.1, RNG))
        assert torch.equal(clean.scale(), padded.scale())
        assert torch.equal(clean.direction(RNG), padded.direction(RNG))
        assert not padded.direction(RNG).reshape(20, 6, 60)[:, 3:].any()
        assert torch.allclose(padded.relative_norm(padded.direction(RNG)), torch.ones(20).double())


def test_it_does_not_depend_on_the_chunk_and_is_named_for_what_it_did() -> None:
    own, data = model(), samples(80)
    with own.session():
        small, large = (membrane_noise(InputLandscape(own, data, chunk=chunk), 0.1, RNG) for chunk in (7, 80))
        assert small == large
        assert GaussNewton().on(WeightLandscape(own, data), 1.0, RNG).name.endswith("spikes blurred by moves of 0.1")
    smooth = wrap(nn.Sequential(nn.Linear(60, 4), nn.Tanh(), nn.Linear(4, 3)).double(), layout="N")
    with smooth.session():
        assert GaussNewton().on(WeightLandscape(smooth, data), 1.0, RNG).name.endswith("own surrogates")
