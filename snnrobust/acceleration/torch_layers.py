"""Layers of torch.nn that are fused with a node, where a call takes all steps of all samples, [T N, C, H, W].

Loops over time are written with these as often as with a framework's own.
"""

from __future__ import annotations

from torch import nn

from snnrobust.kernels.unit import PoolKind


def is_fixed_batch_norm(module: nn.Module) -> bool:
    """As `Adapter.is_fixed_batch_norm`."""
    return type(module) is nn.BatchNorm2d and module.running_mean is not None


def is_conv3x3(module: nn.Module) -> bool:
    """As `Adapter.is_conv3x3`."""
    if type(module) is not nn.Conv2d or module.bias is not None:
        return False
    sizes = (module.kernel_size, module.stride, module.padding, module.dilation, module.groups, module.padding_mode)
    return sizes == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")


def pool2x2_kind(module: nn.Module) -> PoolKind | None:
    """As `Adapter.pool2x2_kind`."""
    if type(module) is nn.AvgPool2d:
        whole = not module.ceil_mode and module.divisor_override is None
        return "mean" if whole and _sizes(module.kernel_size, module.stride, module.padding) == (2, 2, 0) else None
    if type(module) is nn.MaxPool2d:
        whole = not module.ceil_mode and not module.return_indices
        sizes = _sizes(module.kernel_size, module.stride, module.padding, module.dilation)
        return "max" if whole and sizes == (2, 2, 0, 1) else None
    return None


def _sizes(*given: int | tuple[int, ...]) -> tuple[int | tuple[int, ...], ...]:
    """Sizes with one number where height and width have the same."""
    return tuple(each[0] if isinstance(each, tuple) and len(set(each)) == 1 else each for each in given)
