"""Modules for the NIR nodes without memory: weights, pooling, and changes of shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from spikingjelly.activation_based import layer
from torch import Tensor, nn

from snnrobust.errors import InputError
from snnrobust.neurons.node import StepMode


class Scale(nn.Module):
    """The input times fixed factors.

    Args:
        scale: A number, or one factor for each entry of the last axes.
    """

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(scale)

    def forward(self, x: Tensor) -> Tensor:
        """[T, N, *] or [N, *]."""
        return x * self.scale


class Add(nn.Module):
    """The sum of its inputs: nirtorch gives them one by one or already added, depending on its version."""

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        """[T, N, *] or [N, *] each."""
        for other in others:
            x = x + other
        return x


def affine_layer(node: Any, mode: StepMode) -> nn.Module:
    """Of Affine and Linear, which act on the last axis."""
    weight = floats(node.weight)
    if weight.ndim != 2:
        raise InputError(
            f"expected weights [outputs, inputs] in a NIR {type(node).__name__}, got shape {list(weight.shape)}; "
            "write it as a matrix"
        )
    bias = _bias(node)
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    return _with_weights(module, weight, bias)


def conv1d(node: Any, mode: StepMode) -> nn.Module:
    """Of Conv1d."""
    return _conv(node, layer.Conv1d, 1, mode)


def conv2d(node: Any, mode: StepMode) -> nn.Module:
    """Of Conv2d."""
    return _conv(node, layer.Conv2d, 2, mode)


def sum_pool2d(node: Any, mode: StepMode) -> nn.Module:
    """Of SumPool2d; zeros are added at the border."""
    return _pool(node, mode, divisor_override=1)


def avg_pool2d(node: Any, mode: StepMode) -> nn.Module:
    """Of AvgPool2d; zeros at the border count."""
    return _pool(node, mode)


def flatten(node: Any, mode: StepMode) -> nn.Module:
    """Of Flatten, whose axes are those of one sample at one step."""
    first = 2 if mode == "m" else 1
    start, end = (int(each) for each in (node.start_dim, node.end_dim))
    return nn.Flatten(start + first if start >= 0 else start, end + first if end >= 0 else end)


def scale(node: Any, mode: StepMode) -> nn.Module:
    """Of Scale."""
    return Scale(floats(node.scale))


def floats(values: Any) -> Tensor:
    """Numbers of NIR in float32; refuses NaN and infinity."""
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise InputError("expected finite numbers in the NIR graph, got NaN or infinity; correct its parameters")
    return torch.from_numpy(array).float()


def _conv(node: Any, kind: Any, axes: int, mode: StepMode) -> nn.Module:
    weight, bias = floats(node.weight), _bias(node)
    groups = int(node.groups)
    module: nn.Module = kind(
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        stride=_sizes(node.stride, axes),
        padding=_sizes(node.padding, axes),
        dilation=_sizes(node.dilation, axes),
        groups=groups,
        bias=bias is not None,
        step_mode=mode,
    )
    return _with_weights(module, weight, bias)


def _pool(node: Any, mode: StepMode, **options: int) -> nn.Module:
    sizes = (_sizes(each, 2) for each in (node.kernel_size, node.stride, node.padding))
    module: nn.Module = layer.AvgPool2d(*sizes, step_mode=mode, **options)
    return module


def _sizes(value: Any, axes: int) -> Any:
    """Whole numbers, one an axis; "same" and "valid" as they are."""
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, str):
        return value
    numbers = [int(each) for each in np.atleast_1d(value)]
    return tuple(numbers * axes if len(numbers) == 1 else numbers)


def _bias(node: Any) -> Tensor | None:
    """None where all are zero: NIR's convolutions always have one, also those that were trained without."""
    values = getattr(node, "bias", None)  # a Linear has none
    bias = None if values is None else floats(values)
    return bias if bias is not None and bool(bias.any()) else None


def _with_weights(module: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    module.register_parameter("weight", nn.Parameter(weight))
    module.register_parameter("bias", None if bias is None else nn.Parameter(bias))
    return module
