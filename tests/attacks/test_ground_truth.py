"""Searches against exhaustive enumeration: nets so small that every allowed input can be tried.

The flips of binary inputs are enumerated, and the ball around two real inputs is covered by a fine grid. A search must
find nearly every sample that can be broken, and may never claim one that can't.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.common.batching import BatchSizer
from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.objectives.logits import margin
from snnrobust.plugin.task import Task
from snnrobust.search.attack_context import AttackContext, SearchResult
from snnrobust.search.loop import search
from snnrobust.search.queries import ModelQueries
from snnrobust.search.scoring import Scorer
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust.wrapping.model import SpikingModel

RADII = (1, 2, 3)
VARIANTS = list(itertools.product(("normal", "none", "complete", "learnable"), ("hard", "soft", "none"), (False, True)))


def tasks(epsilons: Sequence[float]) -> list[Task]:
    """The search that is compared with the enumeration: the ensemble `standard`, with fewer steps for so few inputs."""
    return [sr.load("standard", norm="l0", epsilon=epsilons, steps=30, queries=300)]


@dataclass(frozen=True)
class Case:
    """A random net with samples that it gets right, since its predictions are the labels."""

    model: SpikingModel
    data: Dataset


def random_net(number: int, width: int, generator: torch.Generator) -> nn.Module:
    """Net `number`: a leak, reset and recurrence in turn, and its own sizes, thresholds and weights."""
    leak, reset, recurrent = VARIANTS[number % len(VARIANTS)]

    def draw(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    hidden = [round(draw(16, 48)) for _ in range(1 + number % 2)]
    modules: list[nn.Module] = []
    along = torch.randn(width, generator=generator)  # a direction that all layers pass on: without it a flip is enough
    for size in [*hidden, 2 + number % 2]:
        lateral = recurrent and len(modules) < 2 * len(hidden)
        options = {"k": draw(0.3, 0.9), "threshold": draw(0.6, 1.4)}
        with torch.random.fork_rng(devices=[]):  # torch initialises from the global generator
            layer = nn.Linear(width, size)
            node = sr.neurons.lif(leak, reset, lateral, features=size if lateral else None, **options)
        with torch.no_grad():
            onto = torch.randn(size, generator=generator)
            layer.weight.copy_((torch.randn(size, width, generator=generator) + 2 * onto[:, None] * along) / width**0.5)
            along = onto
            # Inputs and spikes are about 1/2 on average: their mean effect is taken out, so that no class always wins.
            layer.bias.copy_(0.5 - 0.5 * layer.weight.sum(dim=1) + 0.4 * torch.rand(size, generator=generator))
            for weight in node.parameters():
                if weight.ndim == 2:
                    weight.copy_(torch.randn(weight.shape, generator=generator) * 0.5 / size**0.5)
        modules += [layer, node]
        width = size
    return nn.Sequential(*modules)


def case(number: int, shape: tuple[int, ...], domain: str = "binary", count: int = 20) -> Case:
    """A net of at least two classes, and its random inputs of largest margin: others break at once."""
    for attempt in itertools.count():
        generator = torch.Generator().manual_seed(1000 * attempt + number)
        net = random_net(number, shape[-1], generator)
        steps, encoder = (4, "repeat") if len(shape) == 1 else (None, None)
        model = sr.wrap(net, name=f"net{number}", steps=steps, encoder=encoder, domain=domain)
        x = torch.rand(400, *shape, generator=generator)
        x = (x < 0.5).float() if domain == "binary" else x
        logits = model.logits(x).detach()
        y = model.predict(logits)
        spoken = y >= 0  # all-zero outputs have no class
        x, y, sure = x[spoken], y[spoken], margin(logits, y.clamp_min(0))[spoken]
        if len(y) > 100 and 0.2 < float((y == 0).float().mean()) < 0.8:
            chosen = sure.argsort(descending=True)[:count]
            return Case(model, Dataset.of(x[chosen], y[chosen], name=f"net{number}"))
    raise AssertionError


def sets(entries: int, size: int) -> Tensor:
    """All choices of exactly `size` of the entries, [M, entries]."""
    rows = list(itertools.combinations(range(entries), size))
    return torch.zeros(len(rows), entries).scatter_(1, torch.tensor(rows), 1.0)


@torch.no_grad()
def breakable(each: Case) -> np.ndarray:
    """Whether some choice of at most r flips makes the net wrong, [radius, sample]."""
    x, y = each.data.x, each.data.y
    found = np.zeros((len(RADII), len(x)), dtype=bool)
    for position, radius in enumerate(RADII):
        flips = sets(x[0].numel(), radius).reshape(-1, *x.shape[1:])
        neighbours = (x[:, None] - flips).abs()  # [N, M, *]
        predicted = each.model.predict(each.model.logits(neighbours.flatten(0, 1))).reshape(len(x), -1)
        found[position] = (predicted != y[:, None]).any(dim=1).numpy()
    return np.logical_or.accumulate(found, axis=0)


def check_flips(numbers: Sequence[int]) -> None:
    """The union over `tasks` finds 95 % of what can be broken, at each radius and of the hard ones, and no more."""
    found, there, hard, hard_there = np.zeros(len(RADII)), np.zeros(len(RADII)), 0, 0
    for number in numbers:
        each = case(number, (16,) if number % 4 < 2 else (4, 4))
        truth = breakable(each)
        report = sr.evaluate(each.model, (each.data.x, each.data.y), tasks(RADII), evidence="none")
        union = np.zeros_like(truth)
        for label in report.labels("attack"):
            broken = ~report.robust(label)
            assert not (broken & ~truth).any(), f"{label} breaks what cannot be broken in net {number}"
            union |= broken
        assert np.allclose(report.worst_case().value, 1 - union.mean(axis=1))
        found, there = found + union.sum(axis=1), there + truth.sum(axis=1)
        fresh = truth[1:] & ~truth[:-1]  # one flip fewer is not enough
        hard, hard_there = hard + int((union[1:] & fresh).sum()), hard_there + int(fresh.sum())
    assert (there > 0).all()
    assert there[0] < 0.9 * 20 * len(numbers)  # some are robust: a search that claims to break all would fail here
    assert (found >= 0.95 * there).all(), (found, there)
    assert hard >= 0.9 * hard_there > 0, (hard, hard_there)


def test_flips_find_what_enumeration_finds() -> None:
    check_flips([2, 14, 21])


@pytest.mark.slow
def test_flips_find_what_enumeration_finds_in_every_variant() -> None:
    check_flips(range(len(VARIANTS)))


def test_a_search_that_hardly_looks_misses_what_enumeration_finds() -> None:
    """Negative control: one random set per sample is no search, and the enumeration shows it."""
    each = case(14, (4, 4))
    truth = breakable(each)
    lazy = sr.load("random-search", norm="l0", epsilon=RADII, steps=1)
    report = sr.evaluate(each.model, (each.data.x, each.data.y), [lazy], evidence="none")
    assert (~report.robust("random-search")).sum() < 0.6 * truth.sum()


def smallest(broken: np.ndarray) -> np.ndarray:
    """The smallest radius at which each sample breaks, [sample]; infinite where none does."""
    return np.where(broken.any(axis=0), np.array(RADII)[broken.argmax(axis=0)], np.inf)


def check_smallest_budgets(numbers: Sequence[int]) -> None:
    """`standard` on 16 inputs x 4 steps, 43,744 sets of up to 3 flips: nearly as few flips as are enough."""
    found, there, excess = 0, 0, []
    for number in numbers:
        each = case(number, (4, 16), count=10)
        truth = breakable(each)
        task = sr.load("standard", norm="l0", epsilon=RADII)
        broken = ~sr.evaluate(each.model, (each.data.x, each.data.y), [task], evidence="none").robust("standard")
        assert not (broken & ~truth).any(), number
        found, there = found + int(broken[-1].sum()), there + int(truth[-1].sum())
        both = broken[-1]
        excess += (smallest(broken)[both] - smallest(truth)[both]).tolist()
    assert 0 < there < 10 * len(numbers), there
    assert found >= 0.95 * there, (found, there)
    assert np.mean(excess) <= 0.1, np.mean(excess)


@pytest.mark.slow
def test_standard_finds_the_smallest_number_of_flips_of_twenty_nets() -> None:
    check_smallest_budgets(range(20))


def retimings(x: Tensor, reach: int) -> Tensor:
    """All retimings of a binary input [T, F] with shifts of up to `reach` steps, without repetition, [M, T, F]."""
    steps, features = x.shape
    lines = []
    for line in range(features):
        at = x[:, line].nonzero()[:, 0].tolist()
        places = [range(max(0, t - reach), min(steps, t + reach + 1)) for t in at]
        # Sorted times in order: on a binary line the matching in order has the least largest shift.
        lines.append(sorted({each for each in itertools.product(*places) if list(each) == sorted(set(each))}))
    found = []
    for chosen in itertools.product(*lines):
        moved = torch.zeros_like(x)
        for line, at in enumerate(chosen):
            moved[list(at), line] = 1
        found.append(moved)
    return torch.stack(found)


def shifts(moved: Tensor, x: Tensor) -> dict[str, Tensor]:
    """The largest shift, the total and the number of moved spikes of retimings [M, T, F] of x [T, F], each [M]."""
    lines = (moved - x).cumsum(dim=1).abs().sum(dim=(1, 2))
    times = torch.stack([torch.stack([each.T.nonzero()[:, 1], x.T.nonzero()[:, 1]]) for each in moved])
    return {
        "shift-linf": (times[:, 0] - times[:, 1]).abs().amax(dim=1),
        "shift-l1": lines,
        "shift-l0": (moved - x).clamp_min(0).sum(dim=(1, 2)),
    }


def spiking_case(number: int) -> Case:
    """A net with samples [6, 8] of at most 6 spikes that it gets right."""
    for attempt in itertools.count():
        generator = torch.Generator().manual_seed(7000 * attempt + number)
        net = random_net(number, 8, generator)
        with torch.no_grad():
            net[0].weight *= 3  # few spikes have to matter
        model = sr.wrap(net, name=f"net{number}", encoder=None, domain="binary")
        x = torch.zeros(200, 48)
        x = x.scatter(1, torch.rand(200, 48, generator=generator).argsort(dim=1)[:, :6], 1.0).reshape(-1, 6, 8)
        logits = model.logits(x).detach()
        y = model.predict(logits)
        spoken = y >= 0
        x, y, sure = x[spoken], y[spoken], margin(logits, y.clamp_min(0))[spoken]
        if len(y) > 60 and 0.15 < float((y == 0).float().mean()) < 0.85:
            chosen = sure.argsort()[:: len(y) // 8][:6]  # from the smallest margin up
            return Case(model, Dataset.of(x[chosen], y[chosen], name=f"net{number}"))
    raise AssertionError


#: How far enumerated retimings shift each spike, with the budgets: no allowed retiming of six steps shifts one further.
SHIFTED: dict[str, tuple[int, tuple[int, ...]]] = {
    "shift-linf": (2, (1, 2)),
    "shift-l1": (3, (1, 2, 3)),
    "shift-l0": (5, (1, 2, 3)),
}


def check_retimings(numbers: Sequence[int], norm: str, **effort: int) -> None:
    """`standard` against all retimings of up to 2 steps, of a total of up to 3 steps, or of up to 3 spikes."""
    found, there, total = 0, 0, 0
    reach, radii = SHIFTED[norm]
    for number in numbers:
        each = spiking_case(number)
        task = sr.load("standard", norm=norm, epsilon=radii, **effort)
        broken = ~sr.evaluate(each.model, (each.data.x, each.data.y), [task], evidence="none").robust("standard")
        for sample, (x, y) in enumerate(zip(each.data.x, each.data.y, strict=True)):
            every = retimings(x, reach)
            wrong = torch.cat([each.model.predict(each.model.logits(part)) != y for part in every.split(4096)])
            size = shifts(every, x)[norm]
            truth = np.array([bool((wrong & (size <= radius)).any()) for radius in radii])
            assert not (broken[:, sample] & ~truth).any(), (number, sample)
            found, there = found + int((broken[:, sample] & truth).sum()), there + int(truth.sum())
            total += len(radii)
    assert 0 < there < total, (there, total)
    assert found >= 0.95 * there, (found, there, total)


def test_standard_finds_the_retimings_that_enumeration_finds() -> None:
    check_retimings([4], "shift-linf", steps=30, queries=100)


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "nets"), [("shift-linf", 20), ("shift-l1", 8), ("shift-l0", 8)])
def test_standard_finds_the_retimings_of_many_nets(norm: str, nets: int) -> None:
    check_retimings(range(nets), norm, queries=500 if norm != "shift-l1" else 2000)


class LinearReadOut(nn.Module):
    """Two logits: the weighted sum of all entries of a sequence [T, N, F] against a constant."""

    def __init__(self, weight: Tensor, bias: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)  # (T, F)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 2]."""
        score = (x * self.weight[:, None]).sum(dim=(0, 2)) + self.bias
        return torch.stack([score, -score], dim=1)


