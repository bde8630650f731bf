"""`fewest-flips`: the smallest sets on linear nets, legality, its control, and padding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.errors import InputError
from snnrobust.testing import check_plugin
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust_attacks.events.fewest_flips import FewestFlips


class Linear(nn.Module):
    """Two logits whose difference is a weighted sum of all entries [T, N, F]."""

    def __init__(self, weight: Tensor, bias: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), bias

    def forward(self, x: Tensor) -> Tensor:
        score = (x * self.weight[:, None]).sum(dim=(0, 2)) + self.bias
        return torch.stack([score, -score], dim=1)


def fewest(x: Tensor, weight: Tensor, bias: float) -> Tensor:
    """The smallest number of flips that turns the sign of a positive score, from the sorted gains, [N]."""
    score = (x * weight).sum(dim=(1, 2)) + bias
    gain = ((2 * x - 1) * weight).flatten(1).clamp_min(0).sort(dim=1, descending=True).values.cumsum(dim=1)
    return (gain <= score[:, None]).sum(dim=1) + 1


def linear_case() -> tuple[sr.SpikingModel, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(10, 12, generator=generator)
    x = (torch.rand(40, 10, 12, generator=generator) < 0.3).float()
    bias = 9.0 - float((x * weight).sum(dim=(1, 2)).min())
    model = sr.wrap(Linear(weight, bias), encoder=None, domain="binary", out_layout="N")
    return model, x, fewest(x, weight, bias)


def test_the_smallest_sets_of_linear_nets_are_found() -> None:
    model, x, truth = linear_case()
    assert truth.max() >= 5
    most = int(truth.max()) + 1
    found = sr.attack(
        model, (x, torch.zeros(40, dtype=torch.long)), sr.load("fewest-flips", norm="l0", epsilon=most, steps=400)
    )
    assert found.success.all()
    flips = (found.x != x).flatten(1).sum(dim=1)
    assert (flips >= truth).all()
    assert (flips == truth).float().mean() > 0.9
    assert flips.sum() <= 1.02 * truth.sum()


def test_proposals_after_the_first_success_make_the_sets_smaller() -> None:
    """Negative control: with one proposal the sets stay those of doubling."""
    model, x, truth = linear_case()
    y = torch.zeros(40, dtype=torch.long)
    one, many = (
        sr.attack(model, (x, y), sr.load("fewest-flips", norm="l0", epsilon=120, steps=steps)) for steps in (1, 300)
    )
    sizes = [(each.x != x).flatten(1).sum().item() for each in (one, many)]
    assert sizes[1] < 0.8 * sizes[0]
    assert sizes[1] >= int(truth.sum())


def test_sets_over_the_budget_are_no_success() -> None:
    model, x, truth = linear_case()
    budget = int(truth.min())
    found = sr.attack(
        model, (x, torch.zeros(40, dtype=torch.long)), sr.load("fewest-flips", norm="l0", epsilon=budget, steps=100)
    )
    assert not found.success[truth > budget].any()
    assert ((found.x != x).flatten(1).sum(dim=1) <= budget).all()


def test_a_search_ends_at_enough_changes() -> None:
    model, x, truth = linear_case()
    y, enough = torch.zeros(40, dtype=torch.long), int(truth.max()) + 1
    whole, part = (
        sr.attack(model, (x, y), sr.load("fewest-flips", norm="l0", epsilon=120, steps=300, enough=least))
        for least in (1, enough)
    )
    assert ((part.x != x).flatten(1).sum(dim=1) <= enough).all()
    assert part.queries.sum() < 0.5 * whole.queries.sum()


def test_it_changes_few_real_inputs_and_standard_leaves_no_member_out() -> None:
    generator = torch.Generator().manual_seed(1)
    weight, x = torch.randn(10, 12, generator=generator), torch.rand(20, 10, 12, generator=generator)
    bias = 9.0 - float((x * weight).sum(dim=(1, 2)).min())
    model = sr.wrap(Linear(weight, bias), encoder=None, domain="real", out_layout="N")
    y, task = (
        torch.zeros(20, dtype=torch.long),
        sr.load("standard", norm="l0", epsilon=[3, 8, 20], steps=30, queries=200),
    )
    # An entry goes to the bound that lowers the score.
    gain = torch.maximum(x * weight, (x - 1) * weight).flatten(1).sort(dim=1, descending=True).values.cumsum(dim=1)
    truth = (gain <= ((x * weight).sum(dim=(1, 2)) + bias)[:, None]).sum(dim=1) + 1
    found = sr.attack(model, (x, y), sr.load("fewest-flips", norm="l0", epsilon=120, steps=300))
    flips = (found.x != x).flatten(1).sum(dim=1)
    assert (flips >= truth).all()
    assert flips.sum() <= 1.05 * truth.sum()
    report = sr.evaluate(model, (x, y), [task], evidence="none", mode="bisect", progress=False)
    assert report.bisected("standard")
    assert sum(each.attempted for each in report.members("standard") if each.label.startswith("fewest-flips")) > 0


def test_it_conforms_and_refuses_other_norms() -> None:
    check_plugin("fewest-flips", steps=5)
    with pytest.raises(InputError, match="'l0'"):
        sr.evaluate(tiny_model(True), tiny_data(True), [sr.load("fewest-flips", norm="l2", epsilon=1)])
    with pytest.raises(InputError, match="noise"):
        FewestFlips(noise=-1.0)
