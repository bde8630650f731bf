"""Gumbel-softmax on raw events: always allowed, independent of the batch, and stronger than random changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.data.evaluation_data import prepare
from snnrobust.errors import InputError
from snnrobust.events import Binning, Events, Sensor, by_number, by_time, dataset, to_events, verify
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.threat_models.event_lists import event_distance
from snnrobust.threat_models.threat_model import Limit, Norm, ThreatModel
from snnrobust.wrapping.decision import predict
from snnrobust_attacks.events.gumbel_events import GumbelEvents

SENSOR = Sensor(height=8, width=8, duration=100)
STEPS = 5


def task(norm: Norm, epsilon: Any, limits: dict[str, float] | None = None, **parameters: Any) -> sr.Task:
    loaded = sr.load(
        "minimum-norm", norm=norm, epsilon=epsilon, limits=limits, objective=parameters.pop("objective", "margin")
    )
    return replace(loaded, plugin=GumbelEvents(**parameters), name="gumbel-events", label="gumbel-events")


def moving_edges(count: int, seed: int, spare: int) -> Dataset:
    """An edge that moves to the left (class 0) or to the right (class 1), among noise."""
    generator, made = np.random.default_rng(seed), []
    for label in np.arange(count) % 2:
        size = generator.integers(30, 50)
        t = np.sort(generator.integers(0, 100, size))
        place = t / 100 * 7
        x = np.rint((place if label else 7 - place) + generator.normal(0, 0.8, size)).clip(0, 7).astype(int)
        noise = generator.random(size) < 0.15
        x[noise] = generator.integers(0, 8, noise.sum())
        made.append(Events(t, x, generator.integers(0, 8, size), generator.integers(0, 2, size), sensor=SENSOR))
    return dataset(made, np.arange(count) % 2, spare=spare)


@cache
def trained(by: str = "time") -> sr.SpikingModel:
    """A small SNN that tells the direction of motion."""
    binning: Binning = by_time(SENSOR) if by == "time" else by_number(SENSOR)
    torch.manual_seed(0)
    net = nn.Sequential(
        layer.Flatten(step_mode="m"),
        layer.Linear(128, 64, step_mode="m"),
        neuron.LIFNode(tau=5.0, decay_input=False, v_threshold=0.5, step_mode="m"),
        layer.Linear(64, 2, step_mode="m"),
    )
    data = moving_edges(600, 1, 0)
    frames = binning(data.x, STEPS).transpose(0, 1)
    optimiser = torch.optim.Adam(net.parameters(), 1e-2, weight_decay=1e-3)
    for _ in range(40):
        functional.reset_net(net)
        loss = nn.functional.cross_entropy(net(frames).mean(dim=0), data.y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    functional.reset_net(net)
    return sr.wrap(net, steps=STEPS, encoder=binning, domain="events")


def right(model: sr.SpikingModel, data: Dataset) -> Tensor:
    with torch.no_grad():
        return predict(model.logits(data.x)) == data.y


@pytest.mark.parametrize(
    ("by", "norm", "epsilon"),
    [("time", "l0", 4), ("time", "additions", 4), ("time", "deletions", 4), ("number", "l0", 4)],
)
def test_it_breaks_more_than_random_changes_of_the_same_numbers(by: str, norm: Norm, epsilon: int) -> None:
    """Against ten random draws for each of 100 samples, each with as many events added and removed."""
    model, data = trained(by), moving_edges(160, 2, spare=epsilon)
    data = data.select(right(model, data).nonzero()[:100, 0])
    assert len(data) == 100
    found = sr.attack(model, data, task(norm, epsilon, steps=20, candidates=300), progress=False)
    verify(found.x, data.x, model.threat_model(norm, epsilon))
    broken = ~right(model, replace(data, x=found.x))
    again = dataset(to_events(found.x, SENSOR), data.y)
    assert torch.equal(~right(model, again), broken)  # counted after binning the emitted events again

    by_chance = torch.zeros(100, dtype=torch.bool)
    added, removed = (event_distance(found.x, data.x, each).int() for each in ("additions", "deletions"))
    for k in range(100):
        limits: tuple[Limit, ...] = (("additions", float(added[k])), ("deletions", float(removed[k])))
        threat = model.threat_model("l0", float(added[k] + removed[k]), limits)
        one = data.x[k : k + 1].expand(10, -1, -1)
        x = threat.start(one, Draws(0, "random"), data.index[k : k + 1].expand(10), torch.arange(10))
        by_chance[k] = bool((predict(model.logits(x)) != data.y[k]).any())
    better, worse = int((broken & ~by_chance).sum()), int((by_chance & ~broken).sum())
    assert better >= 15
    assert better >= 5 * worse


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    case=st.sampled_from(
        [
            ("l0", {}),
            ("l1", {}),
            ("additions", {}),
            ("deletions", {}),
            ("l0", {"additions": 1}),
            ("additions", {"deletions": 2}),
        ]
    ),
    epsilon=st.integers(0, 7),
    polarities=st.integers(1, 3),
)
def test_every_list_is_allowed(seed: int, case: tuple[Norm, dict[str, float]], epsilon: int, polarities: int) -> None:
    """40 random lists a case, an empty one among them, attacked through an oracle with random gradients."""
    norm, limits = case
    sensor = Sensor(height=3, width=2, duration=9, polarities=polarities)
    generator = np.random.default_rng(seed)
    sizes = (9, 2, 3, polarities)
    x = np.stack([generator.integers(0, size, (40, 10)) for size in sizes] + [generator.random((40, 10)) < 0.5], axis=2)
    x0 = torch.from_numpy(x.astype(np.float32))
    x0[0, :, 4] = 0
    threat = ThreatModel(norm, epsilon, (0.0, 9.0), "events", tuple(limits.items()), sensor)
    index = torch.arange(40)
    attack = GumbelEvents(steps=6, candidates=12)
    found = attack.perturb(RandomOracle(seed), x0, torch.zeros(40, dtype=torch.long), threat, Draws(seed, "g"), index)
    verify(found, x0, threat)
    if epsilon and norm != "deletions":
        assert bool((found != x0).flatten(1).any(dim=1)[1:].all())


class RandomOracle:
    """Random gradients and values; never fooled."""

    static = True

    def __init__(self, seed: int) -> None:
        self._rng = Draws(seed, "oracle")

    def gradient(self, x: Tensor, y: Tensor, index: Tensor, query: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        logits = torch.tensor([[1.0, 0.0]]).expand(len(x), 2)
        value = self._rng.uniform(index, (1,), query)[:, 0]
        return self._rng.sub("gradient").normal(index, x.shape[1:], query), value, logits


def test_outcomes_do_not_depend_on_the_batch() -> None:
    model, data = trained(), moving_edges(12, 3, spare=3)
    together = sr.attack(model, data, task("l0", 3, steps=8, candidates=100), progress=False)
    apart = sr.attack(model, data, task("l0", 3, steps=8, candidates=100), batch_size=5, progress=False)
    alone = sr.attack(model, data.select([7]), task("l0", 3, steps=8, candidates=100), progress=False)
    assert torch.equal(together.x, apart.x)
    assert torch.equal(together.x[7:8], alone.x)


class Linear(nn.Module):
    """Logits (0, w . frames), so that the gain of each event is known."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:  # (N, T, C, H, W)
        score = (x * self.weight).flatten(1).sum(dim=1)
        return torch.stack([torch.zeros_like(score) + 0.5, score + 100], dim=1)