def check_planted(numbers: Sequence[int], samples: int) -> None:
    """Linear read-outs of 2000 entries whose smallest number of flips, 4 to 8, is known from the sorted gains."""
    excess = []
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        weight = torch.randn(20, 100, generator=generator)
        x = (torch.rand(samples, 20, 100, generator=generator) < 0.3).float()
        gain = ((1 - 2 * x) * -weight).flatten(1).sort(dim=1, descending=True).values  # what each flip takes off
        planted = 4 + torch.arange(samples) % 5
        most, less = (
            gain.cumsum(dim=1).gather(1, planted[:, None] - 1),
            gain.cumsum(dim=1).gather(1, planted[:, None] - 2),
        )
        for sample, flips in enumerate(planted.tolist()):
            score = float((x[sample] * weight).sum())
            between = 0.3 * float(most[sample]) + 0.7 * float(less[sample])
            net = LinearReadOut(weight, between - score)
            model = sr.wrap(net, encoder=None, domain="binary", out_layout="N")
            radii = list(range(flips - 1, flips + 3))
            task = sr.load("standard", norm="l0", epsilon=radii)
            report = sr.evaluate(model, (x[[sample]], torch.tensor([0])), [task], evidence="none", progress=False)
            broken = ~report.robust("standard")[:, 0]
            assert not broken[0], (number, sample)  # what cannot be
            assert broken.any(), (number, sample)
            excess.append(radii[int(broken.argmax())] - flips)
    assert np.mean(excess) <= 0.1, excess


