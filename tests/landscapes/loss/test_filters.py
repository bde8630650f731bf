"""Filters: random directions of their norms, the relative norm, and what rescaling them leaves alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from snnrobust.common.random import Draws
from snnrobust_landscapes.loss.filters import Filters

RNG = Draws(0, "filters")


def theta() -> dict[str, Tensor]:
    """A convolution, its batch norm and a linear layer, filters of quite different norms."""
    drawn = Draws(1, "theta")
    shapes = {"0.weight": (3, 2, 3, 3), "1.weight": (3,), "1.bias": (3,), "4.weight": (4, 5), "4.bias": (4,)}
    growing = {
        name: torch.arange(1, shape[0] + 1).reshape(-1, *[1] * (len(shape) - 1)) for name, shape in shapes.items()
    }
    return {name: growing[name] * drawn.sub(name).normal(torch.tensor([0]), shape)[0] for name, shape in shapes.items()}


def euclidean(filters: Filters, direction: dict[str, Tensor]) -> float:
    """|d / scale|, which the relative norm ought to be."""
    parts = [(direction[name].double() / scale).flatten() for name, scale in filters.scales().items()]
    return float(torch.cat(parts).norm())


def test_random_filters_have_the_norm_of_the_weights_filters_and_the_rest_rests() -> None:
    weights = theta()
    direction = Filters(weights).random(RNG)
    assert direction.keys() == weights.keys()
    for name, weight in weights.items():
        if weight.ndim < 2:
            assert not direction[name].any()
            continue
        assert direction[name].shape == weight.shape
        norms = weight.flatten(1).norm(dim=1)
        assert norms.std() > 0.1  # control: one scale for the whole layer would not do
        assert torch.allclose(direction[name].flatten(1).norm(dim=1), norms)


def test_random_directions_are_keyed_and_nearly_orthogonal() -> None:
    filters = Filters({"weight": torch.ones(50, 100)})
    first, again, other = (filters.random(rng)["weight"] for rng in (RNG, RNG, RNG.sub("other")))
    assert torch.equal(first, again)
    assert functional.cosine_similarity(first.flatten(), other.flatten(), dim=0).abs() < 5 / math.sqrt(5000)


def test_a_filter_of_zeros_rests_and_does_not_count() -> None:
    filters = Filters({"weight": torch.tensor([[0.0, 0.0], [3.0, 4.0]])})
    direction = filters.random(RNG)
    assert not direction["weight"][0].any()
    assert direction["weight"][1].norm() == pytest.approx(5.0)
    assert filters.scales()["weight"].tolist() == [[0.0, 0.0], [5.0, 5.0]]
    moved = {"weight": torch.tensor([[7.0, 0.0], [5.0, 0.0]])}
    assert filters.relative_norm(moved) == pytest.approx(1.0)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), factor=st.floats(0.01, 100))
def test_random_directions_have_relative_norm_one_and_it_is_a_norm(seed: int, factor: float) -> None:
    filters = Filters(theta())
    direction = filters.random(Draws(seed, "d"))
    assert float(filters.relative_norm(direction)) == pytest.approx(1.0, abs=1e-6)
    longer = {name: factor * d.double() for name, d in direction.items()}
    assert float(filters.relative_norm(longer)) == pytest.approx(factor, rel=1e-6)


def test_the_relative_norm_by_hand() -> None:
    weights = {"a.weight": torch.tensor([[3.0, 4.0], [0.0, 2.0]]), "a.bias": torch.tensor([0.0, 1.0])}
    move = {"a.weight": torch.tensor([[0.0, 10.0], [1.0, 0.0]]), "a.bias": torch.tensor([0.5, 0.0])}
    # filters of 5 and 2 move by 10 and 1, the bias of norm 1 by 1/2: sqrt((2^2 + (1/2)^2 + (1/2)^2) / 2)
    assert float(Filters(weights).relative_norm(move)) == pytest.approx(1.5)
    assert euclidean(Filters(weights), move) == pytest.approx(1.5)


def test_small_parameters_of_a_module_are_one_filter() -> None:
    scales = Filters(theta()).scales()
    weights = theta()
    together = torch.cat([weights["1.weight"], weights["1.bias"]]).double().norm()
    for name in ("1.weight", "1.bias"):
        assert torch.allclose(scales[name], math.sqrt(7) * together)  # 3 + 4 filters of two axes or more
    assert torch.allclose(scales["4.bias"], math.sqrt(7) * weights["4.bias"].double().norm())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_relative_norm_is_the_euclidean_norm_over_scales(seed: int) -> None:
    weights = theta()
    filters = Filters(weights)
    drawn = Draws(seed, "any")
    direction = {name: drawn.sub(name).normal(torch.tensor([0]), w.shape)[0] for name, w in weights.items()}
    assert float(filters.relative_norm(direction)) == pytest.approx(euclidean(filters, direction), rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(factors=st.lists(st.floats(0.01, 100), min_size=4, max_size=4))
def test_filters_and_directions_rescaled_together_have_the_same_relative_norm(factors: list[float]) -> None:
    weights, column = theta(), torch.tensor(factors, dtype=torch.float32)[:, None]
    direction = {name: torch.ones_like(w) for name, w in weights.items()}
    before = float(Filters(weights).relative_norm(direction))
    weights["4.weight"], direction["4.weight"] = column * weights["4.weight"], column * direction["4.weight"]
    after = Filters(weights)
    assert float(after.relative_norm(direction)) == pytest.approx(before, rel=1e-5)
    drawn = [filters.random(RNG)["4.weight"] for filters in (Filters(theta()), after)]
    assert torch.allclose(column * drawn[0], drawn[1], rtol=1e-4)
