"""Directions of slices: against explicit matrices and gradients, at relative norm 1, at right angles where asked."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import neuron
from torch import Tensor, nn
from torch.nn import functional

from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.errors import InputError
from snnrobust.wrapping.wrap import wrap
from snnrobust_landscapes.loss.inputs import InputLandscape
from snnrobust_landscapes.loss.landscape import Landscape
from snnrobust_landscapes.loss.weights import WeightLandscape
from snnrobust_landscapes.measurements import directions
from snnrobust_landscapes.measurements.directions import (
    DIRECTION_NAMES,
    make_direction,
    orthogonal_direction,
    surrogate_gradient,
)
from snnrobust_landscapes.operators.names import operator_spec
from snnrobust_landscapes.solvers.lanczos import lanczos
from snnrobust_landscapes.validity.evidence import CurvatureWarning

RNG = Draws(0, "directions")
SPACES = ("weights", "inputs")


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, last = nn.Linear(5, 6), nn.Linear(6, 3)
        nn.init.normal_(first.weight)
    return nn.Sequential(first, neuron.LIFNode(step_mode="m", v_threshold=0.4), last).double()


@contextmanager
def landscape(space: str) -> Iterator[Landscape]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(7, 5, generator=generator, dtype=torch.float64)
    samples = Dataset(x.float(), torch.arange(7) % 3, torch.arange(7))
    model = wrap(net(), steps=4)
    with model.session():
        yield (WeightLandscape if space == "weights" else InputLandscape)(model, samples, chunk=3, logit_scale=5.0)


def dense(here: Landscape, name: str) -> Tensor:
    """The operator's matrices, [blocks, size, size], from products with unit vectors."""
    operator = operator_spec(name).on(here, 0.1, RNG)
    columns = torch.eye(here.size, dtype=torch.float64)
    if here.space == "weights":
        return operator.apply(columns).T.unsqueeze(0)
    return torch.stack([operator.apply(each.expand(here.blocks, -1)) for each in columns], dim=2)


def cosines(first: Tensor, second: Tensor) -> Tensor:
    return functional.cosine_similarity(first, second, dim=-1)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", DIRECTION_NAMES)
def test_directions_have_relative_norm_one_and_come_again(space: str, name: str) -> None:
    with landscape(space) as here:
        found = make_direction(name, here, RNG).along
        assert found.shape == here.scale().shape
        assert found.dtype == torch.float64
        assert torch.allclose(here.relative_norm(found), torch.ones(here.blocks, dtype=torch.float64), atol=1e-6)
        assert torch.equal(make_direction(name, here, RNG).along, found)
        if name == "random":
            assert torch.equal(found, here.direction(RNG))
            assert not torch.equal(make_direction(name, here, RNG.sub("other")).along, found)


@pytest.mark.parametrize("space", SPACES)
def test_the_adversarial_direction_is_the_steepest_of_relative_norm_one(space: str) -> None:
    with landscape(space) as here:
        found, gradient = make_direction("adversarial", here, RNG).along, surrogate_gradient(here)
        rival = here.direction(RNG) + 0.1 * found
        rival = rival / here.relative_norm(rival).reshape(-1, *[1] * (rival.ndim - 1))
        along = (gradient * found).sum(-1)
        assert (along > (gradient * rival).sum(-1)).all()
        plain = gradient / here.relative_norm(gradient).reshape(-1, *[1] * (gradient.ndim - 1))
        assert (along >= (gradient * plain).sum(-1) - 1e-12).all()
        assert torch.allclose(along, (here.scale() * gradient).norm(dim=-1))  # the dual norm


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("operator", ["gauss-newton", "formal"])
def test_eigenvectors_are_those_of_the_explicit_matrix(space: str, rank: int, operator: str) -> None:
    with landscape(space) as here:
        found = make_direction("eigenvector", here, RNG, operator, rank).along
        values, vectors = torch.linalg.eigh(dense(here, operator))
        at = values.abs().argsort(dim=1, descending=True)[:, rank - 1]  # [blocks]
        wanted = vectors[torch.arange(here.blocks), :, at].reshape(found.shape)
        assert (cosines(found, wanted).abs() > 1 - 1e-4).all()
        largest = found.gather(-1, found.abs().argmax(dim=-1, keepdim=True))
        assert (largest > 0).all()


