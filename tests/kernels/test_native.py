"""The native kernel against the eager equation: random units, and every combination of its branches once."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from snnrobust.acceleration.node import affine
from snnrobust.kernels.derivative import FAMILIES, Derivative
from snnrobust.kernels.dynamics import Dynamics, Reset
from snnrobust.kernels.fast import run_unit
from snnrobust.kernels.native import Native
from snnrobust.kernels.unit import Affine, Unit

CHARGES = (("divide", True), ("divide", False), ("multiply", True), ("multiply", False), ("keep", False))
POOLS = (None, "mean", "max")
seeds = st.integers(0, 2**31 - 1)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Case:
    """A unit, batch normalisation in front or none, and the shape of its current."""

    unit: Unit
    norm: nn.BatchNorm2d | None
    shape: tuple[int, ...]
    seed: int

    def tensors(self) -> tuple[Tensor, Tensor]:
        """A current, in eighths so that some potentials are exactly on the threshold, and a gradient to the output."""
        generator = torch.Generator().manual_seed(self.seed)
        current = torch.randn(self.shape, generator=generator) + 0.3
        current = torch.where(torch.rand(self.shape, generator=generator) < 0.5, (current * 8).round() / 8, current)
        out = [self.unit.steps, *self.shape[1:]]
        if self.unit.pool is not None:
            out[-2:] = [out[-2] // 2, out[-1] // 2]
        return current.requires_grad_(), torch.randn(out, generator=generator)

    def affine(self) -> Affine | None:
        return None if self.norm is None else affine(self.norm)

    def eager(self, current: Tensor) -> Tensor:
        """The unit in torch, with torch's own batch normalisation."""
        if self.norm is not None:
            current = self.norm(current.flatten(0, 1)).reshape(current.shape)
        return self.unit.eager(current)


def batch_norm(channels: int, seed: int) -> nn.BatchNorm2d:
    generator = torch.Generator().manual_seed(seed)
    norm = nn.BatchNorm2d(channels).eval().requires_grad_(False)
    norm.running_mean = torch.randn(channels, generator=generator)
    norm.running_var = torch.rand(channels, generator=generator) * 2 + 0.1
    norm.weight.copy_(torch.randn(channels, generator=generator) + 0.7)
    norm.bias.copy_(torch.randn(channels, generator=generator))
    return norm


@st.composite
def derivatives(draw: st.DrawFn) -> Derivative:
    return Derivative(draw(st.sampled_from(FAMILIES)), draw(st.floats(0.2, 6.0)), draw(st.floats(0.2, 4.0)))