@pytest.mark.parametrize("norm", ["deletions", "additions"])
def test_on_a_linear_net_it_makes_the_best_changes(norm: Norm) -> None:
    """Each event has a gain of its own: the best three removals, or three times the best place among all."""
    sensor = Sensor(height=3, width=3, duration=2)
    weight = torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    model = sr.wrap(Linear(weight), layout="NT", steps=2, encoder=by_time(sensor), domain="events", out_layout="N")
    generator = np.random.default_rng(0)
    made = [
        Events(np.sort(generator.integers(0, 2, 12)), *(generator.integers(0, n, 12) for n in (3, 3, 2)), sensor=sensor)
        for _ in range(8)
    ]
    data = dataset(made, [1] * 8, spare=3)
    found = sr.attack(model, data, task(norm, 3, steps=60, candidates=400), progress=False)
    lowered = (model.logits(data.x) - model.logits(found.x))[:, 1]
    worth = weight[tuple(data.x[:, :12, each].long() for each in (0, 3, 2, 1))]  # (N, 12)
    best = worth.topk(3, dim=1).values.clamp_min(0).sum(dim=1) if norm == "deletions" else -3 * weight.min().expand(8)
    assert bool((lowered <= best + 1e-4).all())
    assert bool((lowered >= (0.999 if norm == "deletions" else 0.9) * best).all())


