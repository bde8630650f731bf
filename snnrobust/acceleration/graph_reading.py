"""What steps of a torch.fx graph do, read from their arguments."""

from __future__ import annotations

import operator
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import fx

#: Functions and methods of each sample by itself, whatever their other arguments are.
_PER_SAMPLE = (
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.neg, operator.gt, operator.ge),
    *(torch.add, torch.sub, torch.mul, torch.div, torch.neg, torch.abs, torch.clamp),
    *(torch.relu, torch.sigmoid, torch.tanh, F.relu, F.leaky_relu, F.gelu, F.silu, F.sigmoid, F.tanh),
    *(F.linear, F.conv1d, F.conv2d, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.interpolate, F.pad),
    *("add", "sub", "mul", "div", "neg", "abs", "clamp", "relu", "sigmoid", "tanh", "float", "contiguous", "clone"),
)
#: Those that are so along other dimensions than 0: the name of this argument.
_ALONG: Mapping[object, str] = {
    **dict.fromkeys((torch.flatten, "flatten"), "start_dim"),
    **dict.fromkeys((torch.cat, torch.mean, torch.sum, torch.squeeze, torch.unsqueeze), "dim"),
    **dict.fromkeys(("mean", "sum", "squeeze", "unsqueeze"), "dim"),
}


def is_per_sample(node: fx.Node) -> bool:
    """Whether a function or method is known to treat each sample, along axis 0, by itself."""
    if node.target in _PER_SAMPLE:
        return True
    if node.target is operator.getitem and isinstance(key := node.args[1], tuple):
        return key[:1] == (slice(None),)
    if (name := _ALONG.get(node.target)) is None:
        return False
    along = node.kwargs.get(name, node.args[1] if len(node.args) > 1 else 0)
    axes = along if isinstance(along, list | tuple) else [along]
    return all(isinstance(each, int) and each != 0 for each in axes)


def described_step(node: fx.Node) -> str:
    """A step of the graph in words, with the numbers among its arguments."""
    if node.op in ("call_module", "get_attr", "placeholder"):
        return f"'{node.target}'"
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    shown = (repr(each) if isinstance(each, bool | int | float) else "..." for each in node.args)
    return f"{name}({', '.join(shown)})"


def dimension(node: fx.Node) -> object:
    """The argument `dim` of a function or method."""
    given = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    return given[0] if isinstance(given, tuple | list) and len(given) == 1 else given


def from_input(node: fx.Node) -> bool:
    """Whether a value depends on the net's input, other than on its sizes."""
    waiting, seen = [node], {node}
    while waiting:
        each = waiting.pop()
        if each.op == "placeholder":
            return True
        inputs = [] if reads_size(each) else [given for given in each.all_input_nodes if given not in seen]
        seen.update(inputs)
        waiting += inputs
    return False


def reads_size(node: fx.Node) -> bool:
    """Whether it is x.size(...), x.shape, or an entry of them."""
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node.target == "size" or (node.target is getattr and str(node.args[1]) == "shape")


def step_index(node: fx.Node) -> tuple[fx.Node, int, int] | None:
    """Sequence, time axis and t of x[t], x[:, t] or x.select(axis, t)."""
    if not node.args or not isinstance(base := node.args[0], fx.Node) or node.kwargs:
        return None
    if node.target == "select" and len(node.args) == 3:
        _, axis, t = node.args
        return (base, axis, t) if isinstance(axis, int) and isinstance(t, int) else None
    if node.target is not operator.getitem or reads_size(node):
        return None
    key = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    found = [(axis, each) for axis, each in enumerate(key) if isinstance(each, int) and not isinstance(each, bool)]
    if len(found) != 1 or any(each not in (slice(None), Ellipsis, found[0][1]) for each in key) or Ellipsis in key[:-1]:
        return None
    return base, *found[0]
