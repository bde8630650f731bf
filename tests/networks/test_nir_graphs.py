"""Graphs of NIR: layers, loops, inner graphs, names, refusals."""

from __future__ import annotations

import copy
import itertools
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.networks import from_nir

nir = pytest.importorskip("nir")
nirtorch = pytest.importorskip("nirtorch")


def graph(nodes: dict[str, object], edges: list[tuple[str, str]], inputs: int = 1, outputs: int = 1) -> object:
    """A NIR graph with "input" and "output"; newer versions of nir check types, unless told not to."""
    ends = {
        "input": nir.Input(input_type={"input": np.array([inputs])}),
        "output": nir.Output(output_type={"output": np.array([outputs])}),
    }
    try:
        return nir.NIRGraph(nodes={**ends, **nodes}, edges=edges, type_check=False)
    except TypeError:
        return nir.NIRGraph(nodes={**ends, **nodes}, edges=edges)


def chain(*nodes: object) -> object:
    named = {f"n{k}": node for k, node in enumerate(nodes)}
    return graph(named, list(itertools.pairwise(["input", *named, "output"])))


def integrate(size: int, threshold: float = 1.0) -> object:
    """Fires where its inputs add up to more than the threshold."""
    return nir.IF(r=np.ones(size), v_threshold=np.full(size, threshold))


def matrix(*rows: list[float]) -> object:
    return nir.Linear(weight=np.array(rows))


def spikes(net: nn.Module, x: list[float]) -> list[list[float]]:
    """[steps][outputs], of one sample."""
    with torch.no_grad():
        out: list[list[float]] = net(torch.tensor(x).reshape(len(x), 1, -1))[:, 0].tolist()
    return out


