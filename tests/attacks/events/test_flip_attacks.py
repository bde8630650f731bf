"""Attacks on sets of flips: legal results, closed forms on linear nets, random flips beaten, batches, other factors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.common.batching import BatchSizer
from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.errors import InputError
from snnrobust.objectives.logits import Margin
from snnrobust.plugin import AnyEstimator, Objective, Optimiser, registry
from snnrobust.search.attack_context import AttackContext, SearchResult
from snnrobust.search.loop import perturb, search
from snnrobust.search.queries import ModelQueries
from snnrobust.search.scoring import Scorer
from snnrobust.spike_gradients.swap import Own
from snnrobust.testing.attacks import check_attack
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.threat_models.threat_model import Domain, Norm, ThreatModel
from snnrobust.threat_models.verify import verify
from snnrobust_attacks.estimators.raised_threshold import RaisedThreshold
from snnrobust_attacks.events.fewest_flips import FewestFlips
from snnrobust_attacks.events.greedy_flips import GreedyFlips
from snnrobust_attacks.events.random_flips import RandomFlips
from snnrobust_attacks.events.sda import SDA
from snnrobust_attacks.events.spike_flip import SpikeFlip
from snnrobust_attacks.events.spike_flip_pixels import SpikeFlipPixels
from snnrobust_attacks.events.spikefool import SpikeFool

SHORT: list[Any] = [
    SpikeFlip(steps=4),
    SpikeFlip(steps=4, keep="gradient"),
    SDA(steps=3),
    SDA(steps=3, candidates=2, remeasure=False),
    SpikeFool(steps=3, inner=4),
    FewestFlips(steps=12),
    RandomFlips(steps=4),
    GreedyFlips(exhaustive=20, candidates=5),
]


def run(
    model: sr.SpikingModel,
    data: Dataset,
    plugin: Any,
    threat: ThreatModel,
    pool: int = 64,
    objective: Objective | None = None,
    estimator: AnyEstimator | None = None,
    targets: Tensor | None = None,
) -> dict[str, Tensor]:
    rng = Draws(0, "flips")
    queries = ModelQueries(model, objective or Margin(), estimator or Own(), first_draw=rng.number())
    context = AttackContext(
        Scorer(model, 0, 1), queries, data, threat, rng, BatchSizer(pool), True, "flips", targets=targets
    )
    found: list[SearchResult] = []
    with model.session():
        (search if isinstance(plugin, Optimiser) else perturb)(context, plugin, torch.arange(len(data)), found.append)
    order = torch.cat([each.rows for each in found]).argsort()
    return {name: torch.cat([getattr(each, name) for each in found])[order] for name in ("x", "last_x", "withstands")}


def flips(x: Tensor, x0: Tensor) -> Tensor:
    return (x != x0).flatten(1).sum(dim=1)


# ---- every result is legal ---------------------------------------------------------------------------------------


def random_case(seed: int, domain: Domain) -> tuple[sr.SpikingModel, Dataset, ThreatModel]:
    """A random spiking net, inputs of its domain with random labels, and a random budget."""
    generator = torch.Generator().manual_seed(seed)

    def pick(*among: Any) -> Any:
        return among[int(torch.randint(len(among), (1,), generator=generator))]

    steps, shape, classes = pick(1, 3, 5), pick((6,), (1, 3, 3), (2, 2, 3)), pick(2, 3, 5)
    size = int(torch.tensor(shape).prod())
    layers = nn.Linear(size, 7), nn.Linear(7, classes)
    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * pick(0.0, 0.5, 2.0))
            layer.bias.copy_(torch.rand(layer.bias.shape, generator=generator) * 0.4)
    node = neuron.LIFNode(tau=2.0, decay_input=False, surrogate_function=surrogate.ATan(), step_mode="m")
    net = nn.Sequential(nn.Flatten(2), layers[0], node, layers[1])
    high = 1.0 if domain == "binary" else pick(2.0, 5.0)
    model = sr.wrap(net, encoder=None, domain=domain, bounds=(0.0, high), name="random")
    x = (torch.rand(3, steps, *shape, generator=generator) * (high + 1) * pick(0.3, 1.0)).floor().clamp_max(high)
    y = torch.randint(classes, (3,), generator=generator)
    norm: Norm = pick("l0", "l0", "l1", "linf") if domain == "binary" else "l0"
    budget = pick(0, 1, 2, 5, 1000) if norm != "linf" else pick(0, 1)
    limits = pick((), (), (("additions", 1.0),), (("l0-step", 1.0), ("deletions", 0.0))) if norm == "l0" else ()
    return model, Dataset.of(x, y), ThreatModel(norm, budget, model.bounds, domain, limits)


def check_case(plugin: Any, seed: int, domain: Domain) -> None:
    model, data, threat = random_case(seed, domain)
    found = run(model, data, plugin, threat)
    for x in (found["x"], found["last_x"]):
        verify(x, data.x, threat, [0, 1, 2], "flips")
        if threat.norm != "linf":
            assert int(flips(x, data.x).max()) <= threat.epsilon
        if threat.epsilon == 0:
            assert torch.equal(x, data.x)


@given(seed=st.integers(0, 10**6), plugin=st.sampled_from(SHORT), domain=st.sampled_from(["binary", "integer"]))
@settings(max_examples=30, deadline=None)
def test_every_result_is_legal(seed: int, plugin: Any, domain: Domain) -> None:
    check_case(plugin, seed, domain)


@pytest.mark.slow
@pytest.mark.parametrize("domain", ["binary", "integer"])
@pytest.mark.parametrize("plugin", SHORT, ids=repr)
def test_a_thousand_results_are_legal(plugin: Any, domain: Domain) -> None:
    for seed in range(334):  # of three samples each
        check_case(plugin, seed, domain)


def test_padding_is_left_alone() -> None:
    model, data = tiny_model(temporal=True), tiny_data(temporal=True)
    lengths = torch.tensor([2, 3, 4] * 4)
    padded = Dataset.of(data.x, data.y, lengths=lengths)
    for plugin in SHORT:
        found = run(model, padded, plugin, ThreatModel("l0", 50, domain="binary"))["x"]
        changed = (found != padded.x).any(dim=2)  # [N, T]
        assert changed.any()
        assert not changed[torch.arange(4) >= lengths[:, None]].any()


# ---- the least number of flips, in closed form -------------------------------------------------------------------


def linear(domain: Domain, shape: tuple[int, ...], count: int = 20) -> tuple[sr.SpikingModel, Dataset, Tensor]:
    """A linear net of two classes, inputs that it is right about, and how many changed entries mislead it, [N]."""
    generator = torch.Generator().manual_seed(3)
    size, high = int(torch.tensor(shape).prod()), 1.0 if domain == "binary" else 5.0
    layer = nn.Linear(size, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(2, size, generator=generator))
    net = nn.Sequential(nn.Flatten(), layer)
    model = sr.wrap(net, layout="N", bounds=(0.0, high), domain=domain, name="linear")
    x = (torch.rand(count, *shape, generator=generator) * (high + 1)).floor().clamp_max(high)
    y = model.logits(x).argmax(dim=1).detach()
    weight = (layer.weight[0] - layer.weight[1]).detach()
    flat, against = x.flatten(1), torch.where(y == 0, 1.0, -1.0)[:, None] * weight  # margin = against x
    gain = torch.maximum(against * flat, -against * (high - flat)).sort(dim=1, descending=True).values
    left = (against * flat).sum(dim=1, keepdim=True) - gain.cumsum(dim=1)
    return model, Dataset.of(x, y), (left >= 0).sum(dim=1) + 1


@pytest.mark.parametrize("domain", ["binary", "integer"])
@pytest.mark.parametrize(
    "plugin", [SDA(), GreedyFlips(), GreedyFlips(exhaustive=0, candidates=3), SpikeFool()], ids=repr
)
def test_the_least_number_of_flips_of_a_linear_net(plugin: Any, domain: Domain) -> None:
    model, data, least = linear(domain, (4, 10))
    assert len(set(least.tolist())) > 2  # easy and hard samples
    found = run(model, data, plugin, ThreatModel("l0", 40, model.bounds, domain))
    assert not found["withstands"].any()
    assert torch.equal(flips(found["x"], data.x), least)
    budget = int(least.float().median())
    held = run(model, data, plugin, ThreatModel("l0", budget, model.bounds, domain))
    assert torch.equal(held["withstands"], least > budget)
    assert int(flips(held["x"], data.x).max()) <= budget


def test_many_flips_of_a_large_linear_net() -> None:
    model, data, least = linear("binary", (10, 200), count=6)
    assert int(least.max()) > 20
    for plugin in (SDA(), SpikeFool()):
        found = run(model, data, plugin, ThreatModel("l0", 2000, domain="binary"))
        assert torch.equal(flips(found["x"], data.x), least), plugin


def test_spike_flip_sets_entries_along_the_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(8, 5, 9, generator=generator) < 0.5).float()
    gradient = torch.randn(8, 5, 9, generator=generator)
    gradient[7] = 0
    plugin, index = SpikeFlip(), torch.arange(8)
    threat, rng, k = ThreatModel("l0", 45, domain="binary"), Draws(0, "x"), torch.zeros(8, dtype=torch.long)
    moved = plugin.step({"x": x}, gradient, torch.zeros(8), x, k, threat, rng, index)["x"]
    changed = (moved != x)[:7]
    assert bool(((moved - x)[:7][changed] * gradient[:7][changed] > 0).all())
    share = gradient.abs() / gradient.flatten(1).abs().amax(dim=1)[:, None, None]
    strongest = (share == 1) & (((gradient > 0) & (x == 0)) | ((gradient < 0) & (x == 1)))
    assert bool((moved != x)[strongest].all())  # it is drawn for certain
    legal = (gradient[:7] > 0) == (x[:7] == 0)
    assert float(changed[legal].float().mean()) == pytest.approx(float(share[:7][legal].mean()), abs=0.08)
    assert 0 < int((moved != x)[7].sum()) < 10  # 5 % of 45 at random, without a gradient


def test_the_kept_flips_are_those_that_the_gradient_values_most() -> None:
    x0 = torch.zeros(1, 6)
    x = torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0, 0.0]])
    gradient = torch.tensor([[-5.0, 1.0, 0.0, 0.0, 2.0, 5.0]])
    plugin, threat = SpikeFlip(keep="gradient"), ThreatModel("l0", 1, domain="binary")
    zero = torch.zeros(1, dtype=torch.long)
    moved = plugin.step({"x": x}, gradient, torch.zeros(1), x0, zero, threat, Draws(0, "x"), zero)["x"]
    assert moved.tolist() == [[0.0, 0.0, 0.0, 0.0, 0.0, 1.0]]


def test_random_flips_spend_the_budget_evenly() -> None:
    x0, plugin, index = torch.zeros(200, 10), RandomFlips(), torch.arange(200)
    threat, rng, k = ThreatModel("l0", 3.0, domain="binary"), Draws(0, "x"), torch.zeros(200, dtype=torch.long)
    moved = plugin.step({"x": x0}, None, torch.zeros(200), x0, k, threat, rng, index)["x"]
    assert flips(moved, x0).tolist() == [3] * 200
    assert bool(((moved.sum(dim=0) - 60).abs() < 5 * (200 * 0.3 * 0.7) ** 0.5).all())
    again = plugin.step({"x": moved}, None, torch.zeros(200), x0, k + 1, threat, rng, index)["x"]
    assert flips(again, moved).float().mean() == pytest.approx(6 * 0.7, abs=0.6)  # an independent set of three


# ---- a trained net -----------------------------------------------------------------------------------------------


def noisy_patterns(count: int, seed: int) -> Dataset:
    """Sequences [N, 6, 40] of three classes: an entry spikes at a rate of .3 or .1, by class."""
    rates = torch.where(torch.rand(3, 1, 40, generator=torch.Generator().manual_seed(7)) < 0.4, 0.3, 0.1)
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (count,), generator=generator)
    return Dataset.of((torch.rand(count, 6, 40, generator=generator) < rates[y]).float(), y)


@pytest.fixture(scope="module")
def trained() -> tuple[sr.SpikingModel, Dataset]:
    """A net trained on noisy patterns, and samples that it is right about."""
    torch.manual_seed(0)
    nodes = [
        neuron.LIFNode(tau=2.0, decay_input=False, surrogate_function=surrogate.ATan(), step_mode="m") for _ in "ab"
    ]
    net = nn.Sequential(nn.Flatten(2), nn.Linear(40, 30), nodes[0], nn.Linear(30, 3), nodes[1])
    data, optimiser = noisy_patterns(400, seed=1), torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(8):
        for at in torch.split(torch.randperm(len(data)), 50):
            functional.reset_net(net)
            loss = nn.functional.cross_entropy(5 * net(data.x[at].transpose(0, 1)).mean(dim=0), data.y[at])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimiser.step()
    functional.reset_net(net)
    model, test = sr.wrap(net.eval(), encoder=None, domain="binary", name="trained"), noisy_patterns(80, seed=2)
    right = (model.predict(model.logits(test.x)) == test.y).nonzero()[:40, 0]
    assert len(right) == 40
    return model, Dataset.of(test.x[right], test.y[right])


@pytest.fixture(scope="module")
def by_chance(trained: tuple[sr.SpikingModel, Dataset]) -> int:
    model, data = trained
    broken = ~run(model, data, RandomFlips(steps=50), ThreatModel("l0", 8, domain="binary"))["withstands"]
    return int(broken.sum())


@pytest.mark.parametrize(
    "plugin",
    [SpikeFlip(), SDA(), SpikeFool(inner=10), FewestFlips(steps=200), GreedyFlips(exhaustive=0, candidates=32)],
    ids=repr,
)
def test_random_flips_of_the_same_budget_are_beaten(
    trained: tuple[sr.SpikingModel, Dataset], by_chance: int, plugin: Any
) -> None:
    model, data = trained
    broken = ~run(model, data, plugin, ThreatModel("l0", 8, domain="binary"))["withstands"]
    assert int(broken.sum()) > by_chance + 6


def test_a_wrong_gradient_is_no_better_than_chance(trained: tuple[sr.SpikingModel, Dataset], by_chance: int) -> None:
    """The comparison above can fail."""

    class Away:
        """The objective's opposite."""

        def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
            return -Margin()(logits, y)

    model, data = trained
    threat = ThreatModel("l0", 8, domain="binary")
    assert int((~run(model, data, SpikeFlip(), threat, objective=Away())["withstands"]).sum()) <= by_chance


