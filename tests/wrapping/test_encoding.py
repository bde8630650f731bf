"""Encoders and read-outs against explicit loops; straight-through gradients; bad callables."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from snnrobust.errors import InputError
from snnrobust.wrapping.encoding import ENCODERS, encode
from snnrobust.wrapping.readout import READOUTS, read_out

T = 6
UNIT = (0.0, 1.0)


def images(n: int = 3) -> Tensor:
    return torch.rand(n, 2, 4, generator=torch.Generator().manual_seed(n))


def run(encoder: object, x: Tensor, bounds: tuple[float, float] = UNIT, draw: int | Tensor = 0) -> Tensor:
    return encode(encoder, x, T, bounds, torch.arange(len(x)), draw)


def test_repeat_is_the_same_values_at_each_step() -> None:
    x = images()
    assert torch.equal(run("repeat", x), torch.stack([x] * T, dim=1))


@pytest.mark.parametrize("bounds", [UNIT, (-2.0, 6.0)])
def test_latency_against_a_loop(bounds: tuple[float, float]) -> None:
    low, high = bounds
    shares = [0.0, 0.125, 0.47, 0.75, 1.0]
    spikes = run("latency", low + torch.tensor([shares]) * (high - low), bounds)
    for i, share in enumerate(shares):
        expected = [0.0] * T
        if share > 0:  # the least value never spikes
            expected[round((1 - share) * (T - 1))] = 1.0
        assert spikes[0, :, i].tolist() == expected


def test_brighter_never_spikes_later() -> None:
    x = torch.linspace(0.01, 1, 50)[None]
    times = run("latency", x).argmax(dim=1)[0]
    assert bool((times.diff() <= 0).all())
    assert times[0] == T - 1
    assert times[-1] == 0


def test_poisson_rates_and_extremes() -> None:
    x = torch.tensor([0.0, 0.25, 0.5, 1.0]).repeat(2000, 1) * 4 - 1
    spikes = run("poisson", x, (-1.0, 3.0))
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    rates = spikes.mean(dim=(0, 1))
    assert float(rates[0]) == 0
    assert float(rates[3]) == 1
    assert torch.allclose(rates[1:3], torch.tensor([0.25, 0.5]), atol=0.02)
    # Out of bounds (a probe may look there) saturates.
    assert float(run("poisson", torch.full((1, 9), 7.0), (-1.0, 3.0)).mean()) == 1


def test_poisson_is_keyed_by_sample_and_draw() -> None:
    x = images(5)
    whole = run("poisson", x)
    keys = torch.tensor([4, 1])
    assert torch.equal(encode("poisson", x[keys], T, UNIT, keys, 0), whole[keys])
    assert not torch.equal(encode("poisson", x[keys], T, UNIT, keys + 5, 0), whole[keys])
    other = run("poisson", x, draw=1)
    assert not torch.equal(other, whole)
    draws = torch.tensor([0, 1, 0, 1, 0])
    mixed = run("poisson", x, draw=draws)
    assert torch.equal(mixed, torch.where(draws.bool()[:, None, None, None], other, whole))


def _silent(x: Tensor, steps: int) -> Tensor:
    return (x.detach()[:, None] > torch.linspace(0, 1, steps)[None, :, None, None]).to(x)


@pytest.mark.parametrize("encoder", ["repeat", "poisson", "latency", _silent])
def test_gradients_are_the_sum_over_time(encoder: str | Callable[[Tensor, int], Tensor]) -> None:
    x = images().requires_grad_()
    weights = torch.randn(3, T, 2, 4)
    (run(encoder, x) * weights).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, weights.sum(dim=1))


@pytest.mark.parametrize("encoder", [*ENCODERS, _silent])
def test_values_are_the_same_with_and_without_a_gradient(encoder: str | Callable[[Tensor, int], Tensor]) -> None:
    x = images()
    assert torch.equal(run(encoder, x), run(encoder, x.clone().requires_grad_()).detach())


def test_a_differentiable_callable_keeps_its_own_gradient() -> None:
    x = images().requires_grad_()
    run(lambda x, steps: torch.stack([t * x for t in range(steps)], dim=1), x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.full_like(x, sum(range(T))))


@pytest.mark.parametrize(
    ("encoder", "needs_gradient"),
    [
        (lambda x, steps: torch.stack([x] * steps), False),  # time first
        (lambda x, steps: x, False),
        (lambda x, steps: torch.zeros(len(x), steps, 5), True),  # no gradient, and no shape to pass one through
    ],
)
def test_bad_callables_are_refused(encoder: Callable[[Tensor, int], Tensor], needs_gradient: bool) -> None:
    with pytest.raises(InputError, match=r"expected .*got .*; "):
        run(encoder, images().requires_grad_(needs_gradient))


def by_loop(readout: str, row: Tensor, length: int) -> list[float]:
    """One sample's logits from its outputs [T, K], in plain Python."""
    result = []
    for k in range(row.shape[1]):
        series = [float(row[t, k]) for t in range(length)]
        result.append(
            {
                "mean": sum(series) / length,
                "sum": sum(series),
                "last": series[-1],
                "max": max(series),
                "first_spike": max(s * (length - t) for t, s in enumerate(series)),
            }[readout]
        )
    return result


