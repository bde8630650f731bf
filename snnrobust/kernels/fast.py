"""The fast path of a `Unit`, differentiable: a backend's forward and backward, and the eager path for all beyond."""

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
        name: How it is called in a report.
    """

    name: str

    def supports(self, unit: Unit, current: Tensor) -> bool:
        """Whether it knows this unit, for a current of this type and device."""

    def forward(self, unit: Unit, current: Tensor, affine: Affine | None) -> Tensor:
        """As `Unit.eager`, without a graph."""

    def backward(self, unit: Unit, current: Tensor, affine: Affine | None, gradient: Tensor) -> Tensor:
        """The gradient to the current, from that to the output."""


def backend_for(backends: Sequence[Backend], unit: Unit, current: Tensor) -> Backend | None:
    """The first of `backends` that supports the unit for such a current; None: only the eager path does."""
    return next((each for each in backends if each.supports(unit, current)), None)


def run(backends: Sequence[Backend], unit: Unit, current: Tensor, affine: Affine | None = None) -> Tensor:
    """As `Unit.eager`, through the first of `backends` that supports the unit. No gradient reaches parameters.

    Only the current is kept for the backward pass, which computes membrane potentials anew.

    Raises:
        InputError: If the current has neither one step nor T.
    """
    if len(current) not in (1, unit.steps):
        raise InputError(f"expected a current of 1 or {unit.steps} steps, got {len(current)}; give [T, N, *]")
    backend = backend_for(backends, unit, current)
    if backend is None:
        return unit.eager(current, affine)
    scale, shift = affine if affine is not None else (None, None)
    out: Tensor = _Fast.apply(current, scale, shift, unit, backend)
    return out


class _Fast(torch.autograd.Function):
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
        # A second derivative is asked for: only the eager path has one.
        (to_current,) = torch.autograd.grad(ctx.unit.eager(current, affine), current, gradient, create_graph=True)
        return to_current, None, None, None, None