def test_no_flip_of_a_reduced_set_can_be_taken_back(trained: tuple[sr.SpikingModel, Dataset]) -> None:
    model, data = trained
    data = Dataset.of(data.x[:8], data.y[:8])
    for plugin in (SDA(), SpikeFool(inner=10)):
        found = run(model, data, plugin, ThreatModel("l0", 240, domain="binary"))
        assert not found["withstands"].any()
        for x, x0, y in zip(found["x"], data.x, data.y, strict=True):
            entries = (x != x0).flatten().nonzero()[:, 0]
            fewer = x.flatten().repeat(len(entries), 1)
            fewer[torch.arange(len(entries)), entries] = x0.flatten()[entries]
            assert bool((model.predict(model.logits(fewer.reshape(-1, *x.shape))) == y).all())


# ---- batches, factors, settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("plugin", SHORT, ids=repr)
def test_batch_size_does_not_matter(plugin: Any) -> None:
    model, data = tiny_model(temporal=True), tiny_data(temporal=True)
    threat = ThreatModel("l0", 3, domain="binary")
    whole, *others = (run(model, data, plugin, threat, pool) for pool in (64, 5, 1))
    for other in others:
        assert torch.equal(whole["x"], other["x"])


@pytest.mark.parametrize(
    ("objective", "gradient"),
    [
        ("cross_entropy", "relaxation"),
        ("dlr", "hart-mix"),
        ("targeted-dlr", "triangle"),
        ("per-step", "pdsg-sample"),
        ("graded-margin", "raised-threshold"),
    ],
)
def test_objectives_and_estimators(objective: str, gradient: str) -> None:
    model, data = tiny_model(temporal=True), tiny_data(temporal=True)
    estimator = RaisedThreshold() if gradient == "raised-threshold" else registry.create(gradient)
    chosen = registry.create(objective)
    targets = (data.y + 1) % 3 if getattr(chosen, "targeted", False) else None
    threat = ThreatModel("l0", 24, domain="binary")
    for plugin in SHORT:
        found = run(model, data, plugin, threat, objective=chosen, estimator=estimator, targets=targets)
        verify(found["x"], data.x, threat, data.index.tolist(), "flips")
        assert bool((flips(found["x"], data.x) > 0).any()), plugin


