"""Nets in plain torch whose spike is a torch.autograd.Function of their own: what most published code does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import by_hand
import torch
from case import CLASSES, Case
from torch import Tensor, nn

STEPS = 5
INPUTS, FIRST, SECOND = 8, 12, 10


class CtxSpike(torch.autograd.Function):
    """Everything in `forward`, with a context; a triangle as surrogate."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return (u > 0).float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (u,) = ctx.saved_tensors
        return grad * (1 - u.abs()).clamp(min=0)


class SetupSpike(torch.autograd.Function):
    """The newer style, with `setup_context`; a fast sigmoid as surrogate."""

    @staticmethod
    def forward(u: Tensor) -> Tensor:
        return (u >= 0).to(u.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (u,) = ctx.saved_tensors
        return grad / (1 + 10 * u.abs()) ** 2


class ThresholdSpike(torch.autograd.Function):
    """Takes the membrane potential and the threshold apart; a rectangle as surrogate."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, threshold: float, width: float) -> Tensor:
        ctx.save_for_backward(v)
        ctx.threshold, ctx.width = threshold, width
        return v.ge(threshold).float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (v,) = ctx.saved_tensors
        near = (v - ctx.threshold).abs() < ctx.width
        return grad * near.float() / (2 * ctx.width), None, None


class LIF(nn.Module):
    """A leaky neuron that is called once a step and keeps its membrane potential as an attribute."""

    def __init__(self, spike: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.spike, self.v = spike, None

    def forward(self, x: Tensor) -> Tensor:
        self.v = x if self.v is None else 0.7 * self.v + x
        spikes = self.spike(self.v - 1)
        self.v = self.v - spikes.detach()
        return spikes


class Stepwise(nn.Module):
    """Two hidden layers of `LIF`; its own `reset` is the user's means."""

    def __init__(self, spike: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc1, self.lif1, self.fc2, self.lif2 = (
            nn.Linear(INPUTS, FIRST),
            LIF(spike),
            nn.Linear(FIRST, SECOND),
            LIF(spike),
        )
        self.head = nn.Linear(SECOND, CLASSES)
        self.seen: dict[str, list[Tensor]] | None = None

    def reset(self) -> None:
        self.lif1.v = self.lif2.v = None

    def forward(self, x: Tensor) -> Tensor:
        first = self.lif1(self.fc1(x))
        second = self.lif2(self.fc2(first))
        _note(self, lif1=first, lif2=second)
        return self.head(second)


class Looped(nn.Module):
    """The root's own forward goes over time; both hidden layers share one Function, and no module is a neuron."""

    def __init__(self, spike: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc1, self.fc2, self.head = nn.Linear(INPUTS, FIRST), nn.Linear(FIRST, SECOND), nn.Linear(SECOND, CLASSES)
        self.spike = spike
        self.seen: dict[str, list[Tensor]] | None = None

    def forward(self, x: Tensor) -> Tensor:
        u, v = x.new_zeros(len(x), FIRST), x.new_zeros(len(x), SECOND)
        out = 0
        for _ in range(STEPS):
            u = 0.7 * u + self.fc1(x)
            first = self.spike(u - 1)
            u = u * (1 - first)
            v = 0.7 * v + self.fc2(first)
            second = self.spike(v - 1)
            v = v * (1 - second)
            _note(self, first=first, second=second)
            out = out + self.head(second)
        return out / STEPS


class Recurrent(nn.Module):
    """A recurrent layer over [N, T, *] that returns (outputs, (membrane potential, spikes))."""

    def __init__(self, spike: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc, self.back, self.head = nn.Linear(INPUTS, FIRST), nn.Linear(FIRST, FIRST), nn.Linear(FIRST, CLASSES)
        self.spike = spike
        self.seen: dict[str, list[Tensor]] | None = None

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        v = spikes = x.new_zeros(len(x), FIRST)
        out = []
        for t in range(x.shape[1]):
            v = 0.7 * v * (1 - spikes) + self.fc(x[:, t]) + self.back(spikes)
            spikes = self.spike(v - 1)
            _note(self, hidden=spikes)
            out.append(self.head(spikes))
        return torch.stack(out, dim=1), (v, spikes)


def _note(net: nn.Module, **spikes: Tensor) -> None:
    if net.seen is not None:
        for name, each in spikes.items():
            net.seen.setdefault(name, []).append(each.detach().flatten())


def _stepwise(net: nn.Module, x: Tensor) -> Tensor:
    net.reset()
    return torch.stack([net(x) for _ in range(STEPS)]).mean(0)


def _at_once(net: nn.Module, x: Tensor) -> Tensor:
    return net(x)


def _batch_first(net: nn.Module, x: Tensor) -> Tensor:
    return net(x.unsqueeze(1).repeat(1, STEPS, 1))[0].mean(1)


def _counted(plain: Callable[[nn.Module, Tensor], Tensor]) -> Callable[[nn.Module, Tensor], dict[str, Tensor]]:
    """Counts what the net notes itself."""

    def count(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
        net.seen = {}
        try:
            with torch.no_grad():
                plain(net, x)
            return {name: torch.cat(each) for name, each in net.seen.items()}
        finally:
            net.seen = None

    return count


def _knobs(**layers: str) -> Callable[[nn.Module], dict[str, list[list[Tensor]]]]:
    return lambda net: {name: [list(net.get_submodule(weights).parameters())] for name, weights in layers.items()}


def _patched(cls: type, *more: None) -> Callable[[nn.Module], Any]:
    """ATan(4) as backward of a Function that saved u."""

    def backward(ctx: Any, grad: Tensor) -> Any:
        out = grad * by_hand.slope(ctx.saved_tensors[0])
        return (out, *more) if more else out

    return lambda net: by_hand.function((cls, backward))


def _patched_threshold(net: nn.Module) -> Any:
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad * by_hand.slope(ctx.saved_tensors[0] - ctx.threshold), None, None

    return by_hand.function((ThresholdSpike, backward))


def _at_one(v: Tensor) -> Tensor:
    return ThresholdSpike.apply(v + 1, 1.0, 0.5)


def rows() -> list[Case]:
    """A row for each net."""
    step = {"layout": "step", "steps": STEPS}
    hidden, looped = _knobs(lif1="fc1", lif2="fc2"), _knobs(first="fc1", second="fc2")
    count = _counted(_stepwise)
    in_plain_torch = "reset=net.reset is passed to wrap"
    return [
        Case(
            *("ctx style", lambda: Stepwise(CtxSpike.apply), (INPUTS,), _stepwise, count, _patched(CtxSpike), step),
            knobs=hidden,
            note=in_plain_torch,
        ),
        Case(
            *("setup_context style", lambda: Stepwise(SetupSpike.apply), (INPUTS,), _stepwise, count),
            *(_patched(SetupSpike), step),
            knobs=hidden,
            note=in_plain_torch,
        ),
        Case(
            *("threshold as an argument", lambda: Stepwise(_at_one), (INPUTS,), _stepwise, count),
            *(_patched_threshold, step),
            knobs=hidden,
            note=in_plain_torch,
        ),
        Case(
            *("loop in the root's forward", lambda: Looped(CtxSpike.apply), (INPUTS,), _at_once, _counted(_at_once)),
            *(_patched(CtxSpike), {"layout": "N"}),
            knobs=looped,
            note="two hidden layers share one Function",
        ),
        Case(
            *("recurrent, (out, state)", lambda: Recurrent(SetupSpike.apply), (INPUTS,), _batch_first),
            *(_counted(_batch_first), _patched(SetupSpike), {"layout": "NT", "steps": STEPS, "output": 0}),
            knobs=_knobs(hidden="fc"),
        ),
    ]