@st.composite
def all_dynamics(draw: st.DrawFn) -> Dynamics:
    charge, decay_input = draw(st.sampled_from(CHARGES))
    rate = draw(st.floats(0.01, 1.0) | st.sampled_from([0.0, 0.5, 1.0]))
    if charge == "divide":
        rate = draw(st.floats(1.01, 8.0) | st.sampled_from([2.0, 3.0]))
    reset = draw(st.sampled_from(get_args(Reset)))
    return Dynamics(
        charge,
        rate,
        threshold=draw(st.floats(0.1, 2.0) | st.sampled_from([0.5, 1.0])),
        reset=reset,
        reset_value=draw(st.sampled_from([0.0, 0.0, -0.375, 0.1])) if reset == "hard" else 0.0,
        decay_input=decay_input,
        detach_reset=draw(st.booleans()),
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    steps, pool = draw(st.integers(1, 6)), draw(st.sampled_from(POOLS))
    unit = Unit(draw(all_dynamics()), draw(derivatives()), steps, pool)
    with_norm, first = draw(st.booleans()), draw(st.sampled_from([1, steps]))
    if pool is None and not with_norm:
        # Across the length of a chunk, and of no length that vectors divide.
        return Case(unit, None, (first, draw(st.integers(1, 5)), draw(st.integers(1, 700))), draw(seeds))
    least = 1 if pool is None else 2
    channels, height, width = draw(st.integers(1, 4)), draw(st.integers(least, 45)), draw(st.integers(least, 45))
    shape = (first, draw(st.integers(1, 3)), channels, height, width)
    return Case(unit, batch_norm(channels, draw(seeds)) if with_norm else None, shape, draw(seeds))


@settings(max_examples=250, deadline=None)
@given(case=cases(), count=st.integers(1, 3))
def test_spikes_are_exact_and_gradients_agree(case: Case, count: int, native: Native, rounding_scale: Any) -> None:
    current, gradient = case.tensors()
    eager = case.eager(current)
    with threads(count):
        fast = run_unit((native,), case.unit, current, case.affine())
        (mine,) = torch.autograd.grad(fast, current, gradient)
    assert torch.equal(fast, eager)
    assert torch.equal(case.unit.eager(current, case.affine()), eager)
    (real,) = torch.autograd.grad(eager, current, gradient)
    assert ((mine - real).abs() <= 1e-5 * rounding_scale(case.unit, current, gradient, case.affine())).all()


BRANCHES = list(itertools.product(CHARGES, get_args(Reset), (False, True)))


def test_no_sign_differs_beyond_rounding_and_hardly_any_is_at_rounding(native: Native, rounding_scale: Any) -> None:
    # Every branch of the kernel: charge x decay x reset x detach x family x static, with pooling and batch norm drawn.
    drawn = random.Random(0)
    entries = differing = excluded = zeros = spikes = 0
    for number, (((charge, decay), reset, detach), family, static) in enumerate(
        itertools.product(BRANCHES, FAMILIES, (False, True))
    ):
        rate = 3.3 if charge == "divide" else 0.3
        dynamics = Dynamics(charge, rate, 1.0, reset, 0.2 if reset == "hard" else 0.0, decay, detach)
        unit = Unit(dynamics, Derivative(family, 1.5, 0.8), 4, drawn.choice(POOLS))
        norm = batch_norm(2, number) if drawn.random() < 0.5 else None
        case = Case(unit, norm, (1 if static else 4, 2, 2, 7, 9), number)
        current, gradient = case.tensors()
        eager, fast = case.eager(current), run_unit((native,), unit, current, case.affine())
        assert torch.equal(fast, eager), unit
        mine, real = (torch.autograd.grad(out, current, gradient)[0] for out in (fast, eager))
        at_rounding = real.abs() <= 1e-6 * rounding_scale(unit, current, gradient, case.affine())
        entries += real.numel()
        zeros += int((real == 0).sum())
        excluded += int((at_rounding & (real != 0)).sum())
        differing += int(((mine.sign() != real.sign()) & ~(at_rounding & (real != 0))).sum())
        spikes += int(eager.count_nonzero())
    assert entries == len(BRANCHES) * len(FAMILIES) * (4 + 1) * 2 * 2 * 7 * 9
    assert spikes > entries / 10
    assert differing == 0
    assert excluded <= 1e-3 * (entries - zeros), f"{excluded} of {entries - zeros} gradients are at rounding level"


@settings(max_examples=60, deadline=None)
@given(case=cases(), pieces=st.integers(2, 5), order=seeds)
def test_a_sample_does_not_depend_on_its_batch_mates_order_or_threads(
    case: Case, pieces: int, order: int, native: Native
) -> None:
    current, gradient = case.tensors()
    current = current.detach()
    with threads(1):
        out = native.forward(case.unit, current, case.affine())
        back = native.backward(case.unit, current, case.affine(), gradient)
    shuffled = torch.randperm(case.shape[1], generator=torch.Generator().manual_seed(order))
    with threads(3):
        for some in shuffled.chunk(pieces):
            assert torch.equal(native.forward(case.unit, current[:, some], case.affine()), out[:, some])
            part = native.backward(case.unit, current[:, some], case.affine(), gradient[:, some])
            assert torch.equal(part, back[:, some])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5), (3, 1), (7, 7), (2, 1031)])
def test_the_affine_map_rounds_as_the_batch_norm_of_torch(height: int, width: int, layout: Any, native: Native) -> None:
    # A value in each channel as the threshold, then the next number: the kernel's own value can only be the same.
    for seed in range(2):
        norm = batch_norm(64, seed)
        images = torch.randn(2, 64, height, width, generator=torch.Generator().manual_seed(seed))
        normalised = norm(images.contiguous(memory_format=layout))[None]
        beyond = torch.nextafter(normalised, torch.tensor(torch.inf))
        for threshold in torch.cat([normalised[0, 0, :, 0, 0], beyond[0, 0, :, 0, 0]]).tolist():
            unit = Unit(Dynamics("keep", 0.0, threshold=threshold, reset="none"), Derivative.atan(2.0), 1)
            for out in (native.forward(unit, images[None], affine(norm)), unit.eager(images[None], affine(norm))):
                assert torch.equal(out, (normalised >= threshold).float())


def test_the_affine_check_sees_a_map_that_is_rounded_twice(native: Native) -> None:
    norm = batch_norm(3, 1)
    current = torch.randn(2, 2, 3, 31, 33, generator=torch.Generator().manual_seed(0))
    normalised = norm(current.flatten(0, 1)).reshape(current.shape)
    scale, shift = (each[:, None, None] for each in affine(norm))
    rounded_twice = current * scale + shift
    rounded_once = (current.double() * scale.double() + shift.double()).float()
    # Which of the two torch does depends on its build; they differ, and the kernel must equal torch's.
    assert (rounded_once != rounded_twice).any()
    assert torch.equal(normalised, rounded_once if native._contracted else rounded_twice)