def test_a_planted_number_of_flips_is_found() -> None:
    check_planted([0], samples=1)


@pytest.mark.slow
def test_planted_numbers_of_flips_are_found() -> None:
    check_planted([0, 1], samples=10)


def grid(x: Tensor, epsilon: float, points: int) -> Tensor:
    """A grid over ball and box around x [N, 2], [N, points^2, 2]."""
    low, high = (x - epsilon).clamp_min(0), (x + epsilon).clamp_max(1)
    share = torch.cartesian_prod(torch.linspace(0, 1, points), torch.linspace(0, 1, points))
    return low[:, None] + share * (high - low)[:, None]


def examples(each: Case, task: Task, epsilon: float, restart: int) -> Tensor:
    """The strongest example of each sample, [N, 2]."""
    attack = task.attack
    assert attack is not None
    rng = Draws(0, "ground truth").sub(restart)
    queries = ModelQueries(each.model, attack.objective, attack.gradient, first_draw=rng.number())
    classes = each.model.logits(each.data.x[:1]).shape[1]
    context = AttackContext(
        Scorer(each.model, 0, 1),
        queries,
        each.data,
        ThreatModel("linf", epsilon),
        rng,
        BatchSizer(64),
        True,
        task.label,
        targets=(each.data.y + 1 + restart % (classes - 1)) % classes if attack.targeted else None,
    )
    found: list[SearchResult] = []
    with each.model.session():
        search(context, task.plugin, torch.arange(len(each.data)), found.append)
    order = torch.cat([one.rows for one in found]).argsort()
    return torch.cat([one.x for one in found])[order]


