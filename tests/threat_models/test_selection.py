"""The choice of the largest entries against a full sort, with ties, infinite scores and every count."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from snnrobust.threat_models.selection import largest_mask, places_of


@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 2**31))
def test_the_largest_entries_are_the_first_of_a_stable_sort(rows: int, columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    score = torch.randint(-2, 3, (rows, columns), generator=generator).float()  # many ties
    score[torch.rand(rows, columns, generator=generator) < 0.2] = -torch.inf
    counts = torch.randint(-1, columns + 3, (rows,), generator=generator)
    order = score.argsort(dim=1, descending=True, stable=True)
    for row, count in enumerate(counts.tolist()):
        expected = torch.zeros(columns, dtype=torch.bool)
        expected[order[row, : max(0, count)]] = True
        assert torch.equal(largest_mask(score, counts)[row], expected)
        assert torch.equal(largest_mask(score, count)[row], expected)


def test_nan_is_never_chosen_and_no_count_is_exceeded() -> None:
    score = torch.tensor([[torch.nan, 1.0, 2.0], [torch.nan, torch.nan, 0.0], [3.0, 1.0, 2.0]])
    chosen = largest_mask(score, 2)
    assert not chosen[score.isnan()].any()
    assert (chosen.sum(dim=1) <= 2).all()
    assert chosen[2].tolist() == [True, False, True]


@given(st.integers(0, 4), st.integers(1, 9), st.integers(0, 2**31))
def test_places_are_those_of_each_row(rows: int, columns: int, seed: int) -> None:
    mask = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) < 0.3
    places, counted = places_of(mask)
    assert places.shape == counted.shape
    assert [row[kept].tolist() for row, kept in zip(places, counted, strict=True)] == [
        row.nonzero()[:, 0].tolist() for row in mask
    ]
