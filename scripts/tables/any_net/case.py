"""A row of the table: a net, how its user runs it, and how its user would set another surrogate gradient by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from calibrate import Knobs, calibrate
from torch import Tensor, nn

from snnrobust.common.random import global_rng

#: Classes of all nets, few enough that a Gauss-Newton trace can be checked by hand.
CLASSES = 5
#: Samples of a row.
SAMPLES = 4

Plain = Callable[[nn.Module, Tensor], Tensor]
Counted = Callable[[nn.Module, Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class Case:
    """A row.

    Attributes:
        name: The row's name.
        build: Makes the net with random weights.
        shape: Shape of one input.
        plain: Logits [N, K] of the net in its user's own way: reset by the framework's means, input repeated over time
            and outputs read out by hand.
        spikes: The spikes of each layer, by name, counted by hand during one plain pass; entries in any order.
        by_hand: Context in which every spike of the net has the derivative of ATan(4) and the value it had before.
            None: there is no meaning of it, and it must be refused.
        settings: Of `snnrobust.wrap`.
        samples: Number of inputs.
        differentiable: Whether its framework lets it run with gradients.
        binary: Whether inputs are events, 0 or 1.
        calibrated: Whether the weights are scaled so that the layers fire.
        knobs: Parameters that scale the input of each layer; None: those of the last weighted module before it.
        note: What to know of the row.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    plain: Plain
    spikes: Counted
    by_hand: Callable[[nn.Module], AbstractContextManager[None]] | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    samples: int = SAMPLES
    differentiable: bool = True
    binary: bool = False
    calibrated: bool = True
    knobs: Callable[[nn.Module], Knobs] | None = None
    note: str = ""

    def inputs(self, samples: int | None = None) -> Tensor:
        """Inputs [N, *], always the same."""
        draws = torch.Generator().manual_seed(1)
        x = torch.rand(samples or self.samples, *self.shape, generator=draws)
        return (x < 0.4).to(x) if self.binary else x

    def labels(self, samples: int | None = None) -> Tensor:
        """Labels [N], always the same."""
        return torch.randint(CLASSES, (samples or self.samples,), generator=torch.Generator().manual_seed(2))

    def net(self) -> nn.Module:
        """The net in eval mode, its weights such that all layers fire; global generators are left as they were."""
        with global_rng(0, torch.device("cpu")):  # numpy's too: GatedLIFNode draws from it
            net = self.build().eval()
        if self.calibrated:
            knobs = None if self.knobs is None else self.knobs(net)
            calibrate(net, lambda: self.spikes(net, self.inputs()), knobs)
        return net


def hooked(plain: Plain, layers: Callable[[nn.Module], Mapping[str, nn.Module]]) -> Counted:
    """Counts by forward hooks on modules whose output is their spikes, alone or as the first of a tuple."""

    def count(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
        found: dict[str, list[Tensor]] = {}
        handles = []
        for name, module in layers(net).items():

            def keep(_: nn.Module, __: object, out: Any, name: str = name) -> None:
                out = out[0] if isinstance(out, tuple | list) else out
                found.setdefault(name, []).append(out.detach().flatten())

            handles.append(module.register_forward_hook(keep))
        try:
            with torch.no_grad():
                plain(net, x)
        finally:
            for handle in handles:
                handle.remove()
        return {name: torch.cat(calls) for name, calls in found.items()}

    return count


def of_types(*types: type) -> Callable[[nn.Module], dict[str, nn.Module]]:
    """The modules of a net that are of these classes, by name."""
    return lambda net: {name: module for name, module in net.named_modules() if isinstance(module, types)}
