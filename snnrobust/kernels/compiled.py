"""Units in torch code, compiled where that pays: for what the native kernel doesn't support, and other devices.

One time step of the neuron and one of its adjoint are compiled, not the net and not the loop over time: the code
depends neither on T nor on the batch size, and compile time does not grow with T.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from snnrobust.common.batching import out_of_memory
from snnrobust.kernels.adjoint import BackwardStep, ForwardStep, PaddedCurrent, adjoint, spikes, step
from snnrobust.kernels.build import cache_folder, find_compiler
from snnrobust.kernels.dynamics import Dynamics
from snnrobust.kernels.unit import Affine, Unit, apply_batch_norm

#: Seconds that a kind of unit runs uncompiled before it is compiled: about as long as compiling takes on two cores.
COMPILE_AFTER = 20.0
#: Each step is padded to a multiple of this many neurons. Compiled code rounds exponentials differently in
#: the remainder of a vector: a sample's gradient would depend on its place in the batch.
LANES = 64

Loop = Callable[[ForwardStep, BackwardStep], list[Tensor]]


class Compiled:
    """Torch code for all of the LIF family and any pointwise derivative, in float32 and float64, on CPU and CUDA.

    A kind of unit is compiled once it has run for `after` seconds. Compiled code is kept only if its result on the
    current pass equals torch's to the bit, so the moment of compilation, which changes when a run is resumed, does not
    affect results.

    Args:
        after: Seconds.

    Raises:
        BuildError: If there is no C++ compiler.
    """

    name = "torch.compile"

    def __init__(self, after: float = COMPILE_AFTER) -> None:
        find_compiler()
        self._after = after
        self._codes: dict[tuple[object, ...], _UnitCode] = {}

    def supports(self, unit: Unit, current: Tensor) -> bool:
        """Whether dtype and device are supported and the derivative is hashable."""
        try:
            hash(unit.derivative)
        except TypeError:
            return False
        # On the CPU lateral recurrence spends its time in matrix products, and more of them to recompute membranes:
        # eager torch was faster by a fifth.
        devices = ("cuda",) if unit.dynamics.lateral is not None else ("cpu", "cuda")
        exact = current.dtype in (torch.float32, torch.float64)
        return exact and current.device.type in devices and current.numel() > 0

    def forward(self, unit: Unit, current: Tensor, affine: Affine | None) -> Tensor:
        """As `Unit.eager`, without a graph."""
        normed = current if affine is None else apply_batch_norm(current, affine)
        sequence = PaddedCurrent(unit.dynamics, normed, unit.steps, LANES)
        code = self._code(unit, current)
        fired = _fired(unit, sequence, code.run(unit, current, lambda step, _: sequence.membranes(step)))
        if unit.pool is None:
            return fired
        pool = F.avg_pool2d if unit.pool == "mean" else F.max_pool2d
        pooled: Tensor = pool(fired.flatten(0, 1), 2)
        return pooled.reshape(*fired.shape[:3], *pooled.shape[-2:])

    def backward(self, unit: Unit, current: Tensor, affine: Affine | None, gradient: Tensor) -> Tensor:
        """The gradient with respect to the current, from that with respect to the output."""
        normed = current if affine is None else apply_batch_norm(current, affine)
        sequence = PaddedCurrent(unit.dynamics, normed, unit.steps, LANES)

        def loop(step: ForwardStep, adjoint: BackwardStep) -> list[Tensor]:
            membranes = sequence.membranes(step)
            to_spikes = gradient
            if unit.pool is not None:
                to_spikes = _unpooled(unit, _fired(unit, sequence, membranes), gradient)
            return sequence.adjoints(membranes, to_spikes, adjoint)

        code = self._code(unit, current)
        found = code.run(unit, current, loop)
        if code.compiled is None and not code.reason and code.seconds > self._after:
            code.compile(unit, current, loop, found)
        to_current = sequence.shaped(torch.stack(found))
        return to_current if affine is None else to_current * affine[0][:, None, None]

    def _code(self, unit: Unit, current: Tensor) -> _UnitCode:
        """The code of the unit's kind: its equation and derivative, for all parameter values and sizes."""
        d = unit.dynamics
        equation = (d.charge, d.reset, d.decay_input, d.detach_reset, _leaks_completely(d), d.lateral is None)
        kind = (*equation, unit.derivative, current.dtype, current.device.type)
        return self._codes.setdefault(kind, _UnitCode())


