"""The bridge to torchattacks on inputs in time: folding, legal events, padded sequences, and what is refused."""

from __future__ import annotations

import random
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import layer, neuron, surrogate
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.common.random import Draws, global_rng
from snnrobust.data.batch import Batch
from snnrobust.data.evaluation_data import prepare
from snnrobust.errors import InputError, PluginError
from snnrobust.objectives.logits import CrossEntropy
from snnrobust.search.batch_queries import BatchQueries
from snnrobust.search.queries import ModelQueries
from snnrobust.spike_gradients.swap import Own
from snnrobust.threat_models.threat_model import Domain, Norm, ThreatModel
from snnrobust.threat_models.verify import verify
from snnrobust_attacks.torchattacks import Torchattacks, _folded, _legal

reference = pytest.importorskip("torchattacks", reason="the extra 'torchattacks' is not installed")

N, STEPS, CHANNELS, SIZE = 6, 4, 2, 8
SHAPE = (STEPS, CHANNELS, SIZE, SIZE)
INDEX = torch.arange(N)


def spiking(domain: Domain = "real", bounds: tuple[float, float] = (0.0, 1.0)) -> sr.SpikingModel:
    """A small convolutional net on events [N, T, 2, 8, 8]."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            layer.Conv2d(CHANNELS, 4, 3, stride=2, step_mode="m"),
            neuron.LIFNode(step_mode="m", v_threshold=0.1, surrogate_function=surrogate.ATan()),
            nn.Flatten(2),
            nn.Linear(4 * 9, 10),
            neuron.LIFNode(step_mode="m", v_threshold=0.1, surrogate_function=surrogate.ATan()),
        )
    return sr.wrap(net, encoder=None, domain=domain, bounds=bounds)


class PerStep(nn.Module):
    """Outputs [N, T, K] that are linear in the input, with weights [T, D, K] that differ between steps."""

    def __init__(self, weights: Tensor, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weights, self.shape = nn.Parameter(weights), shape

    def forward(self, x: Tensor) -> Tensor:
        """Outputs for x, which must have the shape that the net was made for."""
        if x.shape[1:] != self.shape:
            raise ValueError(f"inputs of shape {tuple(x.shape[1:])}")
        return torch.einsum("ntd,tdk->ntk", x.flatten(2), self.weights)


def linear(shape: tuple[int, ...], domain: Domain = "real") -> tuple[sr.SpikingModel, Tensor]:
    """A model with two classes, and its weights [T, D, 2]."""
    features = int(np.prod(shape[1:]))
    weights = torch.randn(shape[0], features, 2, generator=torch.Generator().manual_seed(3))
    return sr.wrap(PerStep(weights, shape), layout="NT", encoder=None, domain=domain), weights


def inputs(shape: tuple[int, ...] = SHAPE, domain: Domain = "real", high: int = 1, count: int = N) -> Tensor:
    unit = torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))
    if domain == "binary":
        return (unit < 0.2).float()
    return (unit * (high + 1)).floor().clamp_max(high) * (unit < 0.5) if domain == "integer" else unit


def run(
    plugin: Torchattacks,
    model: sr.SpikingModel,
    x: Tensor,
    epsilon: float,
    norm: Norm = "linf",
    y: Tensor | None = None,
) -> Tensor:
    queries = ModelQueries(model, CrossEntropy(), Own())
    y = model.predict(model.logits(x)).clamp_min(0) if y is None else y
    threat = ThreatModel(norm, epsilon, model.bounds, model.domain)
    out = plugin.perturb(BatchQueries(queries, Batch(x, y, INDEX)), x, y, threat, Draws(0, "bridge"), INDEX)
    verify(out, x, threat, INDEX.tolist(), plugin.attack)
    return out


class Fake:
    """An attack like those of torchattacks."""

    def __init__(self, model: nn.Module, eps: float = 8 / 255) -> None:
        self.model, self.eps = model, eps

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Examples [N, C, H, W]."""
        raise NotImplementedError


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a class one of torchattacks' attacks, under L-inf or L2."""

    def install(kind: type[Fake], l2: bool = False) -> Torchattacks:
        monkeypatch.setattr(reference, "__all__", [*reference.__all__, kind.__name__])
        monkeypatch.setattr(reference, kind.__name__, kind, raising=False)
        if l2:
            monkeypatch.setattr("snnrobust_attacks.torchattacks._L2", frozenset({kind.__name__}))
        return Torchattacks(kind.__name__)

    return install


