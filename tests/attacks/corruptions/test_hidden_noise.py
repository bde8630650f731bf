"""Noise within a net: rates at the layer, step modes, batches, the net unchanged afterwards, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import functional, neuron
from torch import Tensor, nn

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import prepare
from snnrobust.errors import InputError
from snnrobust.plugin.task import Task
from snnrobust.testing.checks import model_state, same_state
from snnrobust.testing.corruptions import check_corruption
from snnrobust.testing.tiny import tiny_model
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.wrap import wrap
from snnrobust_attacks.corruptions.hidden_noise import KINDS, HiddenNoise

RNG = Draws(3, "noise")


class Passing(nn.Module):
    """Spikes of a node, passed on as the outputs: what comes in at a step fires if it is at least 1."""

    def __init__(self, step_mode: str = "m") -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.node = neuron.IFNode(step_mode=step_mode)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.node(self.scale * x)
        return out


def passing(step_mode: str = "m", **settings: Any) -> SpikingModel:
    layout: Any = "TN" if step_mode == "m" else "step"
    return wrap(Passing(step_mode), encoder=None, layout=layout, domain="real", bounds=(0, 2), **settings)


def outputs(model: SpikingModel, x: Tensor, plugin: HiddenNoise, severity: float, ids: Tensor, rng: Draws = RNG) -> Any:
    with torch.no_grad(), model.session():
        model.outputs(x[:, :3])  # settles the axes
        with plugin.on(model, severity, rng, ids):
            return model.outputs(x, keys=ids)


@pytest.mark.parametrize("kind", KINDS)
def test_the_conformance_check_passes(kind: Any) -> None:
    check_corruption("hidden", HiddenNoise("2", kind))
    check_corruption("hidden", HiddenNoise(kind=kind))


def test_spikes_are_lost_and_added_at_their_rate() -> None:
    ids, x = torch.arange(3), torch.ones(3, 20, 1000)
    x[:, ::2] = 0
    for kind, before in (("deletion", 1.0), ("insertion", 0.0)):
        out = outputs(passing(), x, HiddenNoise("node", kind), 0.3, ids)  # type: ignore[arg-type]
        changed = out != x
        assert not changed[x != before].any()
        assert changed[x == before].float().mean() == pytest.approx(0.3, abs=0.01)
        assert set(out.unique().tolist()) == {0.0, 1.0}


def test_noise_on_membranes_fires_with_the_normal_probability() -> None:
    ids, x = torch.arange(3), torch.zeros(3, 1, 20000)
    x[:] = 0.8
    out = outputs(passing(), x, HiddenNoise("node", "membrane"), 0.4, ids)
    expected = 0.5 * math.erfc(0.2 / 0.4 / math.sqrt(2))  # P(0.8 + 0.4 n >= 1)
    assert out.mean() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_step_mode_and_batch_do_not_matter(kind: Any) -> None:
    ids, x = torch.tensor([4, 1, 7, 9]), 2 * torch.rand(4, 4, 50, generator=torch.Generator().manual_seed(0))
    plugin = HiddenNoise("node", kind)
    whole = outputs(passing(), x, plugin, 0.4, ids)
    assert torch.equal(whole, outputs(passing("s"), x, plugin, 0.4, ids))
    for i in range(4):
        assert torch.equal(whole[[i]], outputs(passing(), x[[i]], plugin, 0.4, ids[[i]]))
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(whole[order], outputs(passing(), x[order], plugin, 0.4, ids[order]))
    # Controls: another stream, another sample, no noise.
    assert not torch.equal(whole, outputs(passing(), x, plugin, 0.4, ids, RNG.sub("other")))
    assert not torch.equal(whole, outputs(passing(), x, plugin, 0.4, ids + 1))
    assert not torch.equal(whole, outputs(passing(), x, plugin, 0.0, ids))


@pytest.mark.parametrize("kind", KINDS)
def test_steps_draw_numbers_of_their_own(kind: Any) -> None:
    x = torch.full((1, 6, 400), 1.0 if kind == "deletion" else 0.0)
    out = outputs(passing(), x, HiddenNoise("node", kind), 0.9 if kind == "membrane" else 0.5, torch.arange(1))[0]
    assert len({tuple(step.tolist()) for step in out}) == 6


def test_the_net_is_left_as_it_was_also_after_an_error() -> None:
    model, x = tiny_model(True), torch.ones(2, 4, 6)
    before = model_state(model)

    def interrupted(kind: Any) -> None:
        with HiddenNoise("2", kind).on(model, 0.5, RNG, torch.arange(2)):
            model.outputs(x)
            raise RuntimeError("on purpose")

    for kind in KINDS:
        with pytest.raises(RuntimeError, match="on purpose"):
            interrupted(kind)
        assert same_state(before, model_state(model))
    clean = model.outputs(x)
    with HiddenNoise("2").on(model, 0.5, RNG, torch.arange(2)):
        noisy = model.outputs(x)
    assert torch.equal(clean, model.outputs(x))
    assert not torch.equal(clean, noisy)


def test_an_empty_name_is_the_first_spiking_layer() -> None:
    model, x = tiny_model(True), torch.ones(2, 4, 6)
    found: list[Tensor] = []
    for layer in ("", "2", "4"):
        with HiddenNoise(layer).on(model, 0.5, RNG, torch.arange(2)):
            found.append(model.outputs(x))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


class Plain(nn.Module):
    """A net without a framework: spikes by comparison."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.spikes = Step()

    def forward(self, x: Tensor) -> Tensor:  # (T, N, 6)
        out: Tensor = self.spikes(self.layer(x))
        return out