@dataclass
class _UnitCode:
    """Compiled step and adjoint of a kind of unit, and the state of their compilation.

    Attributes:
        seconds: Run time of units of the kind, uncompiled.
        compiled: Step and adjoint, with the parameters of the neuron [3] as the first argument.
        reason: Why it is not compiled and never will be.
    """

    seconds: float = 0.0
    compiled: tuple[Callable[..., Any], Callable[..., Any]] | None = None
    reason: str = ""

    def run(self, unit: Unit, current: Tensor, loop: Loop) -> list[Tensor]:
        """The result of `loop` with step and adjoint, compiled if possible."""
        d = unit.dynamics
        if self.compiled is not None:
            numbers = torch.tensor([d.number, d.threshold, d.reset_value], dtype=current.dtype, device=current.device)
            try:
                return loop(*(partial(each, numbers) for each in self.compiled))
            except Exception as error:  # compilers fail in many ways: the same code runs uncompiled
                if out_of_memory(error):
                    raise
                self._give_up(f"{type(error).__name__}: {error}")
        start = time.perf_counter()
        found = loop(partial(step, d), partial(adjoint, d, unit.derivative))
        self.seconds += time.perf_counter() - start
        return found

    def compile(self, unit: Unit, current: Tensor, loop: Loop, plain: list[Tensor]) -> None:
        """Compiles step and adjoint, and keeps them if the result of `loop` is `plain`, to the bit."""
        try:
            self.compiled = _compiled(unit)
        except Exception as error:  # no folder for the code, or a compiler without these options
            self._give_up(f"{type(error).__name__}: {error}")
            return
        found = self.run(unit, current, loop)
        if self.compiled is not None and not all(map(torch.equal, found, plain)):
            self._give_up("compiled code rounds differently from torch")

    def _give_up(self, reason: str) -> None:
        self.compiled, self.reason = None, " ".join(reason.split())[:300]
        warnings.warn(f"a neuron runs uncompiled, which is slower: {self.reason}", RuntimeWarning, stacklevel=2)


def _compiled(unit: Unit) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Step and adjoint, to be compiled when first called."""
    # A private folder: the compiler's default is in the temporary folder of all users.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
    d, derivative, forgets = unit.dynamics, unit.derivative, _leaks_completely(unit.dynamics)
    charge, reset, decay_input, detach_reset = d.charge, d.reset, d.decay_input, d.detach_reset

    def neuron(numbers: Tensor) -> Dynamics:
        # Tensors, so that they are arguments of the compiled code, not constants.
        rate, threshold, reset_value = cast(tuple[Any, Any, Any], numbers.unbind())
        return Dynamics(charge, 0.0 if forgets else rate, threshold, reset, reset_value, decay_input, detach_reset)

    def compiled_step(numbers: Tensor, x: Tensor, v: Tensor, beside: Tensor | None) -> tuple[Tensor, Tensor]:
        return step(neuron(numbers), x, v, beside)

    def compiled_adjoint(numbers: Tensor, u: Tensor, to_spikes: Tensor, carry: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return adjoint(neuron(numbers), derivative, u, to_spikes, carry)

    return _compiled_on_first_call(compiled_step), _compiled_on_first_call(compiled_adjoint)


def _compiled_on_first_call(function: Callable[..., Any]) -> Callable[..., Any]:
    # A separate code object: torch counts compilations per code object, and stops at eight.
    own = FunctionType(function.__code__.replace(), function.__globals__, function.__name__, None, function.__closure__)
    # No fused multiply-adds and no shortened divisions.
    options: dict[str, Any] = {"emulate_precision_casts": True, "cpp.cxx": (None, find_compiler())}
    return torch.compile(own, dynamic=True, fullgraph=True, options=options)


def _leaks_completely(dynamics: Dynamics) -> bool:
    """Whether leakage is complete, which `Dynamics.charged` treats separately."""
    return dynamics.charge == "keep" and isinstance(dynamics.rate, float) and dynamics.rate == 0


def _fired(unit: Unit, sequence: PaddedCurrent, membranes: list[Tensor]) -> Tensor:
    """Spikes [T, N, *], before pooling."""
    return sequence.shaped(spikes(unit.dynamics, torch.stack(membranes)))


def _unpooled(unit: Unit, fired: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with respect to the spikes [T, N, C, H, W], from that with respect to their 2 x 2 pooling."""
    planes, size = gradient.flatten(0, 1), fired.shape[-2:]
    if unit.pool == "max":
        _, where = F.max_pool2d(fired.flatten(0, 1), 2, return_indices=True)
        spread = planes.new_zeros(len(planes), planes.shape[1], size.numel())
        return spread.scatter(2, where.flatten(2), planes.flatten(2)).reshape(fired.shape)
    spread = F.interpolate(planes, scale_factor=2) * 0.25
    beyond = (0, size[1] - spread.shape[-1], 0, size[0] - spread.shape[-2])  # an odd last row is left out
    return F.pad(spread, beyond).reshape(fired.shape)