class Half(Fake):
    """Returns grids of .5."""

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Examples [N, C, H, W]."""
        return torch.full_like(images, 0.5)


class Everything(Fake):
    """Flips all entries, whatever its radius is."""

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Examples [N, C, H, W]."""
        return 1 - images


@pytest.mark.parametrize(
    ("shape", "images"),
    [
        ((4, 2, 5, 6), (8, 5, 6)),
        ((4, 7), (1, 4, 7)),
        ((7,), (1, 1, 7)),
        ((2, 5, 6), (2, 5, 6)),
        ((3, 4, 2, 5, 6), (24, 5, 6)),
    ],
)
def test_folding_keeps_the_order_of_entries(shape: tuple[int, ...], images: tuple[int, ...]) -> None:
    x = inputs(shape)
    assert _folded(x).shape == (N, *images)
    assert torch.equal(_folded(x).flatten(1), x.flatten(1))


@pytest.mark.parametrize("shape", [SHAPE, (5, 7), (3, 4, 6)])
def test_each_step_gets_the_change_that_its_own_weights_ask_for(shape: tuple[int, ...]) -> None:
    model, weights = linear(shape)
    x, y = inputs(shape) * 0.5 + 0.25, torch.arange(N) % 2
    found = run(Torchattacks("FGSM"), model, x, 0.1, y=y)
    ascent = (weights[..., 1] - weights[..., 0]).sign().reshape(shape)
    expected = x + 0.1 * ascent * torch.where(y == 0, 1.0, -1.0).reshape(-1, *[1] * len(shape))
    assert torch.allclose(found, expected, atol=1e-6)
    assert not torch.allclose(found.flip(1), expected, atol=1e-3)  # control: another order of steps


@pytest.mark.parametrize(
    ("attack", "options"),
    [
        ("FGSM", {}),
        ("PGD", {"random_start": False}),
        ("PGD", {"random_start": True}),
        ("BIM", {}),
        ("RFGSM", {}),
        ("TPGD", {}),
        ("EOTPGD", {}),
    ],
    ids=str,
)
def test_folded_equals_unfolded(attack: str, options: dict[str, Any]) -> None:
    """With the same seed, for attacks that act on each entry by itself; MIFGSM takes a mean over three of four axes."""
    model, x = spiking(), inputs()
    y = model.predict(model.logits(x)).clamp_min(0)
    if attack != "FGSM":
        options = options | {"alpha": 0.02, "steps": 5}
    with global_rng(Draws(0, "bridge").number(*INDEX.tolist()), torch.device("cpu")):
        theirs = getattr(reference, attack)(model.as_module(), eps=0.1, **options)(x, y)
    found = run(Torchattacks.from_name(attack, **options), model, x, 0.1)
    assert torch.equal(found, theirs)
    assert not torch.equal(found, x)


ATTACKS: list[tuple[str, dict[str, Any]]] = [
    ("FGSM", {}),
    ("PGD", {"steps": 4}),
    ("FFGSM", {}),
    ("MIFGSM", {"steps": 4}),
    ("DIFGSM", {"steps": 4}),
    ("Jitter", {"steps": 4}),
    ("SPSA", {"nb_iter": 2, "nb_sample": 8}),
    ("FAB", {"steps": 4}),
    ("Square", {"n_queries": 20}),
    ("APGD", {"steps": 4}),
    ("APGDT", {"steps": 4}),
]
FLIPS = [("PGDL2", {}), ("PGDRSL2", {}), *(each for each in ATTACKS if each[0] in ("APGD", "APGDT", "FAB", "Square"))]


@pytest.mark.parametrize(("attack", "options"), ATTACKS, ids=lambda value: str(value)[:12])
@pytest.mark.parametrize(("domain", "high", "epsilon"), [("binary", 1, 1.0), ("integer", 7, 1.0), ("integer", 7, 2.5)])
def test_events_stay_whole_under_linf(
    attack: str, options: dict[str, Any], domain: Domain, high: int, epsilon: float
) -> None:
    x = inputs(domain=domain, high=high)
    found = run(Torchattacks.from_name(attack, **options), spiking(domain, (0.0, float(high))), x, epsilon)
    assert torch.equal(found, found.round())
    assert (found - x).abs().max() <= int(epsilon)


