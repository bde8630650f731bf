"""Chunks that go through the net in one pass: the same bits as one by one, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.wrapping.model import SpikingModel
from snnrobust_landscapes.loss import weights as module
from snnrobust_landscapes.loss.fast_logits import FastLogits
from snnrobust_landscapes.loss.landscape import Chunk
from snnrobust_landscapes.loss.weights import WeightLandscape

DATA = tiny_data(count=50)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Samples of each pass."""
    found: list[int] = []
    call = FastLogits.__call__

    def watched(self: FastLogits, x: Tensor, chunk: Chunk) -> Tensor:
        found.append(len(x))
        return call(self, x, chunk)

    monkeypatch.setattr(FastLogits, "__call__", watched)
    return found


def losses(model: SpikingModel) -> Tensor:
    landscape = WeightLandscape(model, DATA, chunk=16)
    step = landscape.direction(Draws(0, "step"))
    landscape.loss(torch.zeros_like(step))  # finds out what is the same
    return torch.stack([landscape.loss(radius * step).losses for radius in (0.0, 0.05, 0.2, 0.5)])


def test_chunks_are_joined_where_no_bit_changes(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    with model.session():
        joined = losses(model)
        assert sizes[-4:] == [50] * 4
        monkeypatch.setattr(WeightLandscape, "_joined", lambda self, fast: self.chunks)
        sizes.clear()
        apart = losses(model)
        assert sizes[-16:] == [16, 16, 16, 2] * 4
    assert torch.equal(joined, apart)
    assert len({float(each.mean()) for each in joined}) == 4  # control: they differ from point to point


def _only_some(most: int) -> Callable[[Any], int]:
    return lambda self: most


def test_no_more_are_joined_than_fit(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    with model.session():
        monkeypatch.setattr(FastLogits, "most", property(_only_some(40)))
        losses(model)
        assert sizes[-2:] == [32, 18]
        monkeypatch.setattr(module, "LARGEST", 31 * 16 * 4)  # 31 inputs
        losses(model)
        assert sizes[-4:] == [16, 16, 16, 2]


def test_a_net_whose_bits_hang_on_the_batch_keeps_its_chunks(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    call = FastLogits.__call__

    def rounded(self: FastLogits, x: Tensor, chunk: Chunk) -> Tensor:
        return call(self, x, chunk) + (1e-7 if len(x) > 16 else 0.0)

    monkeypatch.setattr(FastLogits, "__call__", rounded)
    model = tiny_model()
    with model.session():
        losses(model)
    assert sizes[-4:] == [16, 16, 16, 2]


def test_a_model_that_is_not_accelerated_keeps_its_chunks(sizes: list[int]) -> None:
    model = tiny_model()
    model.accelerate = False
    with model.session():
        losses(model)
    assert set(sizes) == {16, 2}