@pytest.mark.parametrize("space", SPACES)
def test_the_second_direction_is_at_right_angles_and_in_the_same_plane(space: str) -> None:
    with landscape(space) as here:
        first, second = (make_direction(name, here, RNG).along for name in ("adversarial", "eigenvector"))
        assert (cosines(first, second).abs() > 0.05).any()  # control: they depend on each other
        turned = orthogonal_direction(second, first, here)
        assert (cosines(first, turned).abs() < 1e-9).all()
        assert torch.allclose(here.relative_norm(turned), torch.ones(here.blocks, dtype=torch.float64))
        for a, b, c in zip(*(each.reshape(-1, here.size) for each in (first, second, turned)), strict=True):
            assert torch.linalg.matrix_rank(torch.stack([a, b, c]), rtol=1e-9) == 2


def test_two_eigenvectors_stay_as_they_are() -> None:
    with landscape("weights") as here:
        first, second = (make_direction("eigenvector", here, RNG, rank=rank).along for rank in (1, 2))
        assert torch.allclose(orthogonal_direction(second, first, here), second, atol=1e-3)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), factor=st.floats(-10, 10).filter(lambda f: abs(f) > 1e-3))
def test_what_a_direction_has_of_the_first_makes_no_difference(seed: int, factor: float) -> None:
    with landscape("weights") as here:
        first, second = (here.direction(Draws(seed, name)) for name in ("first", "second"))
        assert torch.allclose(
            orthogonal_direction(second + factor * first, first, here), orthogonal_direction(second, first, here)
        )


def test_parallel_directions_are_refused_and_parallel_samples_rest() -> None:
    with landscape("weights") as here:
        first = make_direction("adversarial", here, RNG).along
        with pytest.raises(InputError, match="not parallel to the first"):
            orthogonal_direction(-2 * first, first, here)
    with landscape("inputs") as here:
        first, second = here.direction(RNG), here.direction(RNG.sub("second"))
        second[2] = 3 * first[2]
        turned = orthogonal_direction(second, first, here)
        assert not turned[2].any()
        assert here.relative_norm(turned).tolist() == pytest.approx([1, 1, 0, 1, 1, 1, 1])


@pytest.mark.parametrize(
    ("name", "operator", "rank", "found"),
    [
        ("gradient", "gauss-newton", 1, "a direction among random, adversarial, eigenvector, got 'gradient'"),
        ("eigenvector", "gauss-newtom", 1, "did you mean 'gauss-newton'"),
        ("eigenvector", "gauss-newton", 58, "between 1 and the parameters P = 57, got 58"),
        ("eigenvector", "gauss-newton", 0, "between 1 and the parameters P = 57, got 0"),
        ("eigenvector", "field", 1, "symmetric"),
    ],
)
def test_what_cannot_be_had(name: str, operator: str, rank: int, found: str) -> None:
    with landscape("weights") as here, pytest.raises(InputError, match=found):
        make_direction(name, here, RNG, operator, rank)


@pytest.mark.parametrize("space", SPACES)
def test_what_has_not_converged_is_warned_of_and_counted(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with landscape(space) as here, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make_direction("eigenvector", here, RNG).unconverged == 0  # control
        monkeypatch.setattr(directions, "lanczos", partial(lanczos, most=2, tolerance=1e-12))
        with pytest.warns(CurvatureWarning, match=f"got {here.blocks} of {here.blocks} that did not"):
            found = make_direction("eigenvector", here, RNG)
        assert found.unconverged == here.blocks


def test_weights_of_zero_have_no_direction() -> None:
    with landscape("weights") as here:
        for each in here.model.net.parameters():
            each.data.zero_()
        zero = WeightLandscape(here.model, here.samples)
        with pytest.raises(InputError, match="expected an adversarial direction that is not zero"):
            make_direction("adversarial", zero, RNG)