@torch.no_grad()
def check_ball(numbers: Sequence[int], points: int, epsilon: float = 0.06) -> tuple[int, int, int, int]:
    """Counts: samples that the grid breaks, of these found by searches, breaks between grid points, all samples."""
    searches = [
        (member, restart)
        for member, attack in sr.load("standard", epsilon=epsilon, steps=20, queries=100).attacks
        for restart in range(attack.restarts)
    ]
    there = met = between = total = 0
    for number in numbers:
        each = case(number, (2,), "real", count=10)
        x, y = each.data.x, each.data.y
        truth = torch.stack(
            [
                (each.model.predict(each.model.logits(near)) != label).any()
                for near, label in zip(grid(x, epsilon, points), y, strict=True)
            ]
        )
        union = torch.zeros(len(x), dtype=torch.bool)
        for task, restart in searches:
            with torch.enable_grad():
                near = examples(each, task, epsilon, restart)
            assert float((near - x).abs().max()) <= epsilon + 1e-6
            assert 0 <= float(near.min()) <= float(near.max()) <= 1
            # Scored by the net itself, one sample at a time, without code of the search.
            union |= torch.cat([each.model.predict(each.model.logits(row[None])) for row in near]) != y
        there, met = there + int(truth.sum()), met + int((truth & union).sum())
        between, total = between + int((union & ~truth).sum()), total + len(x)
    return there, met, between, total


def test_gradient_searches_find_what_a_grid_finds() -> None:
    there, met, between, total = check_ball([12], points=61)
    assert 0 < there < total, (there, total)
    assert met >= 0.95 * there, (there, met, between, total)


@pytest.mark.slow
def test_gradient_searches_find_what_a_fine_grid_finds_in_every_variant() -> None:
    there, met, between, total = check_ball(range(len(VARIANTS)), points=61)
    assert 0 < there < total, (there, total)
    assert met >= 0.95 * there, (there, met, between, total)
    assert between <= 0.05 * total, (there, met, between, total)  # the grid is fine enough as ground truth