@pytest.mark.parametrize(("attack", "options"), FLIPS, ids=lambda value: str(value)[:12])
@pytest.mark.parametrize(("norm", "epsilon"), [("l0", 1.0), ("l0", 12.9), ("l1", 5.0)])
def test_flips_stay_within_their_number(attack: str, options: dict[str, Any], norm: Norm, epsilon: float) -> None:
    x = inputs(domain="binary")
    found = run(Torchattacks.from_name(attack, **options), spiking("binary"), x, epsilon, norm)
    assert set(found.unique().tolist()) <= {0.0, 1.0}
    assert (found != x).flatten(1).sum(dim=1).max() <= int(epsilon)


def test_an_l2_attack_of_flips_spends_its_number() -> None:
    """On a linear net: those of the largest gradient whose sign allows a flip."""
    model, weights = linear((3, 5), "binary")
    x, y = inputs((3, 5), "binary"), torch.zeros(N, dtype=torch.long)
    found = run(Torchattacks.from_name("PGDL2", random_start=False), model, x, 4.0, "l0", y)
    gain = (1 - 2 * x) * (weights[..., 1] - weights[..., 0])
    best = gain.flatten(1).topk(4, dim=1)
    assert bool((best.values > 0).all())
    changed = (found != x).flatten(1)
    assert torch.equal(changed, torch.zeros_like(changed).scatter(1, best.indices, True))


def test_the_radius_of_flips_is_that_of_the_l2_ball_that_holds_them(fake: Any) -> None:
    seen = []

    class Radius(Everything):
        def __init__(self, model: nn.Module, eps: float = 8 / 255) -> None:
            super().__init__(model, eps)
            seen.append(eps)

    plugin = fake(Radius, l2=True)
    run(plugin, spiking("binary"), inputs(domain="binary"), 9.0, "l0")
    run(plugin, spiking("binary"), inputs(domain="binary"), 4.5, "l1")
    assert seen == [3.0, 2.0]
    run(plugin, spiking(), inputs(), 20.0, "l2")
    assert seen == [3.0, 2.0, 20.0]


class Between(nn.Module):
    """Outputs [N, T, 2] that are right for whole numbers, class 0, and wrong for values between them."""

    def forward(self, x: Tensor) -> Tensor:
        """Outputs for x [N, T, *]."""
        between = (torch.pi * x).sin().abs().flatten(2).mean(dim=2)  # (N, T)
        return torch.stack([torch.full_like(between, 0.1), between], dim=2)


@pytest.mark.parametrize(
    ("norm", "epsilon", "l2"), [("linf", 1.0, False), ("l0", 5.0, True), ("l1", 5.0, True), ("l0", 512.0, True)]
)
def test_a_fractional_grid_is_never_a_success(fake: Any, norm: Norm, epsilon: float, l2: bool) -> None:
    plugin, x, y = fake(Half, l2), inputs(domain="binary"), torch.zeros(N, dtype=torch.long)
    model = sr.wrap(Between(), layout="NT", encoder=None, domain="binary")
    assert bool((model.predict(model.logits(torch.full_like(x, 0.5))) == 1).all())  # what the attack believes
    task = sr.load(f"torchattacks:{plugin.attack}", epsilon=epsilon, norm=norm)
    report = sr.evaluate(model, (x, y), [task], evidence="none", progress=False)
    assert report.curve(task.label).value[0] == 1.0


def test_control_it_is_one_of_real_values(fake: Any) -> None:
    plugin, x, y = fake(Half), inputs(domain="binary"), torch.zeros(N, dtype=torch.long)
    model = sr.wrap(Between(), layout="NT", encoder=None)
    task = sr.load(f"torchattacks:{plugin.attack}", epsilon=0.5)
    report = sr.evaluate(model, (x, y), [task], evidence="none", progress=False)
    assert report.curve(task.label).value[0] == 0.0


