"""A net, what its user computes with it, and how numbers are compared."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from case import Case
from torch import Tensor, nn

import snnrobust as sr

#: Largest relative difference that is rounding: float32, and sums in another order.
ROUNDING = 2e-4
#: Begins what a check says where there is nothing to compare.
NOTHING = "nothing: "


class Wrong(Exception):
    """A number that differs from the one computed by hand."""


class Facts:
    """The net, its model, and what its user computes with it."""

    def __init__(self, case: Case, net: nn.Module) -> None:
        self.case, self.net = case, net
        self.x, self.y = case.inputs(), case.labels()

    def model(self) -> sr.SpikingModel:
        """The net wrapped. Reset by hand is passed for nets in plain torch alone."""
        reset = getattr(self.net, "reset", None)
        return sr.wrap(self.net, **({} if reset is None else {"reset": reset}), **self.case.settings)

    def leave_state(self) -> None:
        """State as its user leaves it after a pass of another input with gradient: a missing reset shows."""
        with nullcontext() if self.case.differentiable else torch.no_grad():
            self.case.plain(self.net, self.x.flip(0))

    def logits(self) -> Tensor:
        with torch.no_grad():
            return self.case.plain(self.net, self.x)

    def gradient(self, within: AbstractContextManager[Any] | None = None) -> Tensor:
        """Of the cross entropy, by plain autograd."""
        with within or nullcontext():
            return gradient_of(lambda at: self.case.plain(self.net, at), self.x, self.y)


def gradient_of(logits: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    at = x.clone().requires_grad_()
    out = logits(at)
    if not out.requires_grad:
        return torch.zeros_like(x)
    loss = nn.functional.cross_entropy(out, y)
    found = torch.autograd.grad(loss, at, allow_unused=True)[0]
    return torch.zeros_like(x) if found is None else found


def off(got: Tensor, want: Tensor) -> float:
    """Largest relative difference, of the norm over all entries."""
    if got.shape != want.shape:
        raise Wrong(f"of shape {tuple(got.shape)}, by hand {tuple(want.shape)}")
    if not bool(got.isfinite().all()):
        raise Wrong("not finite")
    return float((got - want).norm() / want.norm().clamp_min(1e-30)) if not torch.equal(got, want) else 0.0


def agree(*differences: float) -> str:
    if max(differences) > ROUNDING:
        raise Wrong(f"off by {max(differences):.1e}")
    return "yes" if max(differences) == 0 else f"yes ({max(differences):.0e})"
