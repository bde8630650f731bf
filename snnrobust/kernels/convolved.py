"""A convolution of spikes and the unit after it in one kernel on the CPU, without a gradient."""

from __future__ import annotations

import ctypes
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from snnrobust.kernels.build import BuildError, library
from snnrobust.kernels.native import Native, batch_norm_is_contracted, native_neuron
from snnrobust.kernels.unit import Affine, Unit

#: Frames on which each shape of convolution is compared with torch.
FRAMES = 64


class _ConvolutionShape(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("steps", "current_steps", "samples", "channels", "height", "width")),
        ("out_channels", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("threads", "contracted", "channels_last")),
    )


class Convolved:
    """3 x 3 convolution with stride 1 and zero padding, then a `Unit`: the current is not written to memory.

    Inputs of zero, as most spikes are, cost nothing. Sums are rounded in the order of oneDNN's kernels; where torch
    uses another order, which is tested once for each shape, the kernel is not used.

    Args:
        native: The native kernel.
    """

    def __init__(self, native: Native) -> None:
        self._native = native
        self._library = library()
        self._contracted = batch_norm_is_contracted()
        self._agrees: dict[tuple[int, ...], bool] = {}

    def supports(self, unit: Unit, x: Tensor, weight: Tensor) -> bool:
        """Whether it supports unit and convolution, with results equal to torch's to the bit."""
        return (
            self._native.supports(unit, x)
            and x.ndim == 5
            and weight.dtype == x.dtype
            and weight.device == x.device
            and weight.shape[1:] == (x.shape[2], 3, 3)
            and bool(weight.isfinite().all())  # zero inputs are skipped, but 0 * inf is NaN
            and self._agrees_on(x, weight)
        )

    def forward(
        self, unit: Unit, x: Tensor, weight: Tensor, affine: Affine | None, *, channels_last: bool = False
    ) -> Tensor:
        """Spikes [T, N, O, H, W], pooled or not.

        Args:
            unit: Node and pooling.
            x: Input [T, N, C, H, W], or [1, N, C, H, W] for one that is the same at each step.
            weight: [O, C, 3, 3].
            affine: Applied to the convolution.
            channels_last: Whether the result has the memory layout [T, N, H, W, O], as the kernel reads inputs.
        """
        (n, _, height, width), channels = x.shape[1:], len(weight)
        if unit.pool is not None:
            height, width = height // 2, width // 2
        if channels_last:
            out = x.new_empty(unit.steps, n, height, width, channels)
        else:
            out = x.new_empty(unit.steps, n, channels, height, width)
        self._call(unit, x, weight, affine, out, channels_last)
        return out.movedim(-1, 2) if channels_last else out

    def _agrees_on(self, x: Tensor, weight: Tensor) -> bool:
        kind = (*x.shape[2:], len(weight), torch.get_num_threads())
        if kind not in self._agrees:
            generator = torch.Generator().manual_seed(0)
            some = torch.rand(1, FRAMES, *x.shape[2:], generator=generator)
            weights = torch.randn(weight.shape, generator=generator)
            with torch.no_grad():
                theirs = F.conv2d(some[0], weights, padding=1)
                ours = theirs.new_empty(theirs.shape)
                self._call(None, some, weights, None, ours, False)
            self._agrees[kind] = torch.equal(ours, theirs)
        return self._agrees[kind]

    def _call(
        self, unit: Unit | None, x: Tensor, weight: Tensor, affine: Affine | None, out: Tensor, channels_last: bool
    ) -> None:
        x = x.movedim(2, -1).contiguous()  # [T or 1, N, H, W, C]
        steps, samples, height, width, channels = x.shape
        shape = _ConvolutionShape(
            steps=steps if unit is None else unit.steps,
            current_steps=steps,
            samples=samples,
            channels=channels,
            height=height,
            width=width,
            out_channels=len(weight),
            threads=torch.get_num_threads(),
            contracted=self._contracted,
            channels_last=channels_last,
        )
        scale, shift = (each.contiguous() for each in affine) if affine is not None else (None, None)
        tensors = (x, weight.contiguous(), scale, shift, out)
        pointers = (None if each is None else ctypes.c_void_p(each.data_ptr()) for each in tensors)
        neuron = None if unit is None else ctypes.byref(native_neuron(unit))
        if self._library.convolved(neuron, ctypes.byref(shape), *pointers):
            raise MemoryError(f"no room for {height} x {width} windows of a convolution")


@cache
def convolution_kernel() -> Convolved | None:
    """The kernel, where it can be built."""
    try:
        return Convolved(Native())
    except BuildError:
        return None
