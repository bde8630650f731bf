"""A net leaves `preserved` exactly as it came; and the comparison used here does see a leak without it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor, nn

from snnrobust.frameworks.find import find_adapter
from snnrobust.wrapping.restore import preserved


class Handmade(nn.Module):
    """State kept in every way that a hand-written net keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(3, 4), nn.BatchNorm1d(4), neuron.IFNode(surrogate_function=surrogate.ATan())
        )
        self.weight = nn.Parameter(torch.randn(4))
        self.register_buffer("trace", torch.ones(4))
        self.register_buffer("hidden", torch.ones(4), persistent=False)
        self.mem: Tensor | float = 0.0
        self._mem = torch.zeros(4)
        self.history: list[Any] = [1, torch.zeros(2)]
        self.states: dict[str, Any] = {"a": torch.zeros(2), "deep": {"b": [torch.zeros(2)]}}
        self.seen = {1, 2}
        self.queue: deque[int] = deque([1], maxlen=3)
        self.pair = (torch.zeros(2), [0])
        self.count = 0
        self.body[0].weight.grad = torch.ones_like(self.body[0].weight)
        self.body[0].bias.requires_grad_(False)
        self.train()
        self.body[1].eval()


def freeze(value: Any) -> Any:
    """Contents at any depth, with the identity of what can be told apart; tensors by bytes, shape, grad and flag."""
    if isinstance(value, Tensor):
        grad = None if not value.is_leaf or value.grad is None else (id(value.grad), value.grad.flatten().tolist())
        described = (value.dtype, tuple(value.shape), value.data_ptr(), value.detach().flatten().tolist())
        return (id(value), *described, value.requires_grad, grad)
    if isinstance(value, dict):
        return id(value), [(key, freeze(each)) for key, each in value.items()]
    if isinstance(value, list | tuple | deque):
        return id(value), [freeze(each) for each in value]
    if isinstance(value, set):
        return id(value), sorted(map(str, value))
    return id(value) if callable(value) or isinstance(value, nn.Module) else (type(value), repr(value))


def everything(net: nn.Module) -> dict[str, Any]:
    return {name: {key: freeze(value) for key, value in vars(module).items()} for name, module in net.named_modules()}


def _in_place(n: Handmade) -> None:
    with torch.no_grad():
        n.weight.mul_(2)


def _data(n: Handmade) -> None:
    n.weight.data = torch.zeros(4)


def _data_shape(n: Handmade) -> None:
    n.weight.data = torch.zeros(7)


def _deep(n: Handmade) -> None:
    n.states["deep"]["b"][0].add_(1)
    n.states["deep"]["b"].append(3)
    n.states["deep"]["c"] = 1


def _hooks(n: Handmade) -> None:
    n.body.register_forward_hook(lambda *_: None, with_kwargs=True)
    n.body[0].register_forward_pre_hook(lambda *_: None)
    n.body.register_full_backward_hook(lambda *_: None)
    n.register_state_dict_pre_hook(lambda *_: None)


