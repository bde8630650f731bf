"""By what iterates and searches are compared: broken before not, then by margin; NaN is the weakest."""

from __future__ import annotations

import itertools

import torch

from snnrobust.search.active_batch import _rank

NAN, INF = torch.nan, torch.inf


def test_the_order_of_iterates() -> None:
    """From the strongest: broken by a wide margin, by a tie that the net loses; then not broken, tied, wide, NaN."""
    cases = [(False, -2.0), (False, -1.0), (False, 0.0), (True, 0.0), (True, 1.0), (True, 2.0), (True, NAN)]
    withstands = torch.tensor([each for each, _ in cases])
    rank = _rank(withstands, torch.tensor([size for _, size in cases]))
    assert all(first < second for first, second in itertools.pairwise(rank.tolist()))
    assert rank.tolist() == [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, INF]


def test_a_margin_never_contradicts_the_decision() -> None:
    """All-silent outputs are broken with margin 0; a margin above 0 of a broken sample counts as a lost tie."""
    assert _rank(torch.tensor([False]), torch.tensor([0.5])).item() == -1.0
    assert _rank(torch.tensor([True]), torch.tensor([-0.5])).item() == 0.0


def test_nan_does_not_hide_later_iterates() -> None:
    best = torch.tensor([INF])
    for size in (NAN, 0.5, NAN, 0.25):
        best = torch.minimum(best, _rank(torch.tensor([True]), torch.tensor([size])))
    assert best.item() == 0.25