@pytest.mark.parametrize("high", [2, 7])
def test_a_fraction_of_counts_is_none_either(fake: Any, high: int) -> None:
    plugin, y = fake(Half), torch.zeros(N, dtype=torch.long)
    x = inputs(domain="integer", high=high)
    model = sr.wrap(Between(), layout="NT", encoder=None, domain="integer", bounds=(0.0, float(high)))
    task = sr.load(f"torchattacks:{plugin.attack}", epsilon=[1.0, 2.0])
    report = sr.evaluate(model, (x, y), [task], evidence="none", progress=False)
    assert report.curve(task.label).value == (1.0, 1.0)


def test_flips_beyond_their_number_are_cut_to_it(fake: Any) -> None:
    x = inputs(domain="binary")
    found = run(fake(Everything, l2=True), spiking("binary"), x, 3.0, "l0")
    assert bool(((found != x).flatten(1).sum(dim=1) == 3).all())


def test_counts_beyond_the_radius_are_cut_to_it(fake: Any) -> None:
    x = inputs(domain="integer", high=7)
    found = run(fake(Everything), spiking("integer", (0.0, 7.0)), x, 2.0)
    assert torch.equal(found, torch.where(x < 3.5, torch.minimum(x + 2, 7 - x), torch.maximum(x - 2, 7 - x)))


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_the_flips_are_those_that_follow_the_attack_furthest(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x0 = (torch.rand(1, 2, 3, generator=generator) < 0.5).float()
    found = torch.rand(1, 2, 3, generator=generator)
    legal = _legal(found, x0, ThreatModel("l0", count, domain="binary"))
    assert torch.equal(legal, legal.round())
    flips = (1 - 2 * x0).flatten()
    along = (found - x0).flatten()
    best = max(
        sum(float(flips[i] * along[i]) for i in chosen)
        for size in range(count + 1)
        for chosen in combinations(range(6), size)
    )
    assert float(((legal - x0).flatten() * along).sum()) == pytest.approx(best, abs=1e-6)
    assert int((legal != x0).sum()) <= count


def test_real_values_come_back_as_they_are() -> None:
    x0, found = inputs(), inputs() * 0.7
    assert _legal(found, x0, ThreatModel("linf", 0.3)) is found


@pytest.mark.parametrize("fails", [False, True])
def test_global_generators_are_restored(fake: Any, fails: bool) -> None:
    class Draining(Half):
        def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
            torch.rand(3), np.random.rand(3), random.random()
            torch.manual_seed(7)
            if fails:
                raise RuntimeError("no images")
            return torch.full_like(images, 0.5)

    plugin, model, x = fake(Draining), spiking("binary"), inputs(domain="binary")
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    if fails:
        with pytest.raises(PluginError, match=r"'Draining' to run on inputs of shape \(6, 4, 2, 8, 8\).*no images"):
            run(plugin, model, x, 1.0)
    else:
        run(plugin, model, x, 1.0)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]


def checked(
    attack: str, shape: tuple[int, ...] = SHAPE, norm: Norm = "linf", domain: Domain = "real", **options: Any
) -> None:
    model = linear(shape, domain)[0] if shape != SHAPE else spiking(domain)
    task = sr.load(f"torchattacks:{attack}", epsilon=1.0, norm=norm, **options)
    task.plugin.check(model, prepare((inputs(shape, domain), torch.zeros(N, dtype=torch.long)), N), task)


def test_three_channels_are_asked_for_beforehand() -> None:
    with pytest.raises(InputError, match=r"images of shape \(8, 8, 8\).* its blur has 3 channels, images 8; use anoth"):
        checked("TIFGSM")
    checked("TIFGSM", (3, 1, 8, 8))  # control: three steps of one channel


@pytest.mark.parametrize("shape", [(4, 2, 8, 6), (4, 9)])
def test_a_resized_input_that_does_not_fit_is_refused_beforehand(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="torchattacks' 'DIFGSM' takes, got inputs of shape"):
        checked("DIFGSM", shape)
    checked("DIFGSM", (4, 2, 6, 6))
    checked("DIFGSM", (9, 9))
    checked("PGD", shape)