def random(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_two_neurons_that_excite_each_other_in_turn() -> None:
    """A pulse goes round: each neuron fires a step after the other."""
    nodes = {"cells": integrate(2, 0.5), "swap": matrix([0.0, 1.0], [1.0, 0.0])}
    edges = [("input", "cells"), ("cells", "swap"), ("swap", "cells"), ("cells", "output")]
    net = from_nir(graph(nodes, edges, 2, 2), dt=1.0)
    pulse = [[1.0, 0.0]] + [[0.0, 0.0]] * 3
    out = net(torch.tensor(pulse).unsqueeze(1))[:, 0]
    assert out.tolist() == [[1, 0], [0, 1], [1, 0], [0, 1]]


def test_a_recurrent_bias_acts_at_the_first_step() -> None:
    """The weights see no spikes then, which is not the same as no input."""
    nodes = {"cell": integrate(1, 0.5), "again": nir.Affine(weight=np.zeros((1, 1)), bias=np.ones(1))}
    edges = [("input", "cell"), ("cell", "again"), ("again", "cell"), ("cell", "output")]
    assert spikes(from_nir(graph(nodes, edges), dt=1.0), [0.0, 0.0]) == [[1], [1]]


def test_forward_edges_of_a_loop_are_at_once_and_backward_ones_take_a_step() -> None:
    nodes = {"first": integrate(1, 0.5), "second": integrate(1, 0.5)}
    edges = [("input", "first"), ("first", "second"), ("second", "first"), ("second", "output")]
    assert spikes(from_nir(graph(nodes, edges), dt=1.0), [1.0, 0.0, 0.0]) == [[1], [1], [1]]


def test_loops_do_not_depend_on_names_or_order() -> None:
    """Two neurons, equally far from the input, that are connected both ways."""
    for a, b in itertools.permutations(["a", "z"]):
        nodes = {a: integrate(1, 0.5), "w": matrix([1.0]), b: integrate(1, 1.5)}
        edges = [("input", a), ("input", b), (a, b), (b, "w"), ("w", a), (b, "output")]
        for order in (edges, edges[::-1]):
            # The second one gets 1, then 1 of the input and 1 of the first: fires at the third step.
            assert spikes(from_nir(graph(nodes, order), dt=1.0), [1.0, 0.0, 1.0]) == [[0], [1], [0]]


@pytest.mark.parametrize("steps", [1, 3])
def test_a_delay_in_a_loop_keeps_its_length(steps: int) -> None:
    nodes = {"cell": integrate(1, 0.5), "later": nir.Delay(delay=np.array([float(steps)]))}
    edges = [("input", "cell"), ("cell", "later"), ("later", "cell"), ("cell", "output")]
    out = spikes(from_nir(graph(nodes, edges), dt=1.0), [1.0] + [0.0] * 8)
    assert [t for t, (o,) in enumerate(out) if o] == list(range(0, 9, steps))


def test_loop_without_neuron_is_refused() -> None:
    nodes = {"a": matrix([1.0]), "b": matrix([0.5])}
    edges = [("input", "a"), ("a", "b"), ("b", "a"), ("a", "output")]
    with pytest.raises(sr.InputError, match=r"neuron or a Delay in each loop .* \['a', 'b'"):
        from_nir(graph(nodes, edges), dt=1.0)


def test_inputs_of_a_node_are_added() -> None:
    nodes = {"a": matrix([1.0]), "b": matrix([10.0]), "c": matrix([100.0]), "all": matrix([1.0])}
    edges = [(end, name) for name in "abc" for end in ["input"]] + [(name, "all") for name in "abc"]
    assert spikes(from_nir(graph(nodes, [*edges, ("all", "output")]), dt=1.0), [1.0, 2.0]) == [[111], [222]]


def test_inner_graphs_are_part_of_the_graph() -> None:
    cell, again = integrate(1, 0.5), matrix([1.0])
    ends = [("input", "cell"), ("cell", "again"), ("again", "cell"), ("cell", "output")]
    inner = graph({"cell": cell, "again": again}, ends)
    outer = graph({"rnn": inner, "w": matrix([2.0])}, [("input", "rnn"), ("rnn", "w"), ("w", "output")])
    assert spikes(from_nir(outer, dt=1.0), [1.0, 0.0, 0.0]) == [[2], [2], [2]]


def test_an_edge_that_becomes_two_is_refused() -> None:
    """An inner graph that passes its input on, beside the direct edge: the input would count once."""
    through = graph({}, [("input", "output")])
    nodes = {"through": through, "w": matrix([1.0])}
    edges = [("input", "through"), ("through", "w"), ("input", "w"), ("w", "output")]
    with pytest.raises(sr.InputError, match="each edge of the NIR graph once"):
        from_nir(graph(nodes, edges), dt=1.0)


@pytest.mark.parametrize(
    "name", ["0", "class", "lif1.w-rec", "keys", "graph", "forward", "state", "input_1", "a before"]
)
def test_names_that_modules_can_not_have(name: str) -> None:
    nodes = {name: integrate(1, 0.5), f"{name}_": matrix([2.0])}
    edges = [("input", name), (name, f"{name}_"), (f"{name}_", "output")]
    assert spikes(from_nir(graph(nodes, edges), dt=1.0), [1.0, 0.0]) == [[2], [0]]
    back = [*edges, (name, name)]
    assert spikes(from_nir(graph(nodes, back), dt=1.0), [1.0, 0.0]) == [[2], [2]]


def test_layers_are_torchs() -> None:
    weight, bias = random(4, 1, 3, 3), random(4)
    conv = nir.Conv2d((9, 12), weight.numpy(), 2, (1, 0), 1, 2, bias.numpy())
    sizes = (np.array([2, 2]), np.array([1, 2]), np.array([1, 0]))
    net = from_nir(
        chain(
            nir.Scale(scale=random(2, 9, 12).numpy()),
            conv,
            nir.SumPool2d(*sizes),
            nir.AvgPool2d(*sizes),
            nir.Flatten(input_type={"input": np.array([4, 7, 1])}, start_dim=0),
            nir.Linear(weight=random(3, 28).numpy()),
        ),
        dt=1.0,
    )
    x = random(5, 2, 2, 9, 12)
    h = F.conv2d(x.flatten(0, 1) * random(2, 9, 12), weight, bias, 2, (1, 0), groups=2)
    pooled = 4 * F.avg_pool2d(h, 2, (1, 2), (1, 0))
    expected = F.linear(F.avg_pool2d(pooled, 2, (1, 2), (1, 0)).flatten(1), random(3, 28)).unflatten(0, (5, 2))
    torch.testing.assert_close(net(x), expected)


@pytest.mark.parametrize("padding", ["same", 1])
def test_conv1d(padding: str | int) -> None:
    weight, bias = random(4, 2, 3), random(4)
    net = from_nir(chain(nir.Conv1d(None, weight.numpy(), 1, padding, 1, 1, bias.numpy())), dt=1.0)
    x = random(5, 3, 2, 7)
    expected = F.conv1d(x.flatten(0, 1), weight, bias, padding=1).unflatten(0, (5, 3))
    torch.testing.assert_close(net(x), expected)


def test_layers_in_a_loop_act_on_single_steps() -> None:
    """A convolutional loop, step by step, against the same equations in plain torch."""
    weight = 0.4 * random(2, 2, 3, 3)
    size = (2, 4, 4)
    nodes = {
        "cells": nir.IF(r=np.ones(size), v_threshold=np.ones(size)),
        "back": nir.Conv2d((4, 4), weight.numpy(), 1, 1, 1, 1, np.zeros(2)),
        "flat": nir.Flatten(input_type={"input": np.array(size)}, start_dim=0),
    }
    edges = [("input", "cells"), ("cells", "back"), ("back", "cells"), ("cells", "flat"), ("flat", "output")]
    net, x = from_nir(graph(nodes, edges), dt=1.0), random(6, 3, *size)
    v, o, expected = torch.zeros(3, *size), torch.zeros(3, *size), []
    for now in x:
        u = v + (now + F.conv2d(o, weight, padding=1))
        o = (u > 1).float()
        v = u * (1 - o)
        expected.append(o.flatten(1))
    assert torch.equal(net(x), torch.stack(expected))


def recurrent() -> nn.Module:
    nodes = {
        "in": nir.Affine(weight=random(3, 4).numpy(), bias=np.full(3, 0.1)),
        "cells": nir.LIF(*(np.full(3, each) for each in (3.0, 1.5, 0.0, 0.6))),
        "again": nir.Linear(weight=-random(3, 3).numpy()),
    }
    edges = [("input", "in"), ("in", "cells"), ("cells", "again"), ("again", "cells"), ("cells", "output")]
    return from_nir(graph(nodes, edges, 4, 3), dt=1.0)


def test_wrapped_nets_are_stateless_and_independent_of_batch_mates() -> None:
    net, x = recurrent(), random(6, 10, 4)
    model = sr.wrap(net, layout="TN", encoder=None)
    first = model.outputs(x)
    assert 0 < first.mean() < 1
    assert torch.equal(model.outputs(x), first)
    assert torch.equal(torch.cat([model.outputs(each[None]) for each in x]), first)


def test_nets_can_be_copied_pickled_and_trained() -> None:
    net, x = recurrent(), random(10, 6, 4)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other(x), net(x))
    net(x).sum().backward()
    assert all(each.grad is not None and bool(each.grad.any()) for each in net.parameters())


