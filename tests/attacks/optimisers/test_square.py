"""Square: closed forms, the schedule, windows and bumps counted by hand, plateaus, no gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import snnrobust as sr
from snnrobust.common.random import Draws
from snnrobust.errors import InputError, InputTypeError
from snnrobust.testing import check_plugin
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.threat_models.threat_model import Norm, ThreatModel
from snnrobust.threat_models.verify import verify
from snnrobust_attacks.optimisers.square import Square
from snnrobust_attacks.optimisers.windows import Window, fold, sides, unfold

SHAPES = [(16,), (3, 4), (2, 3, 3), (2, 1, 3, 2)]


def ascend(
    optimiser: Square, objective: Callable[[Tensor], Tensor], x0: Tensor, threat: ThreatModel
) -> tuple[Tensor, list[Tensor]]:
    """The best objective [N] and all iterates."""
    index, rng = torch.arange(len(x0)), Draws(0, "t")
    state = optimiser.init(x0, threat, rng, index)
    iterates, best = [], torch.full((len(x0),), -torch.inf, dtype=x0.dtype)
    for k in range(optimiser.steps + 1):
        iterates.append(state["x"])
        loss = objective(state["x"])
        best = torch.maximum(best, loss)
        if k < optimiser.steps:
            state = optimiser.step(state, None, loss, x0, torch.full_like(index, k), threat, rng, index)
    verify(iterates[-1], x0, threat, index.tolist(), "square")
    return best, iterates


def linear(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    generator = torch.Generator().manual_seed(1)
    w = torch.randn(shape, generator=generator).double()
    return torch.rand((3, *shape), generator=generator).double(), w, lambda x: (x * w).flatten(1).sum(dim=1)


@pytest.mark.parametrize("bounds", [(-100.0, 100.0), (0.0, 1.0)])
@pytest.mark.parametrize("shape", SHAPES, ids=repr)
def test_linear_objective_linf(shape: tuple[int, ...], bounds: tuple[float, float]) -> None:
    x0, w, objective = linear(shape)
    best, _ = ascend(Square(steps=300), objective, x0, ThreatModel("linf", 0.3, bounds))
    room = torch.where(w > 0, bounds[1] - x0, x0 - bounds[0]).clamp_max(0.3)
    gain = (best - objective(x0)) / (room * w.abs()).flatten(1).sum(dim=1)
    assert 0.99 < float(gain.min()) <= float(gain.max()) < 1 + 1e-9, gain


@pytest.mark.parametrize("shape", SHAPES, ids=repr)
def test_linear_objective_l2(shape: tuple[int, ...]) -> None:
    """Bumps have a fixed shape: they come near epsilon |w|_2, and far nearer than their start."""
    x0, w, objective = linear(shape)
    threat = ThreatModel("l2", 0.5, (-100.0, 100.0))
    best, iterates = ascend(Square(steps=250), objective, x0, threat)
    gain, first = ((each - objective(x0)) / (0.5 * w.norm()) for each in (best, objective(iterates[0])))
    assert 0.6 < float(gain.min()) <= float(gain.max()) < 1 + 1e-6, gain
    assert float((gain - first).min()) > 0.2
    lengths = torch.stack([(x - x0).flatten(1).norm(dim=1) for x in iterates])
    assert torch.allclose(lengths, torch.full_like(lengths, 0.5), atol=1e-6)  # no budget is left unused


def test_schedule() -> None:
    """Written out for 10000 queries, and scaled to fewer."""
    k = torch.tensor([0, 10, 11, 50, 51, 200, 201, 501, 1001, 2001, 4001, 6001, 8000, 8001, 9999])
    halved = [0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 8, 9, 9]
    assert torch.allclose(Square(steps=10000, p=0.4).share(k), 0.4 * 0.5 ** torch.tensor(halved).double())
    assert torch.allclose(
        Square(steps=100, p=0.4).share(torch.tensor([0, 1, 99])), torch.tensor([0.4, 0.1, 0.4 / 512]).double()
    )


def test_sides() -> None:
    share = torch.tensor([0.8, 0.05, 0.0015]).double()
    image = [side.tolist() for side in sides(torch.zeros(3, 1, 28, 28), share)]
    assert image == [[25, 6, 1], [25, 7, 1]]  # sqrt(p 784) = 25.04, 6.26, 1.08
    assert sides(torch.zeros(3, 1, 40), share)[0].tolist() == [32, 2, 1]
    assert [side.tolist() for side in sides(torch.zeros(3, 1, 2, 9), share, least=3)] == [[2, 1, 1], [7, 3, 3]]


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4), (4, 2, 3, 5), (2, 4, 2, 3, 5)], ids=repr)
def test_fold(shape: tuple[int, ...]) -> None:
    x = torch.rand(2, *shape)
    folded = fold(x)
    assert folded.shape[1] == (1 if len(shape) < 3 else shape[-3])
    assert torch.equal(unfold(folded, x), x)


def test_windows_and_bumps_by_hand() -> None:
    folded = torch.zeros(2, 1, 5, 6)
    window = Window.at(folded, [torch.tensor([2, 4]), torch.tensor([3, 4])], torch.tensor([[0.0, 0.0], [0.99, 0.5]]))
    rows, columns = np.mgrid[:5, :6]
    assert np.array_equal(window.inside[0, 0], (rows < 2) & (columns < 3))
    assert np.array_equal(window.inside[1, 0], (rows >= 1) & (columns >= 1) & (columns < 5))
    bump = window.bumps(torch.tensor([1, 0]))[1, 0, 1:, 1:5]
    # A half of 2 x 4 with its middle at (1, 2): Chebyshev distances 2 1 0 1, of sums of 1, 1/4 and 1/9.
    half = np.array([[2, 1, 1, 1], [2, 1, 0, 1]])
    value = np.array([1 + 1 / 4 + 1 / 9, 1 / 4 + 1 / 9, 1 / 9])[half]
    expected = np.concatenate([value, -value])
    assert np.allclose(bump, expected / np.linalg.norm(expected), atol=1e-6)


def test_a_linf_step_paints_one_window() -> None:
    """Between a proposal and the best before it, each channel differs inside one box, all of it at +-epsilon."""
    x0 = torch.full((2, 3, 2, 8, 8), 0.5).double()
    optimiser = Square(steps=40, p=0.3)
    threat, index = ThreatModel("linf", 0.25), torch.arange(2)
    state = optimiser.init(x0, threat, Draws(0, "t"), index)
    stripes = state["x"]
    assert torch.equal(stripes, stripes[:, :1, :, :1].expand_as(stripes))
    for k in range(40):
        loss = torch.rand(2, generator=torch.Generator().manual_seed(k)).double()
        state = optimiser.step(state, None, loss, x0, torch.full_like(index, k), threat, Draws(0, "t"), index)
        assert torch.equal((state["x"] - x0).abs(), torch.full_like(x0, 0.25))
        for before, after in zip(state["best"], state["x"], strict=True):
            changed = before != after  # [T, C, H, W]
            assert changed.any()  # a query that changes nothing is wasted
            for channel in range(2):
                spans = changed[:, channel].nonzero()
                if len(spans):
                    box = [slice(int(a), int(b) + 1) for a, b in zip(spans.amin(0), spans.amax(0), strict=True)]
                    assert len(after[:, channel][tuple(box)].unique()) == 1


def plateaus(x: Tensor) -> Tensor:
    """A sum of 40 entries that only counts in steps of 2, as a rate read-out does."""
    return (x.sum(dim=1) / 2).floor()


def test_ties_cross_plateaus() -> None:
    x0 = torch.full((12, 40), 0.5).double()
    threat = ThreatModel("linf", 0.1)
    loose, strict = (ascend(Square(steps=150, p=0.1, ties=ties), plateaus, x0, threat)[0] for ties in (True, False))
    assert float(loose.mean()) > float(strict.mean()) + 0.2, (loose.mean(), strict.mean())


@pytest.mark.parametrize("pool", [1, 7])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_batch_size_does_not_matter(norm: Norm, pool: int) -> None:
    task = sr.load("square", norm=norm, epsilon={"linf": 0.2, "l2": 1.0}[norm], steps=15, objective="margin")
    whole, small = (
        sr.evaluate(tiny_model(), tiny_data(), [task], batch_size=size, evidence="none") for size in (64, pool)
    )
    assert np.allclose(whole.margins("square"), small.margins("square"), atol=1e-6)
    assert not whole.cell("tiny", "square", 0)["backwards"].any()


@pytest.mark.parametrize("steps", [1, 20])
def test_it_conforms(steps: int) -> None:
    check_plugin("square", steps=steps)


@pytest.mark.parametrize("setting", [{"steps": 0}, {"p": 0.0}, {"p": 1.5}], ids=repr)
def test_settings_out_of_range(setting: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(setting))):
        Square(**setting)


def test_a_flag_is_a_bool() -> None:
    with pytest.raises(InputTypeError, match="ties"):
        Square(ties=1)  # type: ignore[arg-type]
