"""The bridge to torchattacks: scaling, seeding, accepted inputs, and restored state."""

from __future__ import annotations

import builtins
import random
from typing import Any

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import layer, neuron
from torch import Tensor, nn

from snnrobust.common.random import Draws
from snnrobust.data.batch import Batch
from snnrobust.data.evaluation_data import EvaluationData, prepare
from snnrobust.errors import InputError, MissingExtraError, PluginError
from snnrobust.objectives.logits import CrossEntropy
from snnrobust.plugin import Perturbation
from snnrobust.plugin.task import load
from snnrobust.search.batch_queries import BatchQueries
from snnrobust.search.queries import ModelQueries
from snnrobust.spike_gradients.swap import Own
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.threat_models.threat_model import Norm, ThreatModel
from snnrobust.threat_models.verify import verify
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.wrap import wrap
from snnrobust_attacks.torchattacks import _L2, Torchattacks, _attack_classes

reference = pytest.importorskip("torchattacks", reason="the extra 'torchattacks' is not installed")

N = 6
INDEX = torch.arange(N)


def net(classes: int = 10, features: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if features:
            return nn.Sequential(nn.Linear(features, classes), neuron.LIFNode(step_mode="m", v_threshold=0.1))
        return nn.Sequential(
            layer.Conv2d(1, 4, 3, stride=2, step_mode="m"),
            neuron.LIFNode(step_mode="m", v_threshold=0.1),
            nn.Flatten(2),
            nn.Linear(4 * 13 * 13, classes),
            neuron.LIFNode(step_mode="m", v_threshold=0.1),
        )


def images(*shape: int) -> Tensor:
    return torch.rand(N, *(shape or (1, 28, 28)), generator=torch.Generator().manual_seed(1))


def run(
    plugin: Torchattacks,
    model: SpikingModel,
    x: Tensor,
    epsilon: float,
    norm: Norm = "linf",
    rng: Draws | None = None,
) -> tuple[Tensor, ModelQueries]:
    queries = ModelQueries(model, CrossEntropy(), Own())
    y = model.predict(model.logits(x)).clamp_min(0)
    threat = ThreatModel(norm, epsilon, model.bounds)
    out = plugin.perturb(BatchQueries(queries, Batch(x, y, INDEX)), x, y, threat, rng or Draws(0, "bridge"), INDEX)
    verify(out, x, threat, INDEX.tolist(), plugin.attack)
    return out, queries


LINF = "APGD APGDT BIM DIFGSM EOTPGD FAB FFGSM FGSM Jitter MIFGSM NIFGSM PGD PGDRS RFGSM SINIFGSM SPSA TPGD UPGD"
BOTH_SHAPES = sorted(set(LINF.split()) - {"DIFGSM"})


@pytest.mark.parametrize("attack", LINF.split())
def test_attacks_run_on_images_silently(attack: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, queries = run(Torchattacks(attack), wrap(net(), steps=6), images(), 0.1)
    assert not torch.equal(out, images())
    assert queries.spent.forwards >= N
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("attack", BOTH_SHAPES)
def test_attacks_run_on_vectors(attack: str) -> None:
    out, _ = run(Torchattacks(attack), wrap(net(features=50), steps=6), images(50), 0.1)
    assert out.shape == (N, 50)


@pytest.mark.parametrize("attack", ["PGDL2", "PGDRSL2", "APGD", "APGDT"])
def test_l2_attacks(attack: str) -> None:
    out, _ = run(Torchattacks(attack), wrap(net(), steps=6), images(), 1.0, "l2")
    assert 0.01 < (out - images()).flatten(1).norm(dim=1).max() <= 1.0 + 1e-4


def test_options_are_handed_over() -> None:
    plugin = Torchattacks.from_name("PGD", steps=3, random_start=False)
    assert plugin.options == (("random_start", False), ("steps", 3))
    _, queries = run(plugin, wrap(net(), steps=6), images(), 0.1)
    assert (queries.spent.forwards, queries.spent.backwards) == (3 * N, 3 * N)


@pytest.mark.parametrize(("attack", "norm", "epsilon"), [("FGSM", "linf", 0.05), ("PGDL2", "l2", 1.0)])
def test_scaled_bounds_give_the_scaled_example(attack: str, norm: Norm, epsilon: float) -> None:
    low, high = -1.0, 3.0

    class Rescale(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - low) / (high - low)

    model = wrap(net(), steps=6)
    scaled = wrap(nn.Sequential(Rescale(), *net()), steps=6, bounds=(low, high))
    x = (images() * 64).round() / 64  # exact in both scales
    found, _ = run(Torchattacks(attack), model, x, epsilon, norm)
    found_scaled, _ = run(Torchattacks(attack), scaled, low + 4 * x, 4 * epsilon, norm)
    assert torch.allclose(low + 4 * found, found_scaled, atol=1e-5)
    assert (found - x).abs().max() > 0.01


def test_epsilon_zero_returns_every_bit_in_any_scale() -> None:
    x = images() * 254.7 + 0.1
    out, _ = run(Torchattacks("PGD"), wrap(net(), steps=6, bounds=(0.1, 254.8)), x, 0.0)
    assert torch.equal(out, x)


def test_random_attacks_are_seeded_and_global_generators_untouched() -> None:
    model, x = wrap(net(), steps=6), images()
    torch.manual_seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first, _ = run(Torchattacks("PGD"), model, x, 0.1)
    seeded, _ = run(Torchattacks("Square", (("n_queries", 30),)), model, x, 0.1)  # seeds the generators itself
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]
    torch.manual_seed(6)
    assert torch.equal(run(Torchattacks("PGD"), model, x, 0.1)[0], first)
    assert torch.equal(run(Torchattacks("Square", (("n_queries", 30),)), model, x, 0.1)[0], seeded)
    # Control: another stream gives other examples.
    other = Draws(1, "bridge")
    assert not torch.equal(run(Torchattacks("PGD"), model, x, 0.1, rng=other)[0], first)
    assert not torch.equal(run(Torchattacks("Square", (("n_queries", 30),)), model, x, 0.1, rng=other)[0], seeded)


def test_the_number_of_classes_comes_from_the_model() -> None:
    run(Torchattacks("APGDT"), wrap(net(classes=4), steps=6), images(), 0.1)


def test_the_net_is_left_as_it_was() -> None:
    own = net().train()
    own(images().unsqueeze(0))  # leaves state
    weights = {name: p.clone() for name, p in own.state_dict().items()}
    state = own[1].v
    run(Torchattacks("PGD"), wrap(own, steps=6), images(), 0.1)
    assert all(module.training for module in own.modules())
    assert own[1].v is state
    assert all(torch.equal(p, weights[name]) for name, p in own.state_dict().items())
    assert all(p.grad is None for p in own.parameters())


def test_it_loads_by_name() -> None:
    task = load("torchattacks:MIFGSM", epsilon=[0.1, 0.2], steps=3)
    assert task.plugin == Torchattacks("MIFGSM", (("steps", 3),))
    assert isinstance(task.plugin, Perturbation)
    assert task.kind == "attack"


@pytest.mark.parametrize("name", ["MIFSGM", "mifgsm"])
def test_unknown_attacks_get_a_hint(name: str) -> None:
    with pytest.raises(InputError, match="did you mean 'MIFGSM'"):
        load(f"torchattacks:{name}", epsilon=0.1)


@pytest.mark.parametrize("name", ["CW", "DeepFool", "PIFGSM", "LGV", "JSMA"])
def test_attacks_without_a_radius_are_refused_with_those_that_have_one(name: str) -> None:
    with pytest.raises(InputError, match=r"with a radius, one of .*'MIFGSM'.*'PGD'"):
        Torchattacks(name)


@pytest.mark.parametrize("option", ["eps", "seed", "verbose", "step"])
def test_options_that_are_not_the_users_or_unknown(option: str) -> None:
    with pytest.raises(InputError, match=rf"expected options of 'APGD' among .*'steps'.*got '{option}'"):
        Torchattacks("APGD", ((option, 1),))


@pytest.mark.parametrize(("attack", "norm"), [("PGD", "l2"), ("PGDL2", "linf"), ("APGD", "l1"), ("FGSM", "l1")])
def test_another_norm_is_an_error(attack: str, norm: Norm) -> None:
    with pytest.raises(InputError, match=f"got '{norm}'"):
        run(Torchattacks(attack), wrap(net(), steps=6), images(), 0.1, norm)


def checked(attack: str, norm: Norm = "linf", **options: Any) -> None:
    task = load(f"torchattacks:{attack}", epsilon=[0.0, 0.1], norm=norm, **options)
    task.plugin.check(wrap(net(), steps=4), prepare((images(), torch.zeros(N, dtype=torch.long)), N), task)


@pytest.mark.parametrize(("attack", "norm"), [("MIFGSM", "l2"), ("PGDL2", "linf"), ("APGD", "l1")])
def test_check_refuses_another_norm(attack: str, norm: Norm) -> None:
    with pytest.raises(InputError, match=f"expected norm .* got '{norm}'"):
        checked(attack, norm)


@pytest.mark.parametrize(
    "option",
    [{"steps": "x"}, {"steps": 2.5}, {"steps": True}, {"decay": "1"}, {"decay": False}, {"alpha": None}],
    ids=repr,
)
def test_options_of_another_type(option: dict[str, Any]) -> None:
    name = next(iter(option))
    with pytest.raises(InputError, match=rf"expected {name} of 'MIFGSM' to be of type"):
        load("torchattacks:MIFGSM", epsilon=0.1, **option)
    load("torchattacks:MIFGSM", epsilon=0.1, steps=3, decay=1)  # control


@pytest.mark.parametrize(
    ("attack", "option"), [("AutoAttack", {"version": "best"}), ("TIFGSM", {"kernel_name": "x"}), ("PGD", {"steps": 0})]
)
def test_check_refuses_options_that_torchattacks_does_not_take(attack: str, option: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"expected options that torchattacks' '{attack}' takes"):
        checked(attack, **option)


@pytest.mark.parametrize("attack", sorted(set(_attack_classes()) - {"TIFGSM"}))  # which takes three channels alone
def test_check_accepts_every_attack_as_it_is(attack: str) -> None:
    before = torch.random.get_rng_state()
    checked(attack, "l2" if attack in _L2 else "linf")
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_failure_inside_torchattacks_names_the_attack() -> None:
    with pytest.raises(PluginError, match=r"'TIFGSM' to run on inputs of shape .*3 channels") as raised:
        run(Torchattacks("TIFGSM"), wrap(net(), steps=6), images(), 0.1)
    assert isinstance(raised.value.__cause__, RuntimeError)


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    own_import = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "torchattacks":
            raise ImportError(name)
        return own_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pip install 'snnrobust\[torchattacks\]'"):
        Torchattacks("PGD")


def test_checking_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    task = load("torchattacks:MIFGSM", epsilon=0.1)
    model, data = tiny_model(), tiny_data()
    task.plugin.check(model, EvaluationData(data, None, None, 4), task)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("attack", "classes"), [("APGDT", 2), ("APGDT", 3), ("AutoAttack", 2), ("TIFGSM", 10)])