def test_autoattack_is_refused_where_its_square_is() -> None:
    with pytest.raises(InputError, match=r"torchattacks' 'AutoAttack' takes, got inputs of shape \(4, 2, 4, 4\)"):
        checked("AutoAttack", (4, 2, 4, 4), "l0", "binary")


@pytest.mark.parametrize(
    ("attack", "norm", "domain", "message"),
    [
        ("PGD", "l0", "binary", r"expected norm in \['linf'\] .* domain 'binary', got 'l0'"),
        ("PGDL2", "linf", "binary", r"expected norm in \['l0', 'l1'\] .* domain 'binary', got 'linf'"),
        ("APGD", "l0", "real", r"expected norm in \['l2', 'linf'\] .* domain 'real', got 'l0'"),
        ("APGD", "l0", "integer", r"expected norm in \['linf'\] .* domain 'integer', got 'l0'"),
        ("PGDL2", "linf", "integer", r"a domain in \['binary', 'real'\] .*'PGDL2', got 'integer'; use another"),
    ],
)
def test_norms_that_an_attack_does_not_have(attack: str, norm: Norm, domain: Domain, message: str) -> None:
    with pytest.raises(InputError, match=message):
        checked(attack, norm=norm, domain=domain)
    with pytest.raises(InputError, match=message):
        run(Torchattacks(attack), spiking(domain), inputs(domain=domain), 1.0, norm)


def recurrent() -> sr.SpikingModel:
    """A net on binary sequences [N, T, 5] with three classes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 8), neuron.LIFNode(step_mode="m", v_threshold=0.3), nn.Linear(8, 3))
    return sr.wrap(net, encoder=None, domain="binary")


def padded(lengths: list[int], filling: float) -> sr.data.Dataset:
    x = inputs((6, 5), "binary", count=len(lengths))
    for row, length in zip(x, lengths, strict=True):
        row[length:] = filling
    model, steps = recurrent(), torch.tensor(lengths)
    y = model.predict(model.logits(x, lengths=steps))
    return sr.data.Dataset(x, y, torch.arange(len(x)), steps)


#: PGDRS, SPSA, APGD and Square ask about several copies or a part of their batch.
PADDED: list[tuple[str, Norm, dict[str, Any]]] = [
    ("PGD", "linf", {"steps": 3}),
    ("PGDRS", "linf", {"steps": 3}),
    ("SPSA", "linf", {"nb_sample": 8}),
    ("APGD", "l0", {"steps": 3}),
    ("Square", "linf", {"n_queries": 10}),
]


@pytest.mark.parametrize(("attack", "norm", "options"), PADDED, ids=lambda value: str(value)[:8])
def test_padding_is_neither_seen_nor_changed(attack: str, norm: Norm, options: dict[str, Any]) -> None:
    lengths, model, found = [4, 4, 5, 6, 4, 5], recurrent(), []
    for filling in (0.0, 1.0):
        data = padded(lengths, filling)
        task = sr.load(f"torchattacks:{attack}", epsilon=1.0, norm=norm, **options)
        examples = sr.attack(model, data, task, progress=False).x
        for x, x0, length in zip(examples, data.x, lengths, strict=True):
            assert torch.equal(x[length:], x0[length:])
        found.append([x[:length] for x, length in zip(examples, lengths, strict=True)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("change", ["length", "padding"])
def test_a_part_of_unlike_sequences_is_refused(change: str) -> None:
    data, model = padded([4, 4, 4], 0.0), recurrent()
    lengths = torch.tensor([4, 4, 5]) if change == "length" else data.lengths
    x = data.x.clone()
    x[2, 5:] = 0.0 if change == "length" else 1.0
    rows = torch.arange(3)
    queries = ModelQueries(model, CrossEntropy(), Own())
    module = BatchQueries(queries, Batch(x, data.y, rows, lengths)).as_module(rows)
    with pytest.raises(PluginError, match="all 3 sequences together, got 2"):
        module(x[:2, :4])
    like = BatchQueries(queries, Batch(data.x, data.y, rows, data.lengths)).as_module(rows)  # control
    assert torch.allclose(like(data.x[:2, :4]), like(data.x[:, :4])[:2])
    assert torch.allclose(like(data.x[:2, :4]), model.logits(data.x[:2], lengths=data.lengths[:2]))
