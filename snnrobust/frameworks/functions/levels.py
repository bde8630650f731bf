"""What a spike function emits: how many of its levels the membrane potential reaches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: Distances from a level, as shares of the spacing of levels, at which a spike function is tried.
_NEAR = (1e-3, 0.05, 0.2, 0.3, 0.45)


@dataclass(frozen=True)
class Levels:
    """Levels first, first + spacing, first + 2 spacing ... of a spike function; its output is how many v reaches.

    One level is a spike 0 or 1, several are a count 0..most. Whether v equal to a level counts as reaching it does not
    matter to a gradient.

    Attributes:
        first: The lowest level, or the position of the argument that holds it.
        spacing: Distance between two levels, a number, or the position of the argument that holds it.
        most: How many levels there are; None for any number.
        size: What each level adds to the output.

    Example:
        >>> Levels(first=1.0).distance(torch.tensor([0.25, 3.0]), ())
        tensor([-0.7500,  2.0000])
        >>> Levels(first=0.5, most=4).distance(torch.tensor([0.25, 1.75, 9.0]), ())
        tensor([-0.2500,  0.2500,  5.5000])
    """

    first: float | Position = 0.0
    spacing: float | Position = 1.0
    most: int | None = 1
    size: float = 1.0

    @property
    def binary(self) -> bool:
        """Whether the output is 0 or 1."""
        return self.most == 1 and self.size == 1

    def distance(self, v: Tensor, args: tuple[Any, ...]) -> Tensor:
        """v minus the nearest level, of the shape of v; `args` are all arguments of the call."""
        first = _value(self.first, args)
        if self.most == 1:
            return v if isinstance(first, float) and first == 0 else v - first
        spacing = _value(self.spacing, args)
        nearest = torch.round((v.detach() - first) / spacing).clamp(0, None if self.most is None else self.most - 1)
        return v - (first + nearest * spacing)

    def reached(self, v: Tensor, args: tuple[Any, ...], *, also_equal: bool = True) -> Tensor:
        """The output for v that is not next to a level."""
        first, spacing = _value(self.first, args), _value(self.spacing, args)
        if self.most == 1:
            return self.size * ((v - first >= 0) if also_equal else (v - first > 0)).to(v)
        return self.size * (torch.floor((v - first) / spacing) + 1).clamp(0, self.most).to(v)


@dataclass(frozen=True)
class Position:
    """The position of an argument."""

    of: int


def _value(of: float | Position, args: tuple[Any, ...]) -> float | Tensor:
    if not isinstance(of, Position):
        return of
    value: float | Tensor = args[of.of]
    return value.detach() if isinstance(value, Tensor) else float(value)


@torch.no_grad()
def find_levels(emit: Callable[[Tensor], Tensor], v: Tensor, args: tuple[Any, ...], at: int) -> Levels | None:
    """The levels of a spike function, or None if its output is not a number of levels reached.

    Args:
        emit: The function of its argument v alone, of the shape of v.
        v: An argument that it was called with.
        args: All arguments of that call, among which a threshold is looked for.
        at: The position of v among them.
    """
    others = [Position(i) for i, each in enumerate(args) if i != at and _broadcasts(each, v)]
    thresholds = [each for each in others if bool((torch.as_tensor(_value(each, args)) > 0).all())]
    candidates = [Levels(0.0), *(Levels(each) for each in others)]
    candidates += [Levels(each, each, None) for each in thresholds] + [Levels(1.0, 1.0, None), Levels(0.5, 1.0, None)]
    for each in candidates:
        if (fitted := _fitted(each, emit, v, args)) is not None:
            return fitted
    constant = _constant_threshold(emit, v)
    return None if constant is None else _fitted(Levels(constant), emit, v, args)


def _constant_threshold(emit: Callable[[Tensor], Tensor], v: Tensor) -> float | None:
    """The value in -10..10 at which the first entry of the output changes, by bisection; None if there is none."""

    def at(value: float) -> float:
        return float(emit(torch.full_like(v, value)).flatten()[0])

    low, high = -10.0, 10.0
    if not v.numel() or at(low) == at(high):
        return None
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle) == at(-10.0) else (low, middle)
    return round(high, 6)


def _broadcasts(value: Any, v: Tensor) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float | Tensor):
        return False
    if not isinstance(value, Tensor):
        return True
    return value.is_floating_point() and value.ndim <= v.ndim and value.numel() <= v.numel() and _same_shape(value, v)


def _same_shape(value: Tensor, v: Tensor) -> bool:
    sizes = zip(reversed(value.shape), reversed(v.shape), strict=False)
    return all(size in (1, whole) for size, whole in sizes)


def _fitted(levels: Levels, emit: Callable[[Tensor], Tensor], v: Tensor, args: tuple[Any, ...]) -> Levels | None:
    """`levels` with the size and number that the function shows, if it then emits what they say."""
    first, spacing = _value(levels.first, args), _value(levels.spacing, args)
    if levels.most == 1:
        high = emit(torch.zeros_like(v) + first + 100.0)
        size = float(high.flatten()[0]) if high.numel() else 1.0
        if size == 0 or not bool((high == size).all()):
            return None
        levels = Levels(levels.first, levels.spacing, 1, size)
        shifts: list[float] = [sign * share for share in (*_NEAR, 0.7, 1.3, 5.0, 50.0) for sign in (1.0, -1.0)]
        points = [torch.zeros_like(v) + first + shift for shift in shifts]
    else:
        tops = [emit(torch.zeros_like(v) + first + count * spacing) for count in (1e4, 2e4)]
        most = None if not torch.equal(*tops) else int(tops[0].flatten()[0])
        levels = Levels(levels.first, levels.spacing, most)
        reach = range(-2, 5 if most is None else min(most, 20) + 2)
        shares = [k + sign * share for k in reach for share in _NEAR for sign in (1.0, -1.0)]
        points = [torch.zeros_like(v) + first + share * spacing for share in shares]
    fits = all(torch.equal(emit(point), levels.reached(point, args)) for point in points)
    # A tie of a real argument may fall on either side.
    own, distance = emit(v), levels.distance(v, args)
    return levels if fits and bool(((own == levels.reached(v, args)) | (distance.abs() < 1e-6)).all()) else None