class Step(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x > 0).float()


def test_layers_of_nets_without_a_framework_have_noise_on_their_outputs() -> None:
    model, x = wrap(Plain(), encoder=None, layout="TN", domain="binary"), torch.ones(2, 5, 6)
    with torch.no_grad():
        model.outputs(x)
        with HiddenNoise("spikes").on(model, 1.0, RNG, torch.arange(2)):
            assert not model.outputs(x).any()
        with HiddenNoise("spikes", "insertion").on(model, 1.0, RNG, torch.arange(2)):
            assert model.outputs(x).all()


def check(plugin: HiddenNoise, model: SpikingModel, *severities: float) -> Callable[[], None]:
    data = prepare((torch.zeros(2, 4, 6), torch.zeros(2, dtype=torch.long)), 2)
    return lambda: plugin.check(model, data, Task("n", "n", "noise", "", plugin, severities or (0.5,)))


def test_refusals_name_a_way_out() -> None:
    plain = wrap(Plain(), encoder=None, layout="TN", domain="binary")
    for kind in KINDS:
        check(HiddenNoise("2", kind), tiny_model(True))()  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"expected layer to be one of \['2', '4'\], got '22'; did you mean '2'"):
            check(HiddenNoise("22", kind), tiny_model(True))()  # type: ignore[arg-type]
    with pytest.raises(InputError, match="did you mean 'spikes'"):
        check(HiddenNoise("spike"), plain)()
    with pytest.raises(InputError, match="use kind='deletion' or 'insertion'"):
        check(HiddenNoise("spikes", "membrane"), plain)()
    with pytest.raises(InputError, match=r"expected layer to be one of \['2', '4'\], got '1'"):
        check(HiddenNoise("1", "membrane"), tiny_model(True))()
    with pytest.raises(InputError, match=r"in \[0, 1\]"):
        check(HiddenNoise("2"), tiny_model(True), 1.5)()
    check(HiddenNoise("2", "membrane"), tiny_model(True), 1.5)()
    with pytest.raises(InputError, match="did you mean 'deletion'"):
        HiddenNoise("2", "delete")  # type: ignore[arg-type]


def test_a_layer_whose_output_has_no_samples_is_an_error() -> None:
    net = nn.Sequential(nn.Flatten(0), nn.Linear(4 * 2 * 6, 2), nn.Unflatten(0, (1, 2)))
    model = wrap(net, encoder=None, layout="TN", domain="binary", stochastic=False)
    functional.set_step_mode(net, "m")
    with (
        HiddenNoise("0").on(model, 0.5, RNG, torch.arange(2)),
        pytest.raises(InputError, match=r"expected values \[T, N, \*\] .* at layer '0'.* name another layer"),
    ):
        model.outputs(torch.ones(2, 4, 6))
