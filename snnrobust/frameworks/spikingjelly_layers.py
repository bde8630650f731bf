"""Properties of SpikingJelly's layers on sequences [T, N, *] in eval mode."""

from __future__ import annotations

from spikingjelly.activation_based import base, layer
from torch import nn

from snnrobust.kernels.unit import PoolKind

_FLATTENED = (
    *(layer.Conv1d, layer.Conv2d, layer.Conv3d, layer.BatchNorm1d, layer.BatchNorm2d, layer.BatchNorm3d),
    *(layer.AvgPool1d, layer.AvgPool2d, layer.AvgPool3d, layer.MaxPool1d, layer.MaxPool2d, layer.MaxPool3d),
    *(layer.AdaptiveAvgPool1d, layer.AdaptiveAvgPool2d, layer.AdaptiveAvgPool3d, layer.GroupNorm, layer.Upsample),
)


class SpikingJellyLayers:
    """The methods of the adapter about layers."""

    def is_stateless(self, module: nn.Module) -> bool:
        """Whether it is one of torch's or SpikingJelly's layers without memories, or made of such."""
        known = type(module).__module__.startswith(("torch.nn.", "spikingjelly."))
        return known and not any(isinstance(each, base.MemoryModule | nn.RNNBase) for each in module.modules())

    def is_stepwise(self, module: nn.Module) -> bool:
        """Whether each time step is treated separately: layers that run on the flattened time and batch axes, and torch
        layers that act entry by entry or on the last axis."""
        if isinstance(module, layer.SeqToANNContainer):
            return not any(isinstance(each, base.MemoryModule) for each in module.modules())
        if isinstance(module, nn.Flatten):
            return module.start_dim >= 1
        if isinstance(module, layer.Dropout | nn.Dropout | nn.Identity | nn.ReLU):
            return True  # dropout is the identity in eval mode
        if isinstance(module, _FLATTENED):
            return bool(module.step_mode == "m")
        return isinstance(module, nn.Linear)

    def is_fixed_batch_norm(self, module: nn.Module) -> bool:
        """Whether the module is a fixed affine map of each channel of [T, N, C, H, W]."""
        return type(module) is layer.BatchNorm2d and module.running_mean is not None

    def is_conv3x3(self, module: nn.Module) -> bool:
        """Whether the module is a 3 x 3 convolution of [T, N, C, H, W] with stride 1, zero padding and no bias."""
        if type(module) is not layer.Conv2d or module.bias is not None:
            return False
        sizes = (module.kernel_size, module.stride, module.padding, module.dilation, module.groups, module.padding_mode)
        return sizes == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")

    def pool2x2_kind(self, module: nn.Module) -> PoolKind | None:
        """The kind of 2 x 2 pooling (stride 2, no padding) of the module; None if it is no such pooling."""
        if type(module) not in (layer.AvgPool2d, layer.MaxPool2d) or module.ceil_mode:
            return None
        sizes = (module.kernel_size, module.stride, module.padding, getattr(module, "dilation", 1))
        if not all(size in (want, (want, want)) for size, want in zip(sizes, (2, 2, 0, 1), strict=True)):
            return None
        if type(module) is layer.MaxPool2d:
            return None if module.return_indices else "max"
        return "mean" if module.divisor_override is None else None