def test_nets_can_be_attacked() -> None:
    model = sr.wrap(recurrent(), layout="TN", encoder=None)
    x = random(6, 10, 4)
    y = model.logits(x).argmax(1)
    found = sr.attack(model, (x, y), sr.load("pgd", epsilon=0.3, steps=5))
    assert found.success.any()


def test_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "net.nir"
    nir.write(path, chain(matrix([3.0])))
    for given in (path, str(path)):
        assert spikes(from_nir(given, dt=1.0), [2.0]) == [[6]]


@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_norse_computes_the_same(reset: str) -> None:
    norse = pytest.importorskip("norse.torch")
    functional = pytest.importorskip("norse.torch.functional.reset")
    weight = 4 * random(5, 4).numpy()
    constants = {"tau_syn": 2e-3, "tau_mem": 5e-3, "r": 1.5, "v_leak": 0.0, "v_threshold": 0.8}
    cells = nir.CubaLIF(**{name: np.full(5, value, np.float32) for name, value in constants.items()})
    ours = from_nir(chain(nir.Linear(weight=weight[:, :4]), cells), dt=1e-3, reset=reset)
    how = functional.reset_value if reset == "hard" else functional.reset_subtract
    theirs = norse.from_nir(nir.NIRGraph.from_list(cells), reset_method=how, dt=1e-3)
    x = random(30, 3, 4)
    with torch.no_grad():
        mine, state, other = ours(x), None, []
        for now in x:
            out, state = theirs(F.linear(now, torch.from_numpy(weight)), state)
            other.append(out)
    same = (mine == torch.stack(other)).float().mean()
    assert 0.05 < mine.mean() < 0.95
    assert same > 0.99  # the sums are rounded in another order


