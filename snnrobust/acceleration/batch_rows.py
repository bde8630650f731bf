"""How many samples a pass needs so that rounding does not depend on the batch.

Libraries multiply matrices of few rows in another way, with another rounding. From how many rows on a row's bits no
longer depend on the others was measured per kind of layer (scripts/studies/batch_rounding.py, docs/speed.md). A layer
on all T steps of n samples has T n rows; before the first spiking node of a net with a static input it has n.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import fx, nn

from snnrobust.acceleration.graph import repeats_one_step
from snnrobust.acceleration.loop_steps import begins_all_steps, ends_all_steps
from snnrobust.acceleration.node import FastNode

#: Least rows of a matrix product, of a 1 x 1 convolution of stride 1, and of other convolutions.
PRODUCT, POINTWISE_CONVOLUTION, CONVOLUTION = 16, 16, 2
#: Least rows of what is not known. With more threads, rounding may differ.
UNKNOWN = 16

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_PRODUCTS = (
    *(operator.matmul, torch.matmul, torch.mm, torch.bmm, torch.einsum, torch.tensordot),
    *(F.linear, F.bilinear, F.conv1d, F.conv2d, F.conv3d),
    *("matmul", "mm", "bmm", "addmm", "einsum"),
)


@dataclass(frozen=True)
class LeastRows:
    """The least rows of a net's layers.

    Attributes:
        one_step: Of layers with a row for each sample.
        all_steps: Of layers with a row for each sample and step.
    """

    one_step: int = 1
    all_steps: int = 1

    def samples(self, steps: int) -> int:
        """The least number of samples for T steps."""
        return max(self.one_step, math.ceil(self.all_steps / steps))


def least_rows(graph: fx.GraphModule | None, *, one_step: bool) -> LeastRows:
    """The least rows of a rewritten net.

    Args:
        graph: The net; None: it could not be traced, and nothing is known about it.
        one_step: Whether its input is one step for all, or the net loops over the steps itself.
    """
    if graph is None:
        return LeastRows(UNKNOWN)
    single: set[fx.Node] = set()  # nodes with a row for each sample
    rows = {True: 1, False: 1}
    for node in graph.graph.nodes:
        module = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        inputs = node.all_input_nodes
        on_one_step = one_step if node.op == "placeholder" else bool(inputs) and all(each in single for each in inputs)
        if module is not None:
            rows[on_one_step] = max(rows[on_one_step], _rows_of(module))
        elif node.target in _PRODUCTS:
            rows[on_one_step] = max(rows[on_one_step], UNKNOWN)
        expands = repeats_one_step(node) or (isinstance(module, FastNode) and module.steps is not None)
        if (on_one_step and not expands and not begins_all_steps(node)) or ends_all_steps(node):
            single.add(node)
    return LeastRows(one_step=rows[True], all_steps=rows[False])


def _rows_of(module: nn.Module) -> int:
    if isinstance(module, FastNode):
        return 1 if module.conv is None else CONVOLUTION
    if isinstance(module, nn.Linear):
        return PRODUCT
    if isinstance(module, _CONVOLUTIONS):
        pointwise = set(module.kernel_size) == {1} and set(module.stride) == {1}
        return POINTWISE_CONVOLUTION if pointwise else CONVOLUTION
    if children := list(module.children()):
        return max(map(_rows_of, children))
    matrices = any(each.dim() > 1 for each in module.parameters(recurse=False))
    return UNKNOWN if matrices else 1
