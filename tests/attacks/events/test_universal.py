"""The universal perturbation: legal, the best one in small cases, stronger than random sets, never fitted on tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.errors import InputError
from snnrobust.threat_models.threat_model import Domain, Norm, ThreatModel
from snnrobust.threat_models.verify import verify
from snnrobust_attacks.events.universal import Universal

BOUNDS: dict[Domain, tuple[float, float]] = {"real": (0.0, 1.0), "integer": (0.0, 4.0), "binary": (0.0, 1.0)}
CASES: list[tuple[Domain, Norm]] = [
    *(("binary", norm) for norm in ("l0", "l1", "linf", "additions", "deletions")),
    *(("integer", norm) for norm in ("l0", "l1", "linf", "additions", "deletions")),
    *(("real", norm) for norm in ("l0", "l1", "l2", "linf")),
]


def grid(domain: Domain, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    low, high = BOUNDS[domain]
    x = low + (high - low) * torch.rand(shape, generator=generator) ** 3
    return x if domain == "real" else x.round()


def check_allowed(
    oracle: type[Any], seed: int, case: tuple[Domain, Norm], epsilon: int, shape: tuple[int, ...], dead: bool
) -> None:
    domain, norm = case
    generator = torch.Generator().manual_seed(seed)
    radius = 0.1 * epsilon if domain == "real" and norm != "l0" else float(epsilon)
    limits: tuple[tuple[Norm, float], ...] = (
        (("deletions", 1),) if norm == "l0" and domain != "real" and seed % 2 else ()
    )
    threat = ThreatModel(norm, radius, BOUNDS[domain], domain, limits)
    held_out, x = (grid(domain, (4, *shape), generator) for _ in range(2))
    y, index, rng = torch.tensor([0, 1, 2, 0]), torch.arange(4), Draws(seed, "universal")
    plugin = Universal(steps=5, samples=3)
    fitted = plugin.fit(oracle(held_out, threat, seed, dead=dead), held_out, y, threat, rng, index)
    found = plugin.perturb(None, x, y, threat, rng, index, fitted)  # type: ignore[arg-type]  # asks nothing
    verify(found, x, threat, index.tolist(), "universal")
    assert epsilon or torch.equal(found, x)
    if norm == "l0" and not limits:
        change = fitted["change"]
        assert int((change != 0).sum()) <= epsilon
        assert torch.equal(found, torch.where(change > 0, BOUNDS[domain][1], torch.where(change < 0, 0.0, x)))


ANY = {
    "seed": st.integers(0, 10**6),
    "case": st.sampled_from(CASES),
    "epsilon": st.sampled_from([0, 1, 2, 5, 30, 1000]),
    "shape": st.sampled_from([(4, 2, 3, 3), (5, 6), (1, 4, 4)]),
    "dead": st.booleans(),
}


@given(**ANY)
@settings(max_examples=100)
def test_examples_are_allowed(random_oracle: type[Any], **case: Any) -> None:
    check_allowed(random_oracle, **case)


@pytest.mark.slow
@given(**ANY)
@settings(max_examples=1000)
def test_thousand_examples_are_allowed(random_oracle: type[Any], **case: Any) -> None:
    check_allowed(random_oracle, **case)


def linear(size: int) -> sr.SpikingModel:
    layer = nn.Linear(size, 3, bias=False)
    layer.weight.data = torch.randn(3, size, generator=torch.Generator().manual_seed(5))
    return sr.wrap(nn.Sequential(nn.Flatten(), layer), layout="N", domain="binary", encoder=None, name="linear")


def test_the_best_single_entry_is_found() -> None:
    """Against all 24 settings of one entry: as few validation samples stay right."""
    model, generator = linear(12), torch.Generator().manual_seed(2)
    x = (torch.rand(60, 3, 4, generator=generator) < 0.4).float()
    y = model.logits(x).argmax(dim=1)
    held_out = Dataset.of(x[:30], y[:30])
    each = []
    for entry in range(12):
        for value in (0.0, 1.0):
            changed = held_out.x.flatten(1).clone()
            changed[:, entry] = value
            each.append(int((model.logits(changed.reshape(-1, 3, 4)).argmax(dim=1) == held_out.y).sum()))
    factors = sr.plugin.task.AttackSettings("l0", sr.create("margin"), sr.create("own"), 1, 1)
    task = sr.Task("universal", "universal", "attack", "test", Universal(steps=60), (1.0,), factors)
    seen: list[Tensor] = []
    original = Universal.fit

    def watched(self: Universal, *arguments: Any) -> Any:
        state = original(self, *arguments)
        seen.append(state["change"])
        return state

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Universal, "fit", watched)
        sr.attack(model, {"test": (x[30:], y[30:]), "validation": held_out}, task, progress=False)
    right = int((model.logits((held_out.x + seen[0]).clamp(0, 1)).argmax(dim=1) == held_out.y).sum())
    assert min(each) <= right <= sorted(each)[1]
    assert min(each) < 30


def test_it_beats_random_sets_of_the_same_size(
    bars: Any, random_control: Callable[..., Tensor], beats: Callable[[np.ndarray, np.ndarray], bool]
) -> None:
    found = bars.attack(Universal(steps=60), 40)
    control = random_control(found.original, found.x, torch.ones_like(found.x, dtype=torch.bool))
    assert torch.equal((control != found.original).flatten(1).sum(1), (found.x != found.original).flatten(1).sum(1))
    assert beats(found.success.numpy(), bars.broken(control, found.y))
    first = (found.x - found.original)[found.success]
    assert int(((first > 0).any(dim=0) & (first < 0).any(dim=0)).sum()) == 0  # each entry goes one way in all samples
    assert int((first != 0).any(dim=0).sum()) <= 40


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_norm_balls_of_real_inputs(norm: Norm) -> None:
    """On a linear net the same direction suits all samples of a class: more break than by a random vertex."""
    layer = nn.Linear(20, 2, bias=False)
    random_weight = torch.randn(2, 20, generator=torch.Generator().manual_seed(1))
    layer.weight.data = random_weight - random_weight.mean(dim=1, keepdim=True)  # grey is on the boundary
    model = sr.wrap(nn.Sequential(nn.Flatten(), layer), layout="N", name="linear")
    x = 0.3 + 0.4 * torch.rand(800, 20, generator=torch.Generator().manual_seed(3))
    y = model.logits(x).argmax(dim=1)
    usual = int(y.mode().values)
    kept = (y == usual).nonzero()[:100, 0]
    radius = {"linf": 0.1, "l2": 0.4, "l1": 1.0}[norm]
    factors = sr.plugin.task.AttackSettings(norm, sr.create("margin"), sr.create("own"), 1, 1)
    task = sr.Task("universal", "universal", "attack", "test", Universal(steps=20), (radius,), factors)
    splits = {"test": (x[kept[:50]], y[kept[:50]]), "validation": (x[kept[50:]], y[kept[50:]])}
    found = sr.attack(model, splits, task, progress=False)
    threat = ThreatModel(norm, radius)
    start = threat.start(found.original, Draws(0, "control"), found.index)
    random = (model.logits(start).argmax(dim=1) != found.y).sum()
    assert int(found.success.sum()) > int(random) + 10
    weight = layer.weight[1 - usual] - layer.weight[usual]
    best = {"linf": weight.abs().sum(), "l2": weight.norm(), "l1": weight.abs().max()}[norm] * radius
    gained = ((found.x - found.original).flatten(1) @ weight)[found.success]
    assert bool((gained > 0.9 * best).all()) or norm == "l1"  # whose best single entry runs into the bounds


def test_batches_do_not_matter(bars: Any) -> None:
    first = bars.attack(Universal(steps=4), 20)
    factors = sr.plugin.task.AttackSettings("l0", sr.create("margin"), sr.create("own"), 1, 1)
    task = sr.Task("attack", "attack", "attack", "test", Universal(steps=4), (20.0,), factors)
    reversed_test = bars.splits["test"].select(range(99, -1, -1))
    other = sr.attack(bars.model, {**bars.splits, "test": reversed_test}, task, batch_size=7, progress=False)
    assert torch.equal(first.x, other.x.flip(0))


def test_event_lists_and_bad_settings_are_refused() -> None:
    for settings_ in ({"steps": 0}, {"samples": 0}, {"exchange": 2.0}):
        with pytest.raises(InputError, match="expected"):
            Universal(**settings_)  # type: ignore[arg-type]