CHANGES: dict[str, Callable[[Handmade], object]] = {
    "mode": lambda n: n.train(False),
    "mode of one": lambda n: n.body[1].train(),
    "attribute": lambda n: setattr(n, "mem", torch.ones(4)),
    "underscore": lambda n: n._mem.add_(1),
    "underscore object": lambda n: setattr(n, "_mem", torch.ones(4)),
    "number": lambda n: setattr(n, "count", 5),
    "attribute added": lambda n: setattr(n, "extra", 1),
    "attribute deleted": lambda n: delattr(n, "count"),
    "list": lambda n: n.history.append(2),
    "tensor in a list": lambda n: n.history[1].add_(1),
    "dict": lambda n: n.states.update(a=None),
    "tensor in a dict": lambda n: n.states["a"].add_(1),
    "deep": _deep,
    "set": lambda n: n.seen.add(3),
    "deque": lambda n: n.queue.extend([2, 3, 4]),
    "tuple": lambda n: (n.pair[0].add_(1), n.pair[1].append(2)),
    "buffer": lambda n: n.get_buffer("trace").add_(1),
    "buffer replaced": lambda n: setattr(n, "trace", torch.zeros(4)),
    "hidden buffer": lambda n: n.get_buffer("hidden").add_(1),
    "buffer added": lambda n: n.register_buffer("more", torch.zeros(1), persistent=False),
    "buffer deleted": lambda n: delattr(n, "trace"),
    "batch norm": lambda n: n.body[1].train()(torch.randn(5, 4)),
    "parameter in place": _in_place,
    "parameter data": _data,
    "parameter data of another shape": _data_shape,
    "parameter replaced": lambda n: setattr(n, "weight", nn.Parameter(torch.zeros(4))),
    "parameter deleted": lambda n: delattr(n, "weight"),
    "parameter added": lambda n: n.register_parameter("w2", nn.Parameter(torch.zeros(1))),
    "double": lambda n: n.double(),
    "half and back": lambda n: n.half().float(),
    "gradient": lambda n: n.body[0].weight.grad.add_(1),
    "gradient cleared": lambda n: n.zero_grad(set_to_none=True),
    "gradient set": lambda n: setattr(n.weight, "grad", torch.ones(4)),
    "flag": lambda n: n.requires_grad_(False),
    "flag set": lambda n: n.body[0].bias.requires_grad_(True),
    "child swapped": lambda n: n.body.__setitem__(1, nn.Identity()),
    "child added": lambda n: n.add_module("more", nn.Identity()),
    "child deleted": lambda n: delattr(n, "body"),
    "surrogate swapped": lambda n: setattr(n.body[2], "surrogate_function", surrogate.Sigmoid()),
    "surrogate sharpened": lambda n: setattr(n.body[2].surrogate_function, "alpha", 99.0),
    "threshold": lambda n: setattr(n.body[2], "v_threshold", 0.1),
    "memory": lambda n: n.body[2](torch.ones(2, 4)),
    "memory added": lambda n: n.body[2].register_memory("w", 0.0),
    "hooks": _hooks,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("fails", [False, True])
def test_any_change_is_undone(change: str, fails: bool) -> None:
    net = Handmade()
    net.body.eval()(torch.ones(2, 3))  # stale state
    net.body.train()
    before = everything(net)
    try:
        with preserved(net, find_adapter(net)):
            CHANGES[change](net)
            if fails:
                raise RuntimeError("inside")
    except RuntimeError:
        assert fails
    assert everything(net) == before


@pytest.mark.parametrize("change", [name for name in CHANGES if name != "half and back"])
def test_negative_control_the_comparison_sees_each_change(change: str) -> None:
    net = Handmade()
    before = everything(net)
    CHANGES[change](net)
    assert everything(net) != before


def test_removed_hooks_come_back_with_their_options() -> None:
    net, heard = Handmade(), []
    handle = net.body.register_forward_hook(lambda m, args, kwargs, out: heard.append(kwargs), with_kwargs=True)
    before = everything(net)
    with preserved(net, find_adapter(net)):
        handle.remove()
    assert everything(net) == before
    net.eval().body(torch.ones(2, 3))
    assert heard == [{}]


def test_inside_the_net_is_in_eval_mode_with_fresh_state() -> None:
    net = Handmade()
    stale = torch.full((2, 4), 0.4)
    net.body[2].v = stale
    with preserved(net, find_adapter(net)):
        assert not any(module.training for module in net.modules())
        assert net.body[2].v == 0.0
        net.body[2](torch.ones(2, 4) * 0.3)
    assert net.body[2].v is stale
    assert torch.equal(stale, torch.full((2, 4), 0.4))


def test_an_autograd_graph_of_the_users_own_stays_usable() -> None:
    """Writing unchanged values back would bump version counters, and backward would fail."""
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    loss = net(torch.ones(2, 3)).sum()
    with preserved(net, None):
        net(torch.zeros(1, 3))
    loss.backward()
    assert net[0].weight.grad is not None


def test_nested_blocks_and_cycles_are_fine() -> None:
    net = Handmade()
    net.states["self"] = net.states
    with preserved(net, find_adapter(net)):
        net.count = 1
        with preserved(net, find_adapter(net)):
            net.count = 2
        assert net.count == 1
    assert net.count == 0
    assert net.states["self"] is net.states
