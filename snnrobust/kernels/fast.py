"""The fast path of a `Unit`: a backend's forward and backward pass, and the eager path for everything else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from snnrobust.errors import InputError
from snnrobust.kernels.unit import Affine, Unit


class Backend(Protocol):
    """Computes units faster than eager torch, with equal spikes.

    Attributes:
        name: Its name in a report.
    """

    name: str

    def supports(self, unit: Unit, current: Tensor) -> bool:
        """Whether it supports this unit, for a current of this dtype and device."""

    def forward(self, unit: Unit, current: Tensor, affine: Affine | None) -> Tensor:
        """As `Unit.eager`, without a graph."""

    def backward(self, unit: Unit, current: Tensor, affine: Affine | None, gradient: Tensor) -> Tensor:
        """The gradient with respect to the current, from that with respect to the output."""


def backend_for(backends: Sequence[Backend], unit: Unit, current: Tensor) -> Backend | None:
    """The first of `backends` that supports the unit for such a current; None: only the eager path supports it."""
    return next((each for each in backends if each.supports(unit, current)), None)


def run_unit(backends: Sequence[Backend], unit: Unit, current: Tensor, affine: Affine | None = None) -> Tensor:
    """As `run_on`, on the first of `backends` that supports the unit."""
    return run_on(backend_for(backends, unit, current), unit, current, affine)


def run_on(backend: Backend | None, unit: Unit, current: Tensor, affine: Affine | None = None) -> Tensor:
    """As `Unit.eager`, on a backend that supports the unit; None: on the eager path. No gradient reaches parameters.

    Only the current is saved for the backward pass, which recomputes membrane potentials.

    Raises:
        InputError: If the current has neither one step nor T.
    """
    if len(current) not in (1, unit.steps):
        raise InputError(f"expected a current of 1 or {unit.steps} steps, got {len(current)}; give [T, N, *]")
    if backend is None:
        return unit.eager(current, affine)
    scale, shift = affine if affine is not None else (None, None)
    out: Tensor = _UnitFunction.apply(current, scale, shift, unit, backend)
    return out


class _UnitFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, current: Tensor, scale: Tensor | None, shift: Tensor | None, unit: Unit, backend: Backend
    ) -> Tensor:
        ctx.save_for_backward(current, scale, shift)
        ctx.unit, ctx.backend = unit, backend
        return backend.forward(unit, current, None if scale is None or shift is None else (scale, shift))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        current, scale, shift = ctx.saved_tensors
        affine = None if scale is None else (scale, shift)
        if not torch.is_grad_enabled():
            return ctx.backend.backward(ctx.unit, current, affine, gradient), None, None, None, None
        # A second derivative is needed: only the eager path has one.
        (to_current,) = torch.autograd.grad(ctx.unit.eager(current, affine), current, gradient, create_graph=True)
        return to_current, None, None, None, None
