"""The outputs are found in what nets return: tuples with state, dicts, lists of steps, axes in another order."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.data.batch import Batch
from snnrobust.errors import InputError, InputTypeError
from snnrobust.objectives.logits import CrossEntropy
from snnrobust.search.queries import ModelQueries
from snnrobust.spike_gradients.swap import Own

T, N, D, K = 4, 6, 8, 3


class Net(nn.Module):
    """A layer of spikes, T steps; `form` makes what it returns of the spikes [T, N, K]."""

    def __init__(self, form: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.node, self.form = nn.Linear(D, K), neuron.LIFNode(v_threshold=0.2, step_mode="m"), form

    def forward(self, x: Tensor) -> Any:
        sequence = x if x.ndim == 3 else x.expand(T, *x.shape)
        return self.form(self.node(self.linear(sequence)))


def plain(o: Tensor) -> Tensor:
    return o


FORMS: dict[str, tuple[Callable[[Tensor], Any], dict[str, Any]]] = {
    "tuple with nothing": (lambda o: (o, None), {}),
    "tuple with state": (lambda o: (o, [o[-1], (o[-1], 2)]), {}),
    "tuple with another number of samples": (lambda o: (o, torch.zeros(K, 7)), {}),
    "named entry": (lambda o: {"logits": o, "epoch": 3}, {}),
    "one entry of an ordered dict": (lambda o: OrderedDict(out=o), {}),
    "list of steps": (lambda o: list(o), {}),
    "trailing height and width": (lambda o: o[..., None, None], {}),
    "tuple, by position": (lambda o: (o * 0, o), {"output": 1}),
    "dict, by key": (lambda o: {"a": o * 0, "b": o}, {"output": "b"}),
    "dict, by function": (lambda o: {"a": {"b": o}}, {"output": lambda found: found["a"]["b"]}),
    "tuple of steps, by function": (lambda o: (o * 0, tuple(o)), {"output": 1}),
    "samples first": (lambda o: o.transpose(0, 1), {"out_layout": "NT"}),
    "without time": (lambda o: (o.mean(0), o), {"output": 0, "out_layout": "N"}),
}


@pytest.mark.parametrize("accelerate", [False, True])
@pytest.mark.parametrize("name", FORMS)
def test_a_form_gives_the_logits_and_gradients_of_the_tensor_alone(name: str, accelerate: bool) -> None:
    form, settings = FORMS[name]
    x = torch.rand(N, D, generator=torch.Generator().manual_seed(0))
    batch = Batch(x, torch.arange(N) % K, torch.arange(N))
    found = []
    for net, more in ((Net(form), settings), (Net(plain), {})):
        model = sr.wrap(net, steps=T, accelerate=accelerate, **more)
        with model.session():
            queries = ModelQueries(model, CrossEntropy(), Own())
            found.append((model.logits(x), *queries.gradient(batch)))
            assert queries.execution.path.accelerated is accelerate
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)
    assert found[0][1].any()


@pytest.mark.parametrize("count", [1, T, N])
@pytest.mark.parametrize("form", [plain, lambda o: o.transpose(0, 1), list, lambda o: (o[..., None, None], None)])
def test_static_inputs_may_become_outputs_over_time_in_either_order(form: Callable[[Tensor], Any], count: int) -> None:
    """In layout "N"; as many samples as steps are told apart by one sample alone."""
    x = torch.rand(count, D, generator=torch.Generator().manual_seed(0))
    want = sr.wrap(Net(plain), steps=T).logits(x)
    model = sr.wrap(Net(form), layout="N")
    assert torch.equal(model.logits(x), want)
    assert torch.equal(model.logits(x), want)


def test_a_net_called_step_by_step_may_return_its_state() -> None:
    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.linear, self.node = nn.Linear(D, K), neuron.LIFNode(v_threshold=0.2)

        def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            spikes = self.node(self.linear(x))
            return spikes, {"v": self.node.v}

    x = torch.rand(N, D, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sr.wrap(Step(), layout="step", steps=T).logits(x), sr.wrap(Net(plain), steps=T).logits(x))


@pytest.mark.parametrize(
    ("form", "advice"),
    [
        (lambda o: (o, o * 2), [{"output": 0}, {"output": 1}]),
        (lambda o: {"spikes": o, "membrane": o * 2}, [{"output": "spikes"}, {"output": "membrane"}]),
        (lambda o: (o.mean(0), o), [{"output": 0}, {"output": 1}]),
    ],
)
def test_several_candidates_are_refused_with_the_arguments_that_choose(form: Any, advice: list[dict[str, Any]]) -> None:
    x = torch.rand(N, D)
    with pytest.raises(InputError, match="expected one tensor of outputs from the net") as caught:
        sr.wrap(Net(form), steps=T).logits(x)
    for each in advice:
        ((name, value),) = each.items()
        assert f"{name}={value!r}" in str(caught.value)
        assert sr.wrap(Net(form), steps=T, **each).logits(x).shape == (N, K)


@pytest.mark.parametrize(
    ("form", "settings", "error", "words"),
    [
        (lambda o: (None, "a"), {}, InputTypeError, r"got a tuple \{0: NoneType, 1: str\}; pass output= to wrap"),
        (lambda o: (o, None), {"output": 2}, InputError, r"output=2 in what the net returns, got a tuple"),
        (lambda o: {"a": o}, {"output": "b"}, InputError, r"output='b' in what the net returns, got a dict \{'a'"),
        (lambda o: (o, None), {"output": 1}, InputTypeError, "expected a tensor from output=1, got NoneType"),
        (lambda o: o, {"out_layout": "NT"}, InputError, "pass out_layout='TN' to wrap"),
        (lambda o: o.mean(0), {"out_layout": "TN"}, InputError, r"expected output \[N, K\]"),
    ],
)
def test_a_choice_that_does_not_fit_is_refused(form: Any, settings: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        sr.wrap(Net(form), steps=T, **settings).logits(torch.rand(N, D))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"out_layout": "KN"}, r"expected out_layout in \['N', 'NT', 'TN'\]"),
        ({"output": True}, "expected output to be a position, a key or a callable, got True"),
        ({"layout": "step", "out_layout": "NT"}, "expected no out_layout in layout 'step'"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], words: str) -> None:
    with pytest.raises((InputError, InputTypeError), match=words):
        sr.wrap(Net(plain), steps=T, **settings)


def test_an_evaluation_takes_a_net_that_returns_its_spikes_too() -> None:
    x = torch.rand(40, D, generator=torch.Generator().manual_seed(0))
    y = sr.wrap(Net(plain), steps=T).logits(x).argmax(1)
    tasks: list[Any] = [sr.load("pgd", epsilon=[0.05, 0.2], steps=4), sr.load("gaussian", severity=[0.1]), "activity"]
    curves = []
    for form, settings in ((plain, {}), (lambda o: (o * 3, o), {"output": 1})):
        report = sr.evaluate(sr.wrap(Net(form), steps=T, name="net", **settings), (x, y), tasks, evidence="basic")
        curves.append((report.curve("pgd").value, report.curve("gaussian").value))
        assert report.run["models"]["net"]["output"] == (repr(1) if settings else None)
    assert curves[0] == curves[1]