def test_what_would_fail_at_run_time_is_refused_beforehand(attack: str, classes: int) -> None:
    torch.manual_seed(0)
    layers = nn.Flatten(2), nn.Linear(36, 16), neuron.LIFNode(step_mode="m"), nn.Linear(16, classes)
    model, x = wrap(nn.Sequential(*layers), steps=4), images(1, 6, 6)
    data = prepare((x, torch.zeros(N, dtype=torch.long)), N)
    task = load(f"torchattacks:{attack}", epsilon=0.1)
    with pytest.raises(InputError, match=f"torchattacks' '{attack}' takes, got inputs of shape .* use another attack"):
        task.plugin.check(model, data, task)
    load("torchattacks:PGD", epsilon=0.1).plugin.check(model, data, task)  # control


@pytest.mark.parametrize("epsilon", [0.02, 0.2])
def test_spsa_reaches_the_edge_of_its_ball(epsilon: float) -> None:
    torch.manual_seed(0)
    model = wrap(nn.Sequential(nn.Flatten(1), nn.Linear(50, 10)), layout="N")  # smooth: SPSA sees a slope everywhere
    out, _ = run(Torchattacks("SPSA"), model, images(50), epsilon)
    moved = float((out - images(50)).abs().max())
    assert moved > 0.9 * epsilon
    slow, _ = run(Torchattacks("SPSA", (("lr", 0.001),)), model, images(50), epsilon)
    assert float((slow - images(50)).abs().max()) <= 0.0011  # an lr of the user's own is taken as it is
