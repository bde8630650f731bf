"""A convolution and the unit after it in one kernel: bit-identical to torch, or not used."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from snnrobust.kernels.backends import backends
from snnrobust.kernels.convolved import Convolved
from snnrobust.kernels.derivative import Derivative
from snnrobust.kernels.dynamics import Dynamics
from snnrobust.kernels.native import Native
from snnrobust.kernels.unit import Affine, Unit

pytestmark = pytest.mark.skipif(not backends("cpu")[0], reason="no compiler here")


@pytest.fixture(scope="module")
def kernel() -> Convolved:
    return Convolved(Native())


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def drawn(seed: int) -> tuple[Unit, Tensor, Tensor, Affine | None]:
    """A unit, spikes [1 or T, N, C, H, W], weights [O, C, 3, 3] and an affine map, or None."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    leak = rng.choice(
        [
            Dynamics("divide", rng.choice([2.0, 3.0]), 0.5, "hard", decay_input=rng.random() < 0.5),
            Dynamics("multiply", 0.3, 0.5, "soft"),
            Dynamics("keep", 0.7, 0.5, rng.choice(["hard", "none"])),
        ]
    )
    steps, n, c, o = rng.choice([1, 2, 5]), rng.choice([1, 3, 7]), rng.choice([1, 2, 3, 8, 16]), rng.randint(1, 34)
    height, width = rng.choices((2, 3, 5, 8, 14, 17), k=2)
    shape = rng.choice([1, steps]), n, c, height, width
    x = torch.randint(1, 5, shape, generator=generator) / 4 * (torch.rand(shape, generator=generator) < 0.3)
    affine = (torch.rand(o, generator=generator) + 0.5, torch.randn(o, generator=generator))
    unit = Unit(leak, Derivative.atan(2.0), steps, rng.choice([None, "mean", "max"]))
    return unit, x, torch.randn(o, c, 3, 3, generator=generator), affine if rng.random() < 0.5 else None


def eager(unit: Unit, x: Tensor, weight: Tensor, affine: Affine | None) -> Tensor:
    current = F.conv2d(x.flatten(0, 1), weight, padding=1).unflatten(0, x.shape[:2])
    return unit.eager(current, affine)


@torch.no_grad()
def test_spikes_are_those_of_torch_to_the_last_bit(kernel: Convolved, two_threads: None) -> None:
    fired, used = 0.0, 0
    for seed in range(100):
        unit, x, weight, affine = drawn(seed)
        if not kernel.supports(unit, x, weight):
            continue
        used += 1
        wanted = eager(unit, x, weight, affine)
        for channels_last in (False, True):
            found = kernel.forward(unit, x, weight, affine, channels_last=channels_last)
            assert torch.equal(found, wanted), (seed, channels_last)
            assert found.movedim(2, -1).is_contiguous() or not channels_last
        assert torch.equal(kernel.forward(unit, x.movedim(2, -1).contiguous().movedim(-1, 2), weight, affine), wanted)
        fired += float(wanted.mean())
    assert used >= 50
    assert 0.05 < fired / used < 0.95  # control


@torch.no_grad()
def test_sums_are_rounded_as_torchs(kernel: Convolved) -> None:
    """Not only spikes, which hide most of a sum: those in another order of summation differ in most sums."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.rand(1, 64, 8, 14, 14, generator=generator), torch.randn(16, 8, 3, 3, generator=generator)
    theirs = F.conv2d(x[0], weight, padding=1)
    turned = F.conv2d(x[0].transpose(-1, -2), weight.transpose(-1, -2), padding=1).transpose(-1, -2)
    assert (turned != theirs).double().mean() > 0.5  # control
    ours = torch.empty_like(theirs)
    kernel._call(None, x, weight, None, ours, False)
    assert torch.equal(ours, theirs) == kernel._agrees_on(x, weight)
    assert (ours - theirs).abs().max() < 1e-4


def test_what_rounds_otherwise_is_not_used(kernel: Convolved, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh, conv2d = Convolved(Native()), F.conv2d
    unit, x, weight, _ = next(each for each in map(drawn, range(100)) if kernel.supports(*each[:3]))

    def one_bit_off(*given: Any, **settings: Any) -> Tensor:
        found = conv2d(*given, **settings)
        found[-1, -1, -1, -1] = torch.nextafter(found[-1, -1, -1, -1], torch.tensor(9.0))
        return found

    monkeypatch.setattr(F, "conv2d", one_bit_off)
    assert not fresh.supports(unit, x, weight)
    monkeypatch.setattr(F, "conv2d", conv2d)
    assert not fresh.supports(unit, x, weight)  # it is tested once
    assert Convolved(Native()).supports(unit, x, weight)


def test_what_it_does_not_know_is_left_to_torch(kernel: Convolved) -> None:
    unit, x, weight, _ = next(each for each in map(drawn, range(100)) if kernel.supports(*each[:3]))
    assert not kernel.supports(unit, x.double(), weight.double())
    assert not kernel.supports(unit, x[0], weight)
    assert not kernel.supports(unit, x, torch.randn(4, x.shape[2], 5, 5))
    assert not kernel.supports(unit, x, torch.randn(4, x.shape[2] + 1, 3, 3))
    for value in (torch.inf, torch.nan):  # their product with zero is NaN
        broken = weight.clone()
        broken[0, 0, 1, 1] = value
        assert not kernel.supports(unit, x, broken)


@torch.no_grad()
def test_an_input_that_is_no_number_reaches_its_windows_alone(kernel: Convolved) -> None:
    unit = Unit(Dynamics("keep", 1.0, 0.5, "none"), Derivative.atan(2.0), 2)
    x, weight = torch.ones(2, 16, 1, 6, 6), torch.ones(8, 1, 3, 3)
    x[:, :, :, 2, 2] = torch.nan
    assert kernel.supports(unit, x, weight)
    found = kernel.forward(unit, x, weight, None)
    assert torch.equal(found, eager(unit, x, weight, None))
    assert float(found[0, 0, 0].sum()) == 27  # all but the nine around it


def test_no_room_is_said(kernel: Convolved, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        @staticmethod
        def convolved(*_: object) -> int:
            return 1

    unit, x, weight, _ = drawn(0)
    monkeypatch.setattr(kernel, "_library", Full())
    with pytest.raises(MemoryError, match="convolution"):
        kernel.forward(unit, x, weight, None)