@pytest.mark.parametrize("readout", READOUTS)
def test_readouts_against_a_loop(readout: str) -> None:
    generator = torch.Generator().manual_seed(0)
    graded = torch.randn(4, T, 3, generator=generator)
    spikes = (graded > 0.5).float()
    lengths = torch.tensor([T, 1, 3, 5])
    for outputs in [spikes] if readout == "first_spike" else [graded, spikes]:
        for given in (None, lengths):
            logits = read_out(readout, outputs, given)
            for n in range(4):
                expected = by_loop(readout, outputs[n], T if given is None else int(lengths[n]))
                assert logits[n].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("filler", [7.0, -7.0, float("nan"), float("inf")])
def test_padded_steps_count_for_nothing(readout: str, filler: float) -> None:
    """A sample's logits must not depend on how far its batch was padded, nor on what the net does out there."""
    outputs = (torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(1)) > 0.5).float().requires_grad_()
    padded = torch.cat([outputs, torch.full((3, 5, 2), filler)], dim=1)
    logits = read_out(readout, padded, torch.tensor([4, 4, 4]))
    assert torch.equal(logits, read_out(readout, outputs, None))
    (gradient,) = torch.autograd.grad(logits.sum(), outputs)
    (expected,) = torch.autograd.grad(read_out(readout, outputs, None).sum(), outputs)
    assert torch.equal(gradient, expected)


def test_first_spike_prefers_the_earlier_and_its_gradient_reaches_the_deciding_spike() -> None:
    outputs = torch.zeros(1, T, 3)
    outputs[0, 4, 0] = outputs[0, 1, 1] = outputs[0, 3, 1] = 1
    outputs.requires_grad_()
    logits = read_out("first_spike", outputs, None)
    assert logits.tolist() == [[2.0, 5.0, 0.0]]
    (gradient,) = torch.autograd.grad(logits[0, 1], outputs)
    expected = torch.zeros(1, T, 3)
    expected[0, 1, 1] = T - 1
    assert torch.equal(gradient, expected)


def test_a_callable_readout_gets_outputs_and_lengths() -> None:
    lengths = torch.tensor([2, 1])
    seen: list[Tensor | None] = []

    def own(outputs: Tensor, given: Tensor | None) -> Tensor:
        seen.append(given)
        return outputs[:, 0]

    outputs = torch.rand(2, T, 3)
    assert torch.equal(read_out(own, outputs, lengths), outputs[:, 0])
    assert len(seen) == 1
    assert seen[0] is lengths