@pytest.mark.parametrize("plugin", [*SHORT, SpikeFlipPixels(steps=3)], ids=repr)
def test_they_conform(plugin: Any) -> None:
    check_attack("mine", plugin)


@pytest.mark.parametrize("plugin", [each for each in SHORT if not isinstance(each, FewestFlips)], ids=repr)
def test_other_inputs_and_norms_are_refused(plugin: Any) -> None:
    def task(norm: str) -> Any:
        return sr.load("flips", norm=norm, epsilon=1, label="mine")

    with pytest.raises(InputError, match=r"expected inputs of domain 'binary' or 'integer' for 'mine', got 'real'"):
        plugin.check(tiny_model(), None, task("l0"))
    with pytest.raises(InputError, match=r"expected norm in .*'l0'.* for 'mine' in domain 'binary', got 'l2'"):
        plugin.check(tiny_model(temporal=True), None, task("l2"))
    plugin.check(tiny_model(temporal=True), None, task("l0"))


@pytest.mark.parametrize(
    ("plugin", "wrong"),
    [
        (SpikeFlip, {"steps": 0}),
        (SpikeFlip, {"share": 0.0}),
        (SpikeFlip, {"keep": "first"}),
        (SDA, {"steps": True}),
        (SDA, {"candidates": 0}),
        (SpikeFool, {"inner": 0}),
        (SpikeFool, {"rivals": 0}),
        (RandomFlips, {"steps": 0}),
        (GreedyFlips, {"candidates": 0}),
        (GreedyFlips, {"exhaustive": -1}),
    ],
    ids=repr,
)
def test_settings_out_of_range(plugin: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"expected {next(iter(wrong))}"):
        plugin(**wrong)


@pytest.mark.parametrize("wrong", [{"stretch": 0.0}, {"overshoot": -1.0}, {"margin": float("inf")}], ids=repr)
def test_lengths_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"expected a finite {next(iter(wrong))}"):
        SpikeFool(**wrong)
