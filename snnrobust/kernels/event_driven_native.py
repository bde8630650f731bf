"""Event-driven neurons on the CPU by the native kernel: the numbers of `event_driven.spike_times`, faster."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snnrobust.kernels.build import library
from snnrobust.kernels.event_driven import GRAZING, EventDynamics, sort_inputs

#: Groups of samples whose weight gradients are summed apart, as in event_driven.hpp.
GROUPS = 8
_NAMES = {torch.float32: "float", torch.float64: "double"}


class _EventLayer(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("samples", "inputs", "outputs", "sources", "spikes")),
        *((name, ctypes.c_double) for name in ("reset", "tau", "grazing")),
        ("threads", ctypes.c_int32),
    )


def supports(times: Tensor, weight: Tensor, dynamics: EventDynamics) -> bool:
    """Whether the kernel has these dynamics, dtypes and devices."""
    return (
        times.device.type == weight.device.type == "cpu"
        and times.dtype == weight.dtype
        and times.dtype in _NAMES
        and dynamics.ratio == 2
    )


def native_spike_times(times: Tensor, weight: Tensor, dynamics: EventDynamics) -> Tensor:
    """As `event_driven.spike_times`, with first derivatives alone.

    Raises:
        BuildError: If the kernel can't be built here.
    """
    inputs = sort_inputs(times, dynamics.duration)
    counts = inputs.present.sum(dim=1)
    found: Tensor = _SpikeTimes.apply(inputs.times, weight, inputs.source, inputs.following, counts, dynamics)
    return found


class _SpikeTimes(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        times: Tensor,
        weight: Tensor,
        source: Tensor,
        following: Tensor,
        counts: Tensor,
        dynamics: EventDynamics,
    ) -> Tensor:
        """Spike times [N, M, K] from sorted inputs [N, L]."""
        phase = times / dynamics.tau
        slow = phase.exp().contiguous()
        fast = slow.square()
        rows = weight.T.contiguous()  # (I, M)
        shape = (len(times), len(weight), dynamics.max_spikes)
        found = times.new_full(shape, torch.inf)
        slopes, places = times.new_zeros(shape), torch.full(shape, -1, dtype=torch.int32)
        end = (following / dynamics.tau).exp().contiguous()
        source = source.contiguous()
        layer = _layer(times, weight, dynamics)
        _call("forward", layer, times.dtype, fast, slow, end, source, counts, rows, found, slopes, places)
        ctx.save_for_backward(fast, slow, source, rows, found, slopes, places)
        ctx.layer = layer
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients with respect to sorted times and weights."""
        fast, slow, source, rows, found, slopes, places = ctx.saved_tensors
        to_times, to_rows = torch.zeros_like(fast), rows.new_zeros(GROUPS, *rows.shape)
        gradient = gradient.contiguous()
        saved = (fast, slow, source, rows, found, slopes, places)
        _call("backward", ctx.layer, fast.dtype, *saved, gradient, to_times, to_rows)
        return to_times, to_rows.sum(dim=0).T, None, None, None, None


def _layer(times: Tensor, weight: Tensor, dynamics: EventDynamics) -> _EventLayer:
    return _EventLayer(
        samples=len(times),
        inputs=times.shape[1],
        outputs=len(weight),
        sources=weight.shape[1],
        spikes=dynamics.max_spikes,
        reset=dynamics.reset,
        tau=dynamics.tau,
        grazing=GRAZING,
        threads=torch.get_num_threads(),
    )


def _call(name: str, layer: _EventLayer, dtype: torch.dtype, *tensors: Tensor) -> None:
    function = getattr(library(), f"events_{name}_{_NAMES[dtype]}")
    if function(ctypes.byref(layer), *(ctypes.c_void_p(each.data_ptr()) for each in tensors)):
        raise MemoryError(f"no room for {layer.samples} samples of {layer.outputs} event-driven neurons")
