"""Layers of exact event-driven neurons: spike times in, spike times out."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from snnrobust.common.validate import check_choice, check_count, check_positive
from snnrobust.errors import InputError
from snnrobust.kernels.build import BuildError
from snnrobust.kernels.event_driven import EventDynamics, spike_times
from snnrobust.kernels.event_driven_native import native_spike_times, supports
from snnrobust.kernels.event_driven_peaks import peak_potentials
from snnrobust.neurons.spike_trains import check_spike_times, windows

#: "native" is the C++ kernel (first derivatives), "eager" is torch (any derivative, any device); "auto" takes the
#: first where it can be built and has the dtype and device.
EventBackend: TypeAlias = Literal["auto", "native", "eager"]


class _EventLayer(nn.Module):
    """Weights [M, I] and the constants of their neurons."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        max_spikes: int,
        tau_s: float,
        threshold: float,
        ratio: Literal[1, 2],
        duration: float,
        init: tuple[float, float],
        backend: EventBackend,
    ) -> None:
        super().__init__()
        for name, count in (("inputs", inputs), ("outputs", outputs), ("max_spikes", max_spikes)):
            check_count(name, count)
        for name, number in (("tau_s", tau_s), ("threshold", threshold)):
            check_positive(name, number)
        if ratio not in (1, 2):
            raise InputError(f"expected tau / tau_s of 1 or 2, got {ratio!r}; only these have a closed form")
        if not duration > 0:
            raise InputError(f"expected duration > 0, got {duration!r}; math.inf is none")
        if not -math.inf < init[0] <= init[1] < math.inf:
            raise InputError(f"expected init as (low, high), got {init}; e.g. (-1, 1)")
        check_choice("backend", backend, ("auto", "native", "eager"))
        self.dynamics = EventDynamics(tau_s, threshold, max_spikes, ratio, duration)
        self.backend = backend
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(*init))

    def _fire(self, times: Tensor) -> Tensor:
        """Spike times [N, M, K] for inputs [N, I, K_in]."""
        native = self.backend != "eager" and supports(times, self.weight, self.dynamics)
        if self.backend == "native" and not native:
            raise InputError(
                f"expected float32 or float64 on the CPU and tau = 2 tau_s for backend='native', got {times.dtype} on "
                f"{times.device} and a ratio of {self.dynamics.ratio}; use backend='auto'"
            )
        if native:
            try:
                return native_spike_times(times, self.weight, self.dynamics)
            except BuildError:
                if self.backend == "native":
                    raise
        return spike_times(times, self.weight, self.dynamics)

    def _margins(self, times: Tensor, fired: Tensor) -> Tensor:
        """Margins [N, M] for inputs [N, I, K_in] and spike times [N, M, K]."""
        margins = peak_potentials(times, self.weight, fired, self.dynamics) / self.dynamics.threshold - 1
        return torch.where(fired.isfinite().all(dim=2), math.nan, margins)

    def extra_repr(self) -> str:
        """The constants."""
        outputs, inputs = self.weight.shape
        return f"{inputs}, {outputs}, {self.dynamics}"