def test_spikingjelly_computes_the_same() -> None:
    exchange = pytest.importorskip("spikingjelly.activation_based.nir_exchange")
    if not hasattr(nir.IF(r=np.ones(1), v_threshold=np.ones(1)), "v_reset"):
        pytest.skip("SpikingJelly reads graphs of nir >= 1.0.7")
    weight = random(5, 4)
    cells = nir.IF(r=np.full(5, 1e4), v_threshold=np.ones(5))
    made = chain(nir.Linear(weight=weight.numpy()), cells)
    theirs, ours = exchange.import_from_nir(made, dt=1e-4, step_mode="m"), from_nir(made, dt=1e-4)
    x = random(30, 3, 4)
    assert torch.equal(theirs(x)[0], ours(x))


def test_unknown_nodes_are_named_with_the_known_ones() -> None:
    class Winner(nir.NIRNode):
        def __init__(self) -> None:
            self.input_type = self.output_type = {"input": np.array([1])}

    with pytest.raises(sr.InputError, match=r"expected NIR nodes of the types .*CubaLIF.*, got Winner \('a.b'\)"):
        from_nir(graph({"a.b": Winner()}, [("input", "a.b"), ("a.b", "output")]), dt=1.0)


@pytest.mark.parametrize(
    ("nodes", "edges", "message"),
    [
        ({"a": "w"}, [("input", "a")], "path from input to output"),
        ({"a": "w", "b": "w"}, [("input", "a"), ("b", "a"), ("a", "output")], r"none for \['b'\]"),
        ({"a": "w"}, [("input", "a"), ("a", "gone"), ("a", "output")], r"got \['gone'\]"),
        ({"a": "input"}, [("input", "output")], "expected one Input"),
    ],
)
def test_graphs_that_do_not_hold_together(nodes: dict[str, str], edges: list[tuple[str, str]], message: str) -> None:
    kinds = {"w": matrix([1.0]), "input": nir.Input(input_type={"input": np.array([1])})}
    wrong = graph({"x": matrix([1.0])}, [("input", "x"), ("x", "output")])
    wrong.nodes = {**{name: kinds[kind] for name, kind in nodes.items()}, **wrong.nodes}  # type: ignore[attr-defined]
    wrong.edges = edges  # type: ignore[attr-defined]
    with pytest.raises(sr.InputError, match=message):
        from_nir(wrong, dt=1.0)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            nir.LIF(*(np.array([each]) for each in (0.5, 1.0, 0.0, 1.0))),
            "'n0' .LIF.: expected tau of at least one step",
        ),
        (nir.IF(r=np.array([np.nan]), v_threshold=np.ones(1)), "finite"),
        (nir.Linear(weight=np.ones((2, 3, 4))), "expected weights"),
        (nir.Delay(delay=np.array([1.5])), "whole steps"),
        (nir.Delay(delay=np.array([-1.0])), "whole steps"),
    ],
)
def test_parameters_that_do_not_fit(node: object, message: str) -> None:
    with pytest.raises(sr.InputError, match=message):
        from_nir(chain(node), dt=1.0)


def test_inputs_of_another_shape_are_refused() -> None:
    net = from_nir(chain(nir.IF(r=np.ones(3), v_threshold=np.arange(1.0, 4.0))), dt=1.0)
    with pytest.raises(sr.InputError, match=r"last axes are \[3\]"):
        net(torch.ones(2, 1, 4))


def test_arguments_are_checked(tmp_path: Path) -> None:
    good = chain(matrix([1.0]))
    for dt in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(sr.InputError, match="positive step"):
            from_nir(good, dt=dt)
    with pytest.raises(sr.InputTypeError, match="dt"):
        from_nir(good, dt="1")  # type: ignore[arg-type]
    with pytest.raises(sr.InputError, match="reset"):
        from_nir(good, dt=1.0, reset="none")  # type: ignore[arg-type]
    with pytest.raises(sr.InputTypeError, match="surrogate"):
        from_nir(good, dt=1.0, surrogate=3)  # type: ignore[arg-type]
    with pytest.raises(sr.InputTypeError, match="NIRGraph"):
        from_nir(matrix([1.0]), dt=1.0)
    with pytest.raises(sr.InputError, match="no such file"):
        from_nir(tmp_path / "none.nir", dt=1.0)
    (tmp_path / "broken.nir").write_text("no HDF5")
    with pytest.raises(sr.InputError, match="does not read"):
        from_nir(tmp_path / "broken.nir", dt=1.0)


@pytest.mark.parametrize("package", ["nir", "nirtorch"])
def test_missing_packages_are_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(sr.MissingExtraError, match=rf"'{package}'.*snnrobust\[nir\]"):
        from_nir("net.nir", dt=1.0)
