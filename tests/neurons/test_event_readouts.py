"""Nets of event-driven neurons as any other static net: read-outs, ties, silence, attacks through exact gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.neurons import EventDriven, FirstSpike, Latency, SpikeCount
from snnrobust.wrapping.decision import predict

TIMES = torch.tensor([[[0.3, 0.4], [0.1, math.inf], [math.inf, math.inf]], [[math.inf] * 2] * 3])


def test_the_first_spike_decides_and_silence_is_no_class() -> None:
    logits = FirstSpike(1.0, tau=0.1)(TIMES)
    assert torch.allclose(logits, torch.tensor([[7.0, 9.0, 0.0], [0.0, 0.0, 0.0]]))
    late = FirstSpike(0.2, tau=0.1)(TIMES)
    assert torch.allclose(late[0], torch.tensor([0.0, 1.0, 0.0]))


def test_the_softmax_is_that_of_negative_times() -> None:
    logits = FirstSpike(1.0, tau=0.05)(TIMES)[:1]
    other = -TIMES[:1, :, 0].clamp_max(1.0) / 0.05
    assert torch.allclose(logits.softmax(dim=1), other.softmax(dim=1))


def test_the_gradient_of_a_count_is_the_published_rule() -> None:
    """Half the squared error to targets: dL/dt_k = target - n for each spike."""
    times = TIMES.clone().requires_grad_()
    target = torch.tensor([[15.0, 3.0, 3.0], [3.0, 15.0, 3.0]])
    counts = SpikeCount()(times)
    assert counts.tolist() == [[2, 1, 0], [0, 0, 0]]
    ((target - counts).square().sum() / 2).backward()
    expected = torch.where(TIMES.isfinite(), (target - counts.detach())[..., None], 0.0)
    assert times.grad is not None
    assert torch.equal(times.grad, expected)


def net(spikes: int) -> nn.Module:
    torch.manual_seed(3)
    readout: nn.Module = FirstSpike(0.5, tau=0.02) if spikes == 1 else SpikeCount()
    threshold = 0.08 if spikes == 1 else 0.5
    return nn.Sequential(
        *(nn.Flatten(), Latency(0.1 if spikes == 1 else 0.5)),
        EventDriven(16, 30, spikes, threshold=0.08, duration=0.5, init=(-0.5, 1)),
        EventDriven(30, 3, 1 if spikes == 1 else 20, threshold=threshold, duration=0.5, init=(-0.7, 1)),
        readout,
    )


def pixels(count: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return 0.05 + 0.9 * torch.rand(count, 1, 4, 4, generator=generator), torch.zeros(count, dtype=torch.long)


@pytest.mark.parametrize("spikes", [1, 5])
def test_pgd_is_that_of_a_hand_written_loop(spikes: int) -> None:
    """On the eager layer, with steps of the sign of the exact gradient."""
    module = net(spikes)
    for layer in module:
        if isinstance(layer, EventDriven):
            layer.backend = "eager"
    model = sr.wrap(module, layout="N", name="events")
    x, _ = pixels()
    y = predict(module(x))
    epsilon = 0.04 if spikes == 1 else 0.2
    task = sr.load("pgd", epsilon=epsilon, steps=5, step_size=epsilon / 2, random_start=False)
    found = sr.attack(model, (x, y), task)
    at, best = x.clone(), torch.zeros(len(x), dtype=torch.bool)
    for _ in range(5):
        best |= predict(module(at)) != y
        at = at.requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(module(at), y, reduction="sum"), at)
        at = at.detach() + epsilon / 2 * gradient.sign()
        at = torch.minimum(torch.maximum(at, x - epsilon), x + epsilon).clamp(0, 1)
    best |= predict(module(at)) != y
    assert torch.equal(found.success, best)
    assert 0 < int(best.sum()) < len(x)


def test_training_lowers_the_loss() -> None:
    module = net(1)
    x, _ = pixels()
    y = (x.flatten(1)[:, :8].sum(dim=1) > x.flatten(1)[:, 8:].sum(dim=1)).long()
    optimiser = torch.optim.Adam(module.parameters(), 1e-3)
    losses = []
    for _ in range(100):
        loss = nn.functional.cross_entropy(module(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
