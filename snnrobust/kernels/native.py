"""Units on the CPU by the native kernel."""

from __future__ import annotations

import ctypes
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from snnrobust.kernels.build import library
from snnrobust.kernels.derivative import FAMILIES, Derivative
from snnrobust.kernels.dynamics import Charge, Dynamics, Reset
from snnrobust.kernels.unit import Affine, Unit

_POOLS = (None, "mean", "max")


class _Neuron(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("charge", "decay_input", "reset", "detach_reset", "family", "pool")),
        *((name, ctypes.c_float) for name in ("rate", "threshold", "reset_value", "start", "a", "b")),
    )


class _UnitShape(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("steps", "current_steps", "planes", "channels", "height", "width")),
        *((name, ctypes.c_int32) for name in ("threads", "contracted")),
    )


class Native:
    """The native kernel: LIF family without lateral input, derivatives of known families, float32.

    Raises:
        BuildError: If it can't be built here.
    """

    name = "native"

    def __init__(self) -> None:
        self._library = library()
        self._contracted = batch_norm_is_contracted()

    def supports(self, unit: Unit, current: Tensor) -> bool:
        """Whether the kernel supports unit, dtype and device."""
        return (
            current.device.type == "cpu"
            and current.dtype == torch.float32
            and isinstance(unit.derivative, Derivative)
            and unit.dynamics.lateral is None
            and current.numel() > 0
        )

    def forward(self, unit: Unit, current: Tensor, affine: Affine | None) -> Tensor:
        """As `Unit.eager`, without a graph."""
        current = current.contiguous()
        shape = list(current.shape)  # [T or 1, N, *]
        shape[0] = unit.steps
        if unit.pool is not None:
            shape[-2:] = [shape[-2] // 2, shape[-1] // 2]
        out = current.new_empty(shape)
        self._call("forward", unit, current, affine, out)
        return out

    def backward(self, unit: Unit, current: Tensor, affine: Affine | None, gradient: Tensor) -> Tensor:
        """The gradient with respect to the current, from that with respect to the output."""
        current = current.contiguous()
        to_current = torch.empty_like(current)
        self._call("backward", unit, current, affine, gradient.contiguous(), to_current)
        return to_current

    def _call(self, name: str, unit: Unit, current: Tensor, affine: Affine | None, *others: Tensor) -> None:
        scale, shift = (each.contiguous() for each in affine) if affine is not None else (None, None)
        neuron, shape = native_neuron(unit), self._shape(unit, current, affine is not None)
        tensors = (current, scale, shift, *others)
        pointers = (None if each is None else ctypes.c_void_p(each.data_ptr()) for each in tensors)
        if getattr(self._library, name)(ctypes.byref(neuron), ctypes.byref(shape), *pointers):
            raise MemoryError(f"no room for {unit.steps} steps of a node")

    def _shape(self, unit: Unit, current: Tensor, has_channels: bool) -> _UnitShape:
        if has_channels or unit.pool is not None:
            channels, height, width = current.shape[2:]
            planes = current.shape[1] * channels
        else:
            planes, channels, height, width = 1, 1, 1, current[0].numel()
        return _UnitShape(
            steps=unit.steps,
            current_steps=len(current),
            planes=planes,
            channels=channels,
            height=height,
            width=width,
            threads=torch.get_num_threads(),
            contracted=self._contracted,
        )


def native_neuron(unit: Unit) -> _Neuron:
    """The node of a supported unit as the kernel's struct."""
    dynamics: Dynamics = unit.dynamics
    derivative = unit.derivative
    if not isinstance(derivative, Derivative):
        raise TypeError(f"expected a derivative of a known family, got {derivative!r}; check `supports` first")
    return _Neuron(
        charge=get_args(Charge).index(dynamics.charge),
        decay_input=dynamics.decay_input,
        reset=get_args(Reset).index(dynamics.reset),
        detach_reset=dynamics.detach_reset,
        family=FAMILIES.index(derivative.family),
        pool=_POOLS.index(unit.pool),
        rate=dynamics.number,
        threshold=dynamics.threshold,
        reset_value=dynamics.reset_value,
        start=dynamics.start,
        a=derivative.a,
        b=derivative.b,
    )


def batch_norm_is_contracted() -> bool:
    """Whether torch's batch norm rounds x scale + shift once, which depends on its build; the kernel does the same."""
    x = torch.linspace(-3, 3, 1024).reshape(1, 1, 32, 32)
    scale, shift = torch.tensor([0.7]), torch.tensor([0.3])
    theirs = F.batch_norm(x, torch.zeros(1), torch.ones(1), scale, shift, eps=0.0)
    return not torch.equal(theirs, x * scale + shift)
