"""torchattacks' attacks run by hand, without this package's bridge: what they return, and how many passes they take."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
import torchattacks
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.common.random import global_rng

#: The attacks: all of torchattacks but two that are made of other attacks, or train nets.
ATTACKS = tuple(name for name in torchattacks.__all__ if name not in ("MultiAttack", "LGV"))
#: Attacks without a `norm` argument that bound, or make small, the L2 distance.
L2 = ("PGDL2", "PGDRSL2")


class TooManyPassesError(Exception):
    """An attack asked for more forward passes than it was given."""


class Unfold(nn.Module):
    """Images [N, T C, H, W] taken apart into [N, T, C, H, W] in front of a net; counts and limits its calls."""

    def __init__(self, model: sr.SpikingModel, shape: torch.Size, limit: int) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()), requires_grad=False)  # torchattacks asks for a device
        self.model, self.shape, self.limit, self.calls = model, shape, limit, 0

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K] for x [N, *]."""
        self.calls += 1
        if self.calls > self.limit:
            raise TooManyPassesError(f"more than {self.limit} forward passes")
        return self.model.logits(x.reshape(len(x), *self.shape))


@dataclass(frozen=True)
class Returned:
    """What an attack gave back.

    Attributes:
        x: Its examples [N, *] in the shape of the inputs; None where it failed.
        calls: Forward passes of the batch, or of a part of it.
        why: The error, where it failed.
    """

    x: Tensor | None
    calls: int
    why: str = ""


def arguments(name: str) -> dict[str, Any]:
    """The arguments of an attack and their defaults."""
    return {key: each.default for key, each in inspect.signature(getattr(torchattacks, name)).parameters.items()}


def run(
    name: str, model: sr.SpikingModel, x: Tensor, y: Tensor, limit: int, *, fold: bool = True, **settings: Any
) -> Returned:
    """Runs an attack on inputs x [N, T, C, H, W] with labels y, folded into images or as they are."""
    module = Unfold(model, x.shape[1:], limit)
    known = arguments(name)
    given = {key: value for key, value in settings.items() if key in known}
    with global_rng(0, torch.device("cpu")):
        try:
            images = x.flatten(1, 2) if fold else x
            found = getattr(torchattacks, name)(module, **given)(images, y)
            return Returned(found.detach().reshape(x.shape), module.calls)
        except Exception as error:  # third-party code fails in any way
            text = " ".join(str(error).split())
            return Returned(None, module.calls, f"{type(error).__name__}: {text[:90]}".rstrip(": "))