@dataclass(frozen=True)
class Towards:
    """The lead of a target class."""

    targeted: ClassVar[bool] = True

    def __call__(self, logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
        others = logits.scatter(1, target[:, None], -torch.inf).amax(dim=1)
        return logits.gather(1, target[:, None])[:, 0] - others


def test_a_targeted_objective_works_as_well() -> None:
    model, data = trained(), moving_edges(40, 4, spare=8)
    before = int(right(model, data).sum())
    found = sr.attack(model, data, task("l0", 8, steps=30, candidates=300, objective=Towards()), progress=False)
    assert before > 30
    assert int((~found.success).sum()) < before / 2
    verify(found.x, data.x, model.threat_model("l0", 8))


def test_evaluate_runs_it_from_end_to_end() -> None:
    model, data = trained(), moving_edges(20, 5, spare=8)
    report = sr.evaluate(
        model, data, [task("l0", [0, 2, 8], steps=10, candidates=200)], evidence="none", progress=False, examples=20
    )
    curve = report.curve("gumbel-events").value
    assert curve[0] == report.clean()["correct"].mean()
    assert curve[0] >= curve[1] >= curve[2]
    assert curve[2] < curve[0] - 0.3


@pytest.mark.parametrize(
    ("norm", "epsilon", "limits", "words"),
    [
        ("l0", 5, None, r"room for 5 more events .*got 4 absent rows; make the data with .*spare=5"),
        ("additions", 9, None, r"room for 9 more events"),
        ("events", 1, None, r"norm in \['l0', 'l1', 'additions', 'deletions'\]"),
        ("shift-l1", 1, None, r"norm in \['l0'"),
    ],
)
def test_what_it_can_not_do_is_refused(norm: Norm, epsilon: int, limits: dict[str, float] | None, words: str) -> None:
    model, data = trained(), moving_edges(4, 6, spare=0)
    data = replace(data, x=nn.functional.pad(data.x, (0, 0, 0, 4)))
    shortest = int((data.x[..., 4] < 0.5).sum(dim=1).min())
    assert shortest == 4
    with pytest.raises(InputError, match=words):
        sr.attack(model, data, task(norm, epsilon, limits), progress=False)


def test_room_is_needed_for_additions_alone() -> None:
    model, data = trained(), moving_edges(4, 6, spare=1)
    plugin = GumbelEvents()
    plugin.check(model, prepare(data), task("deletions", 5))
    plugin.check(model, prepare(data), task("l0", 5, {"additions": 1}))


def test_grids_are_refused_with_the_way_out() -> None:
    with pytest.raises(
        InputError, match=r"event lists for 'gumbel-events', got domain 'real'; wrap with domain='events'"
    ):
        GumbelEvents().check(tiny_model(), prepare(tiny_data()), task("l0", 2))


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"steps": 1}, "steps to be a whole number >= 2"),
        ({"candidates": 0}, "candidates"),
        ({"learning_rate": 0.0}, "learning_rate > 0"),
        ({"coldest": 0.0}, "coldest > 0"),
        ({"penalty": -1.0}, "penalty >= 0"),
    ],
)
def test_parameters_out_of_range_are_refused(parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        GumbelEvents(**parameters)