class EventDriven(_EventLayer):
    """A dense layer of current-based LIF neurons that spike at most `max_spikes` times, simulated exactly.

        du/dt = -u / tau + g,    dg/dt = -g / tau_s + sum_j w_j delta(t - t_j),    u -= threshold at a spike

    Spike times are solved for in closed form (`snnrobust.kernels.event_driven`), and differentiable with respect to
    weights and input times. One spike is time to first spike (Goeltz et al. 2021), more are the relaxed neurons of
    Bacho & Chu 2023 (arXiv 2212.09500). [N, in, K_in] -> [N, out, max_spikes], in seconds, ascending, infinite where a
    neuron is silent. Input spikes may be in any order; those after `duration` do nothing.

    In float32 times are precise to about 1e-5 tau_s for inputs that last up to 10 tau_s; use float64 for longer ones.

    Args:
        in_features: Input neurons.
        out_features: Neurons.
        max_spikes: Most spikes of a neuron.
        tau_s: Time constant of the synaptic current, in seconds.
        threshold: Membrane potential at which a neuron spikes.
        ratio: tau / tau_s, 2 or 1.
        duration: End of the window, in seconds.
        init: Weights are uniform between these.
        backend: "native", "eager", or "auto".

    Raises:
        InputError: A value out of range.
        InputTypeError: A value of another type.

    Example:
        >>> layer = EventDriven(2, 1, init=(3, 3))
        >>> layer(torch.tensor([[[0.0], [0.05]]])).shape
        torch.Size([1, 1, 1])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        max_spikes: int = 1,
        tau_s: float = 0.13,
        threshold: float = 1.0,
        *,
        ratio: Literal[1, 2] = 2,
        duration: float = math.inf,
        init: tuple[float, float] = (-1.0, 1.0),
        backend: EventBackend = "auto",
    ) -> None:
        super().__init__(in_features, out_features, max_spikes, tau_s, threshold, ratio, duration, init, backend)

    def forward(self, times: Tensor) -> Tensor:
        """Spike times [N, out, max_spikes].

        Args:
            times: Input spike times [N, in, K_in].

        Raises:
            InputError: Another shape, NaN, or times below 0.
            InputTypeError: No floating-point tensor.
        """
        check_spike_times(times, 3, "[N, in, K]")
        if times.shape[1] != self.weight.shape[1]:
            raise InputError(
                f"expected spike times of {self.weight.shape[1]} input neurons, got {times.shape[1]}; set in_features"
            )
        return self._fire(times)

    def margins(self, times: Tensor, fired: Tensor) -> Tensor:
        """How far each neuron is from one more spike, max u / threshold - 1 after its last one, [N, out].

        NaN where it has all its spikes, -inf where no input spike arrives. Differentiable.

        Args:
            times: Input spike times [N, in, K_in].
            fired: What the layer returned for them, [N, out, max_spikes].
        """
        return self._margins(times, fired)


class EventDrivenConv2d(_EventLayer):
    """A convolution of `EventDriven` neurons: [N, C, H, W, K_in] -> [N, M, H', W', max_spikes].

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        kernel_size: Side of the kernel.
        max_spikes: Most spikes of a neuron.
        tau_s: Time constant of the synaptic current, in seconds.
        threshold: Membrane potential at which a neuron spikes.
        stride: Distance of neighbouring neurons.
        padding: Silent places at each side.
        ratio: tau / tau_s, 2 or 1.
        duration: End of the window, in seconds.
        init: Weights are uniform between these.
        backend: "native", "eager", or "auto".

    Raises:
        InputError: A value out of range.
        InputTypeError: A value of another type.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        max_spikes: int = 1,
        tau_s: float = 0.13,
        threshold: float = 1.0,
        *,
        stride: int = 1,
        padding: int = 0,
        ratio: Literal[1, 2] = 2,
        duration: float = math.inf,
        init: tuple[float, float] = (-1.0, 1.0),
        backend: EventBackend = "auto",
    ) -> None:
        check_count("kernel_size", kernel_size)
        check_count("stride", stride)
        check_count("padding", padding, 0)
        inputs = in_channels * kernel_size**2
        super().__init__(inputs, out_channels, max_spikes, tau_s, threshold, ratio, duration, init, backend)
        self.in_channels, self.kernel_size, self.stride, self.padding = in_channels, kernel_size, stride, padding

    def forward(self, times: Tensor) -> Tensor:
        """Spike times [N, M, H', W', max_spikes].

        Args:
            times: Input spike times [N, C, H, W, K_in].

        Raises:
            InputError: Another shape, NaN, or times below 0.
            InputTypeError: No floating-point tensor.
        """
        check_spike_times(times, 5, "[N, C, H, W, K]")
        if times.shape[1] != self.in_channels:
            raise InputError(f"expected {self.in_channels} channels, got {times.shape[1]}; set in_channels")
        cut = windows(times, self.kernel_size, self.stride, self.padding)  # (N, H', W', C, k k, K)
        fired = self._fire(cut.flatten(3, 4).flatten(0, 2))  # (N H' W', M, K)
        return fired.reshape(*cut.shape[:3], *fired.shape[1:]).permute(0, 3, 1, 2, 4)

    def margins(self, times: Tensor, fired: Tensor) -> Tensor:
        """As `EventDriven.margins`, [N, M, H', W'], for inputs [N, C, H, W, K_in] and spikes [N, M, H', W', K]."""
        cut = windows(times, self.kernel_size, self.stride, self.padding)  # (N, H', W', C, k k, K)
        own = fired.permute(0, 2, 3, 1, 4).flatten(0, 2)  # (N H' W', M, K)
        margins = self._margins(cut.flatten(3, 4).flatten(0, 2), own)
        return margins.reshape(*cut.shape[:3], -1).permute(0, 3, 1, 2)
