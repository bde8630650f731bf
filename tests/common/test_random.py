"""Keyed randomness: a sample's numbers depend on (seed, label, sample, draw) and on nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from snnrobust.common.random import Draws, global_rng, key

KINDS: list[Callable[..., Tensor]] = [Draws.uniform, Draws.normal]
CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", KINDS)
@given(ids=st.lists(st.integers(0, 2**40), min_size=1, max_size=12, unique=True), data=st.data())
@settings(max_examples=30, deadline=None)
def test_a_samples_numbers_do_not_depend_on_its_batch(
    kind: Callable[..., Tensor], ids: list[int], data: st.DataObject
) -> None:
    rng = Draws(3, "a")
    together = kind(rng, torch.tensor(ids), (2, 3), 5)
    shuffled = data.draw(st.permutations(list(range(len(ids)))))
    split = data.draw(st.integers(0, len(ids)))
    reordered = kind(rng, torch.tensor(ids)[shuffled], (2, 3), 5)
    halves = [kind(rng, torch.tensor(part, dtype=torch.long), (2, 3), 5) for part in (ids[:split], ids[split:])]
    assert torch.equal(reordered, together[shuffled])
    assert torch.equal(torch.cat(halves), together)
    assert torch.equal(kind(rng, torch.tensor(ids[-1:]), (2, 3), 5)[0], together[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_seed_label_sample_and_draw_each_change_every_number(kind: Callable[..., Tensor]) -> None:
    base = kind(Draws(0, "a"), torch.tensor([7]), (50,), 0)
    others = [
        kind(Draws(1, "a"), torch.tensor([7]), (50,), 0),
        kind(Draws(0, "b"), torch.tensor([7]), (50,), 0),
        kind(Draws(0, "a").sub("x"), torch.tensor([7]), (50,), 0),
        kind(Draws(0, "a"), torch.tensor([8]), (50,), 0),
        kind(Draws(0, "a"), torch.tensor([7]), (50,), 1),
    ]
    for i, one in enumerate([base, *others]):
        for other in others[i:]:
            assert bool((one != other).all())


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_per_sample_equals_that_draw_for_all(kind: Callable[..., Tensor]) -> None:
    rng, ids = Draws(0, "a"), torch.tensor([4, 5, 6])
    mixed = kind(rng, ids, (4,), torch.tensor([2, 0, 9]))
    for row, draw in enumerate([2, 0, 9]):
        assert torch.equal(mixed[row], kind(rng, ids, (4,), draw)[row])


def test_neighbouring_keys_are_not_the_same_stream() -> None:
    """(1, 12) and (11, 2) would be equal if the parts were joined without a separator."""
    assert key(0, 1, 12) != key(0, 11, 2)
    assert key(1, 2) != key(12)
    numbers = {key(0, "a", sample, draw) for sample in range(60) for draw in range(60)}
    assert len(numbers) == 3600
    assert 0 <= Draws(0, "a").number("b") < 2**62


def test_uniform_and_normal_have_their_distributions() -> None:
    rng, ids = Draws(11, "distribution"), torch.arange(400)
    uniform = rng.uniform(ids, (25,), 0, -2.0, 3.0)
    assert float(uniform.min()) >= -2
    assert float(uniform.max()) <= 3
    assert stats.kstest(uniform.flatten().numpy(), stats.uniform(-2, 5).cdf).pvalue > 1e-3
    normal = rng.normal(ids, (25,))
    assert stats.kstest(normal.flatten().numpy(), "norm").pvalue > 1e-3
    # Across samples, at one position: what one generator shared by all samples would give as well.
    first = rng.uniform(torch.arange(5000), (1,)).flatten()
    assert stats.kstest(first.numpy(), "uniform").pvalue > 1e-3
    assert abs(float(np.corrcoef(first[:-1], first[1:])[0, 1])) < 0.06


def test_numbers_come_in_the_dtype_that_was_asked_for() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    double = Draws(0, "a").on(like).normal(torch.arange(3), (2,))
    assert double.dtype == torch.float64
    assert torch.equal(double.float(), Draws(0, "a").normal(torch.arange(3), (2,)))
    assert Draws(0, "a").uniform(torch.arange(0), (2,)).shape == (0, 2)


def _draw_all() -> tuple[float, float, float]:
    return float(torch.rand(())), float(np.random.rand()), random.random()


@pytest.mark.parametrize("fails", [False, True])
def test_global_rng_restores_all_three_generators(fails: bool) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    expected = _draw_all()
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    inside: tuple[float, ...] = ()
    try:
        with global_rng(99, CPU):
            inside = _draw_all()
            if fails:
                raise RuntimeError("inside")
    except RuntimeError:
        assert fails
    assert _draw_all() == expected
    with global_rng(99, CPU):
        again = _draw_all()
    with global_rng(98, CPU):
        other = _draw_all()
    assert inside == again
    assert all(a != b for a, b in zip(again, other, strict=True))


def test_global_rng_nests() -> None:
    with global_rng(1, CPU):
        first = _draw_all()
        second = _draw_all()
    with global_rng(1, CPU):
        assert _draw_all() == first
        with global_rng(2**61 + 5, CPU):
            _draw_all()
        assert _draw_all() == second
