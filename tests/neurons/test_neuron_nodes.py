"""What `lif` builds: state, gradients, surrogates, and the errors for arguments that can't be used."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import Tensor, nn

from snnrobust.errors import InputError, InputTypeError
from snnrobust.neurons import PRESETS, Variant, lif, table

FEATURES = 3


def build(preset: str, **options: Any) -> nn.Module:
    variant = PRESETS[preset]
    return variant.build(features=FEATURES if variant.recurrent else None, **options)


def currents(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("step_mode", ["s", "m"])
@pytest.mark.parametrize("preset", PRESETS)
class TestState:
    def shape(self, step_mode: str) -> tuple[int, ...]:
        return (5, 2, FEATURES) if step_mode == "m" else (2, FEATURES)

    def test_reset_net_clears_it_and_a_second_forward_is_the_same(self, preset: str, step_mode: str) -> None:
        net = nn.Sequential(build(preset, step_mode=step_mode))
        x = currents(*self.shape(step_mode)) * 0.01 + 0.8  # silent at first, a spike at the second such step
        first = net(x)
        carried = net(x)
        assert net[0].v.shape == (2, FEATURES)
        functional.reset_net(net)
        assert all(memory == 0.0 for memory in net[0].memories())
        assert torch.equal(net(x), first)
        if preset != "complete-leak":
            assert not torch.equal(carried, first)  # control: without a reset the state matters

    def test_another_batch_size_starts_afresh(self, preset: str, step_mode: str) -> None:
        node = build(preset, step_mode=step_mode)
        x = currents(*self.shape(step_mode)) + 0.5
        half = x[..., :1, :]
        fresh = node(half)
        functional.reset_net(node)
        node(x)
        assert torch.equal(node(half), fresh)

    def test_detach_net_leaves_the_callers_tensors_in_their_graph(self, preset: str, step_mode: str) -> None:
        node = build(preset, step_mode=step_mode)
        x = currents(*self.shape(step_mode)).requires_grad_() * 1.0
        spikes = node(x)
        functional.detach_net(node)
        assert x.grad_fn is not None
        assert spikes.grad_fn is not None
        assert all(not memory.requires_grad for memory in node.memories())

    def test_store_v_seq_records_the_membrane_after_the_reset(self, preset: str, step_mode: str) -> None:
        node = build(preset, step_mode=step_mode)
        node.store_v_seq = True
        node(currents(*self.shape(step_mode)))
        assert torch.equal(node.v_seq[-1], node.v)


def test_a_memory_is_never_the_callers_own_input() -> None:
    node = lif("complete", "none", step_mode="s")  # here the membrane equals the input
    x = currents(2, FEATURES).requires_grad_() * 1.0
    node(x)
    functional.detach_net(node)
    assert x.grad_fn is not None


@pytest.mark.parametrize("preset", PRESETS)
def test_detach_reset_changes_gradients_where_there_is_a_reset_to_remember(preset: str) -> None:
    x = currents(10, 4, FEATURES).requires_grad_()
    node = build(preset)
    detached = copy.deepcopy(node)
    detached.detach_reset = True
    first, second = (torch.autograd.grad(each(x).sum(), x)[0] for each in (node, detached))
    variant = PRESETS[preset]
    assert torch.equal(first, second) == (variant.reset == "none" or variant.leak == "complete")


@pytest.mark.parametrize("preset", PRESETS)
def test_lif_passes_detach_reset_threshold_and_step_mode_on(preset: str) -> None:
    node = build(preset, detach_reset=True, threshold=0.3, step_mode="s")
    assert (node.detach_reset, node.v_threshold, node.step_mode) == (True, 0.3, "s")
    assert build(preset).detach_reset is False


@pytest.mark.parametrize("preset", PRESETS)
def test_no_two_nodes_share_a_surrogate(preset: str) -> None:
    mine = surrogate.Sigmoid(alpha=3.0)
    nodes = [build(preset), build(preset), build(preset, surrogate=mine), build(preset, surrogate=mine)]
    assert len({id(node.surrogate_function) for node in nodes} | {id(mine)}) == 5
    assert nodes[2].surrogate_function.alpha == 3.0
    assert isinstance(nodes[0].surrogate_function, surrogate.ATan)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_surrogate_swapped_from_outside_is_used_in_the_next_forward(preset: str) -> None:
    node = build(preset)
    x = currents(5, 2, FEATURES).requires_grad_()
    before = torch.autograd.grad(node(x).sum(), x)[0]
    functional.reset_net(node)
    node.surrogate_function = surrogate.ATan(alpha=20.0)
    assert not torch.equal(torch.autograd.grad(node(x).sum(), x)[0], before)


@pytest.mark.parametrize("preset", [name for name, variant in PRESETS.items() if variant.recurrent])
def test_lateral_weights_learn(preset: str) -> None:
    node = build(preset)
    before = node.lateral.weight.detach().clone()
    optimiser = torch.optim.SGD(node.parameters(), lr=0.1)
    node(currents(8, 4, FEATURES) + 0.5).sum().backward()
    optimiser.step()
    assert not torch.equal(node.lateral.weight, before)


@pytest.mark.parametrize("reset", ["hard", "soft", "none"])
def test_a_learnable_leak_learns(reset: Any) -> None:
    node = lif("learnable", reset)
    node(currents(8, 4, FEATURES) + 0.5).sum().backward()
    assert node.w.grad.abs() > 0


@pytest.mark.parametrize(
    ("leak", "reset", "expected"),
    [
        ("normal", "hard", neuron.LIFNode),
        ("normal", "soft", neuron.LIFNode),
        ("none", "hard", neuron.IFNode),
        ("learnable", "soft", neuron.ParametricLIFNode),
    ],
)
def test_spikingjellys_own_nodes_serve_where_the_equation_is_theirs(leak: Any, reset: Any, expected: type) -> None:
    node = lif(leak, reset, k=0.75)
    assert type(node) is expected
    assert node.v_reset == (0.0 if reset == "hard" else None)
    assert getattr(node, "decay_input", False) is False
    assert getattr(node, "tau", 4.0) == 4.0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"leak": "normla"}, InputError, "did you mean 'normal'"),
        ({"leak": 3}, InputTypeError, "leak to be a string"),
        ({"reset": "hrad"}, InputError, "did you mean 'hard'"),
        ({"reset": None}, InputTypeError, "reset to be a string"),
        ({"recurrent": 1, "features": 3}, InputTypeError, "recurrent to be a bool"),
        ({"k": 0.0}, InputError, "leak='complete'"),
        ({"k": 1.0}, InputError, "leak='none'"),
        ({"k": 1e-20}, InputError, "strictly between 0 and 1"),
        ({"k": float("nan")}, InputError, "strictly between 0 and 1"),
        ({"k": "0.5"}, InputTypeError, "k to be a real number"),
        ({"k": True}, InputTypeError, "k to be a real number"),
        ({"threshold": 0.0}, InputError, "positive, finite threshold"),
        ({"threshold": float("inf")}, InputError, "positive, finite threshold"),
        ({"threshold": float("nan")}, InputError, "positive, finite threshold"),
        ({"threshold": torch.tensor(1.0)}, InputTypeError, "threshold to be a real number"),
        ({"surrogate": "atan"}, InputTypeError, "surrogate to be a callable"),
        ({"detach_reset": "no"}, InputTypeError, "detach_reset to be a bool"),
        ({"step_mode": "multi"}, InputError, "step_mode to be one of"),
        ({"features": 3}, InputError, "no features without recurrence"),
        ({"recurrent": True}, InputError, "features for a recurrent node"),
        ({"recurrent": True, "features": 0}, InputError, "at least 1"),
        ({"recurrent": True, "features": 2.0}, InputTypeError, "features to be an int"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"expected.*{message}|{message}.*; ") as caught:
        lif(**arguments)
    assert "; " in str(caught.value)


def test_a_recurrent_node_names_the_features_it_was_built_for() -> None:
    with pytest.raises(InputError, match=r"features=3, got shape \(4, 2, 5\)"):
        lif(recurrent=True, features=3)(currents(4, 2, 5))


def test_a_variant_refuses_what_lif_refuses() -> None:
    with pytest.raises(InputError, match="did you mean 'learnable'"):
        Variant(leak="learnabel")


def test_presets_are_read_only_and_those_of_the_paper() -> None:
    assert list(PRESETS) == [
        "vanilla",
        "no-leak",
        "complete-leak",
        "no-reset",
        "recurrent",
        "no-leak-recurrent",
        "no-leak-no-reset-recurrent",
    ]
    with pytest.raises(TypeError):
        PRESETS["mine"] = Variant()


def test_the_table_names_the_class_and_the_way_each_preset_runs() -> None:
    random_state = torch.get_rng_state()
    rows = {row.preset: row for row in table() if row.preset is not None}
    assert torch.equal(torch.get_rng_state(), random_state)
    assert list(rows) == list(PRESETS)
    for preset, row in rows.items():
        node = build(preset)
        assert row.node == type(node).__name__
        assert row.step_modes == node.supported_step_mode()
        assert ("operator" in row.runs_on) == type(node).__module__.startswith("spikingjelly")
    assert rows["no-leak-no-reset-recurrent"].equation == "u[t] = u[t-1] + x[t] + V o[t-1]"
    assert rows["complete-leak"].equation == "u[t] = x[t]"


def test_repr_shows_the_components() -> None:
    assert "reset_rule=none, k=0.25" in repr(lif(reset="none", k=0.25))
    assert "k=sigmoid(-w)" in repr(lif("learnable", "none"))


def test_the_table_holds_every_combination_once():
    equations = [(row.equation, row.node) for row in table()]
    assert len(table()) == 4 * 3 * 2
    assert sum("PLIF operator" in row.runs_on for row in table()) == 2
    assert len(set(equations)) > len(PRESETS)
