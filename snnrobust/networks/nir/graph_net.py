"""A NIR graph as a net: nirtorch's graph, called once for all steps, or step by step where there are loops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from snnrobust.networks.nir.neurons import OneStep


def without_default_state(executable: fx.GraphModule) -> fx.GraphModule:
    """nirtorch's graph without its choice of an initial state, which is always given here.

    nirtorch 2.6 makes that choice in a function that pickle does not find: such nets could not go to other processes.
    """
    for node in list(executable.graph.nodes):
        if node.op == "call_function" and getattr(node.target, "__name__", "") == "ternary_operator":
            _, _, given = node.args
            node.replace_all_uses_with(given)
            executable.graph.erase_node(node)
    executable.recompile()
    return executable


class Previous(nn.Module):
    """The output of another node at the step before; zeros at the first.

    Args:
        shape: Of that output, for one sample.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, None]:
        """[N, *]; of the graph's input `x` it takes the number of samples only."""
        return (x.new_zeros(len(x), *self.shape) if state is None else state), None


class GraphNet(nn.Module):
    """Runs nirtorch's graph on [T, N, *]. It keeps no state between calls.

    Args:
        graph: From `nirtorch.nir_to_torch`.
        feedback: The source of each `Previous` module, by name; empty for a graph without loops.
    """

    def __init__(self, graph: nn.Module, feedback: Mapping[str, str]) -> None:
        super().__init__()
        self.graph = graph
        self.feedback = dict(feedback)

    def forward(self, x: Tensor) -> Tensor:
        """[T, N, *] to [T, N, *]."""
        if not self.feedback:
            out: Tensor = self.graph(x, {})[0]
            return out
        # nirtorch's own initial state is one dictionary for all calls in some versions.
        state: dict[str, Any] = {
            name: None for name, module in self.graph.named_children() if isinstance(module, OneStep | Previous)
        }
        outputs = []
        for now in x:
            out, state = self.graph(now, state)
            outputs.append(out)
            for name, source in self.feedback.items():
                state[name] = state[source][0]
        return torch.stack(outputs)
