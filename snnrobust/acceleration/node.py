"""A fast kernel in the place of a spiking node of a net, and of what comes right before and behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snnrobust.errors import InputError
from snnrobust.frameworks.adapter import Adapter
from snnrobust.kernels.convolved import convolution_kernel
from snnrobust.kernels.dynamics import Dynamics
from snnrobust.kernels.fast import Backend, backend_for, run_on
from snnrobust.kernels.unit import Affine, PoolKind, Unit


@dataclass(frozen=True)
class _Numbers:
    """What a node computes with: its equation, the derivative of its spikes, and batch normalisation before it."""

    dynamics: Dynamics
    derivative: Callable[[Tensor], Tensor]
    norm: Affine | None


class FastNode(nn.Module):
    """Runs a spiking node's equation from its reset state on, [T, N, *] to [T, N, *]; its memories are not touched.

    Args:
        node: The user's spiking node.
        adapter: Its framework.
        derivative: Gives a spike's derivative in the backward pass.
        backends: The fast kernels, in order of preference.
        read_once: Whether the node's numbers are read again only where a change shows, rather than at each pass. A
            change of weights through `.data`, in place, does not show.

    Attributes:
        calls: Passes so far.
        kernel: Which kernel the last one ran on.
        largest: Bytes a sample of the last input, current or output, whichever is largest.
        held: As `largest`, without the current if the convolution ran in the same kernel.
    """

    #: A convolution that is fused, applied before all else: 3 x 3, with stride 1 and without a bias.
    conv: nn.Module | None = None
    #: Whether the output may have its channels last in memory, as the convolution behind reads them.
    channels_last = False
    #: Batch normalisation that is fused, applied before the node.
    norm: nn.Module | None = None
    #: Pooling that is fused, applied behind the node.
    pool: PoolKind | None = None
    #: T, where the input is one step [1, N, *] for all.
    steps: int | None = None
    #: N, where steps and samples share the first axis, [T N, *].
    samples: int | None = None
    #: T of the net's own loop, which is merged: there steps and samples share the first axis, too.
    loop: int | None = None

    def __init__(
        self,
        node: nn.Module,
        adapter: Adapter,
        derivative: Callable[[], Callable[[Tensor], Tensor] | None],
        backends: Sequence[Backend],
        *,
        read_once: bool = True,
    ) -> None:
        super().__init__()
        self._node = [node]  # in a list: registers no submodule
        self._adapter = adapter
        self._derivative = derivative
        self._backends = backends
        self._read_once = read_once
        self._numbers: _Numbers | None = None
        self._read_version: tuple[object, ...] = ()
        self.calls = 0
        self.kernel = "no"
        self.largest = self.held = 0

    def take_norm(self, norm: nn.Module) -> None:
        """Fuses batch normalisation before the node."""
        object.__setattr__(self, "norm", norm)  # registers no submodule

    def take_conv(self, conv: nn.Module) -> None:
        """Fuses a convolution before the node."""
        object.__setattr__(self, "conv", conv)  # registers no submodule

    def forward(self, x: Tensor) -> Tensor:
        """Spikes [T, N, *] for the input x, [T, N, *] or one step of it; with `samples` or `loop`, the first two axes
        are one."""
        if not self._joined:
            return self._spikes(x)
        samples = self.samples
        if samples is None:
            samples = len(x) // (self.loop if self.loop is not None and self.steps is None else 1)
        return self._spikes(x.reshape(-1, samples, *x.shape[1:])).flatten(0, 1)

    @property
    def _joined(self) -> bool:
        """Whether steps and samples share the first axis."""
        return self.samples is not None or self.loop is not None

    def _spikes(self, x: Tensor) -> Tensor:
        self.calls += 1
        numbers = self._current_numbers()
        unit = Unit(numbers.dynamics, numbers.derivative, self.steps or len(x), self.pool)
        if self.conv is not None:
            if (spikes := self._convolved(self.conv, unit, x, numbers.norm)) is not None:
                return spikes
            x = self._convolution(self.conv, x.contiguous())  # it rounds otherwise where channels come last
        backend = backend_for(self._backends, unit, x)
        self.kernel = "eager" if backend is None else backend.name
        spikes = run_on(backend, unit, x, numbers.norm)
        self.largest = self.held = max(x.nbytes, spikes.nbytes) // max(1, x.shape[1])
        return spikes

    def _convolution(self, conv: nn.Module, x: Tensor) -> Tensor:
        """The convolution of x [T, N, C, H, W], as the net calls it."""
        if not self._joined:
            out: Tensor = conv(x)
            return out
        merged: Tensor = conv(x.flatten(0, 1))
        return merged.reshape(*x.shape[:2], *merged.shape[1:])

    def _current_numbers(self) -> _Numbers:
        """Equation, derivative and batch normalisation; a net, or a hook, may change them in the forward pass."""
        if not self._read_once:
            return self._read()
        version = numbers_version(self._node[0]) + (() if self.norm is None else numbers_version(self.norm))
        if self._numbers is None or version != self._read_version:
            self._numbers, self._read_version = self._read(), version
        return self._numbers

    def _read(self) -> _Numbers:
        """Equation, derivative and batch normalisation as they are now."""
        node, derivative = self._node[0], self._derivative()
        if derivative is None:
            raise InputError(
                f"expected the surrogate of {type(node).__name__} to stay of a known family, got another; "
                f"leave the net as it is while it is evaluated"
            )
        return _Numbers(self._adapter.dynamics(node), derivative, None if self.norm is None else affine(self.norm))

    def _convolved(self, conv: nn.Module, unit: Unit, x: Tensor, norm: Affine | None) -> Tensor | None:
        """The spikes, with the convolution in the same kernel; None where there is no such kernel, or a gradient is
        needed."""
        kernel = convolution_kernel()
        if kernel is None or (x.requires_grad and torch.is_grad_enabled()):
            return None
        weight = conv.get_parameter("weight").detach()
        if not kernel.supports(unit, x, weight):
            return None
        spikes = kernel.forward(unit, x, weight, norm, channels_last=self.channels_last)
        self.kernel = "native"
        self.held = max(x.nbytes, spikes.nbytes) // max(1, x.shape[1])
        self.largest = max(self.held, x[:, 0, 0].nbytes * len(weight))
        return spikes


def numbers_version(module: nn.Module) -> tuple[object, ...]:
    """What changes when a number, parameter or buffer of a module or its children changes or is replaced."""
    found: list[object] = [id(module)]
    for held in (module.__dict__, module._parameters, module._buffers):
        for value in held.values():
            if isinstance(value, Tensor):
                found += (id(value), value.data_ptr(), value._version)
            elif value is None or isinstance(value, bool | int | float | str):
                found.append(value)
    for child in module._modules.values():
        if child is not None:
            found += numbers_version(child)
    return tuple(found)


def affine(norm: nn.Module) -> Affine:
    """Batch normalisation in eval mode as scale and shift [C]: computed by applying torch's batch norm to 1 and to 0.

    Whether it divides by a root or multiplies with its reciprocal, and rounds once or twice, is up to its build.
    """
    names = ("running_mean", "running_var", "weight", "bias", "eps")
    mean, variance, weight, bias, eps = (getattr(norm, name) for name in names)
    zeros, ones = torch.zeros_like(mean)[None], torch.ones_like(mean)[None]  # [1, C]
    with torch.no_grad():
        scale = F.batch_norm(ones, zeros[0], variance, weight, eps=eps)
        shift = F.batch_norm(zeros, mean, variance, weight, bias, eps=eps)
    return scale[0], shift[0]
