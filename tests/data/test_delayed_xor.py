"""Delayed XOR: its rates, its label, and that it can't be told from one pulse."""

from __future__ import annotations

import pytest
import torch

from snnrobust.data import load
from snnrobust.errors import InputError


def rates(x: torch.Tensor) -> torch.Tensor:
    """The share of spikes in the two pulses, [N, 2]."""
    return torch.stack([x[:, :10].mean(dim=(1, 2)), x[:, -10:].mean(dim=(1, 2))], dim=1)


def test_the_label_is_whether_the_rates_of_the_pulses_differ() -> None:
    data = load("delayed-xor")
    assert [len(each) for each in (data.train, data.validation, data.test)] == [1500, 500, 1000]
    assert [each.y.bincount().tolist() for each in (data.train, data.validation, data.test)] == [
        [750] * 2,
        [250] * 2,
        [500] * 2,
    ]
    x, y = data.train.x, data.train.y
    assert x.shape == (1500, 200, 20)
    assert x.unique().tolist() == [0, 1]
    found = rates(x)  # 200 entries: .2 and .6 are 10 standard deviations apart
    high = found > 0.4
    assert torch.equal(high[:, 0] ^ high[:, 1], y.bool())
    for level, rate in ((~high, 0.2), (high, 0.6)):
        assert found[level].mean() == pytest.approx(1 - (1 - rate) * 0.99, abs=0.005)  # joined with noise
    assert x[:, 10:-10].mean() == pytest.approx(0.01, abs=0.0005)
    for first in (False, True):
        for second in (False, True):
            assert ((high == torch.tensor([first, second])).all(1)).float().mean() == pytest.approx(0.25, abs=0.02)
    assert "synthetic" in data.description
    assert "sibling-code" in data.description


def test_one_pulse_says_nothing() -> None:
    """The label is independent of each rate alone: no threshold on one beats chance by more than sampling noise."""
    data = load("delayed-xor")
    found = rates(data.train.x) > 0.4
    for pulse in (0, 1):
        agree = (found[:, pulse] == data.train.y.bool()).float().mean()
        assert abs(float(agree) - 0.5) < 0.05


def test_a_sample_is_the_same_at_any_size() -> None:
    small, large = load("delayed-xor", sizes=(20, 10, 10)), load("delayed-xor", sizes=(40, 20, 20))
    some = {
        int(i): x
        for part in (large.train, large.validation, large.test)
        for i, x in zip(part.index, part.x, strict=True)
    }
    for part in (small.train, small.validation, small.test):
        for i, x in zip(part.index, part.x, strict=True):
            assert torch.equal(some[int(i)], x)


@pytest.mark.parametrize("sizes", [(1, 2), (0, 1, 1), (1.0, 1, 1), "abc", 5])
def test_sizes_are_checked(sizes: object) -> None:
    with pytest.raises(InputError, match="three whole numbers"):
        load("delayed-xor", sizes=sizes)  # type: ignore[arg-type]
