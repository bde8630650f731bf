"""Threat models: what an attacker may change, projection onto it, and random starting points."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.errors import InputError

#: Change of an entry beyond which a sample is projected in float64: sums of such changes lose the radius in float32.
FAR = 100.0
Norm = Literal["linf", "l2", "l1", "l0"]
Domain = Literal["real", "integer", "binary"]


@dataclass(frozen=True)
class ThreatModel:
    """All inputs within `epsilon` of the original in `norm`, inside `bounds`, with entries in `domain`.

    Attributes:
        norm: "linf", "l2", "l1" or "l0", over all entries of a sample (time axis included). "l0" counts the entries
            that differ from the original: flips where inputs are binary, any whole change of an event count, any
            change of a real value.
        epsilon: Radius in input units, or for "l0" the number of entries that may change (cut to a whole number);
            0 allows the original alone.
        bounds: Least and greatest value of an input entry.
        domain: "real"; "integer" (event counts); "binary" (0 or 1).

    Raises:
        InputError: For an unknown norm or domain, a negative or non-finite radius, a fraction of an entry under "l0",
            or empty bounds.

    Example:
        >>> threat = ThreatModel("linf", 0.1, (0.0, 1.0))
        >>> threat.project(torch.tensor([[0.5, 0.02]]), torch.tensor([[0.3, 0.05]]))
        tensor([[0.4000, 0.0200]])
        >>> flips = ThreatModel("l0", 1, domain="binary")
        >>> flips.project(torch.tensor([[0.0, 0.7, 0.9]]), torch.tensor([[0.0, 0.0, 0.0]]))
        tensor([[0., 0., 1.]])
    """

    norm: Norm
    epsilon: float
    bounds: tuple[float, float] = (0.0, 1.0)
    domain: Domain = "real"

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm):
            raise InputError(f"expected norm in {list(get_args(Norm))}, got {self.norm!r}; name one of these")
        if self.domain not in get_args(Domain):
            raise InputError(f"expected domain in {list(get_args(Domain))}, got {self.domain!r}; name one of these")
        if not (math.isfinite(self.epsilon) and self.epsilon >= 0):
            raise InputError(f"expected epsilon >= 0 and finite, got {self.epsilon}; give a radius in input units")
        low, high = self.bounds
        if not low < high:
            raise InputError(f"expected bounds with low < high, got {self.bounds}; give (least, greatest) input value")
        if self.norm == "l0" and 0 < self.epsilon < 1:
            raise InputError(f"expected epsilon 0 or >= 1 for norm 'l0', got {self.epsilon:g}; give a count of entries")
        if self.norm == "l0" and not math.isfinite(high - low):
            raise InputError(f"expected finite bounds for norm 'l0', got {self.bounds}; nothing else limits a change")

    @property
    def ball(self) -> str:
        """The threat model without its radius, as text: attacks that share it can be compared and combined."""
        return f"{self.norm} in [{self.bounds[0]:g}, {self.bounds[1]:g}], {self.domain}"

    @property
    def whole(self) -> int:
        """The radius as a whole number: 2.9999999 is a 3 lost to float rounding."""
        return math.floor(self.epsilon + 1e-6)

    def project(self, x: Tensor, x0: Tensor) -> Tensor:
        """The nearest allowed input to `x` [N, *] around the originals `x0` [N, *].

        This is the exact Euclidean projection onto the intersection of ball, box and domain, but for one case: under L2
        in the integer and binary domains, the change is cut towards zero to whole numbers after the projection, which
        stays inside ball and box but need not be nearest. Where several points are nearest (L0, and L1 of whole
        numbers), the changes of the entries that come first are kept.
        """
        low, high = self.bounds
        if self.norm == "linf":
            delta, reach = x - x0, self.epsilon
            if self.domain != "real":
                delta, reach = delta.round(), self.whole
            return (x0 + delta.clamp(-reach, reach)).clamp(low, high)
        if self.norm == "l0":
            nearest = (x if self.domain == "real" else x.round()).clamp(low, high)
            # What changing an entry saves: (x - x0)^2 - (x - nearest)^2, factored so that far points don't cancel.
            saved = (nearest - x0).double() * (2 * x.double() - nearest - x0)
            kept = largest_mask(saved.flatten(1), self.whole).reshape(x.shape)
            return torch.where(kept, nearest, x0)
        if self.norm == "l1" and self.domain != "real":
            return x0 + _project_whole_l1(x - x0, low - x0, high - x0, self.whole)
        delta = _project_ball_and_box(x - x0, low - x0, high - x0, self.epsilon, self.norm)
        far = (x - x0).flatten(1).abs().amax(dim=1) > FAR
        if x.dtype != torch.float64 and bool(far.any()):
            wide, origin = x[far].double(), x0[far].double()
            found = _project_ball_and_box(wide - origin, low - origin, high - origin, self.epsilon, self.norm)
            delta[far] = found.to(delta.dtype)
        if self.domain != "real":
            # A change of 1 - 1e-7 is a whole event lost to float rounding, not a fraction.
            delta = torch.trunc(delta + delta.sign() * 1e-4)
        return (x0 + delta).clamp(low, high)

    def start(self, x0: Tensor, rng: Draws, index: Tensor, draw: int | Tensor = 0) -> Tensor:
        """A random allowed input near `x0` [N, *], keyed by the sample ids `index` [N].

        L-inf: uniform in the ball. L2: uniform in the ball (normal direction, radius epsilon u^(1/d)).
        L1: a flat Dirichlet vector with random signs, radius epsilon u^(1/d). Then projected into box and domain.
        L0: floor(epsilon) random entries, each at a random other value (uniform in the bounds). L1 of whole numbers:
        floor(epsilon) random entries, each moved by one.
        """
        shape = x0.shape[1:]
        rng = rng.on(x0)
        if self.norm == "linf":
            return self.project(x0 + rng.uniform(index, shape, draw, -self.epsilon, self.epsilon), x0)
        if self.norm == "l0" or (self.norm == "l1" and self.domain != "real"):
            chosen = largest_mask(rng.sub("where").uniform(index, shape, draw).flatten(1), self.whole).reshape(x0.shape)
            return torch.where(chosen, self._other(x0, rng.sub("value").uniform(index, shape, draw)), x0)
        flat = (len(x0), -1)
        if self.norm == "l2":
            direction = rng.sub("direction").normal(index, shape, draw).reshape(flat)
            direction = direction / direction.norm(dim=1, keepdim=True)
        else:
            unit = rng.sub("direction").uniform(index, shape, draw, -1.0, 1.0).reshape(flat)
            spread = -torch.log(unit.abs().clamp_min(1e-12)) * unit.sign()  # exponential sizes make a flat Dirichlet
            direction = spread / spread.abs().sum(dim=1, keepdim=True)
        # In float64: float32's pow rounds differently at the end of a batch, and a start must not depend on its place.
        radius = (rng.sub("radius").uniform(index, (1,), draw).double() ** (1.0 / direction.shape[1])).to(x0)
        return self.project(x0 + (self.epsilon * radius * direction).reshape(x0.shape), x0)

    def _other(self, x0: Tensor, unit: Tensor) -> Tensor:
        """Another value for each entry of x0 [N, *], by a uniform number in [0, 1) for each."""
        low, high = self.bounds
        if self.norm == "l1":
            up = ((unit < 0.5) & (x0 < high)) | (x0 <= low)
            return torch.where(up, x0 + 1, x0 - 1)
        if self.domain == "real":
            return (low + (high - low) * unit).clamp(low, high)
        value = low + (unit * (high - low)).floor().clamp_max(high - low - 1)  # one value fewer: not the present one
        return torch.where(value >= x0, value + 1, value)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The unit step of this norm along which a linear loss with `gradient` [N, *] grows fastest.

        L-inf: sign(g). L2: g / |g|_2. L1: the sign at the largest |g|, shared among ties (for whole numbers, at the
        first of them). L0: (high - low) sign(g) at the floor(epsilon) largest |g|, since nothing but the bounds limits
        how far an entry may go. Zero where g is zero.
        """
        if self.norm == "linf":
            return gradient.sign()
        flat = gradient.flatten(1)
        if self.norm == "l2":
            top = flat.abs().amax(dim=1, keepdim=True)
            unit = torch.where(top > 0, flat / top, 0.0)  # the square of 1e-25 is zero in float32
            length: Tensor = unit.norm(dim=1, keepdim=True)
            return (unit / length.clamp_min(1)).reshape(gradient.shape)
        if self.norm == "l0":
            low, high = self.bounds
            return (flat.sign() * largest_mask(flat.abs(), self.whole) * (high - low)).reshape(gradient.shape)
        if self.domain != "real":
            return (flat.sign() * largest_mask(flat.abs(), 1)).reshape(gradient.shape)
        chosen = (flat.abs() == flat.abs().amax(dim=1, keepdim=True)) & (flat != 0)
        share = chosen.to(flat) / chosen.sum(dim=1, keepdim=True).clamp_min(1)
        return (flat.sign() * share).reshape(gradient.shape)


def largest_mask(score: Tensor, count: int | Tensor) -> Tensor:
    """Which entries of each row of `score` [N, D] are among its `count` (one, or [N]) largest; of ties, the first.

    Example:
        >>> largest_mask(torch.tensor([[1.0, 3.0, 1.0, 0.0]]), 2)
        tensor([[ True,  True, False, False]])
    """
    order = score.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(score.shape[1], device=score.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    return rank < (count[:, None] if isinstance(count, Tensor) else count)


def _project_whole_l1(delta: Tensor, low: Tensor, high: Tensor, budget: int) -> Tensor:
    """The nearest whole d to `delta` [N, *] with |d|_1 <= budget and low <= d <= high, where low <= 0 <= high.

    The j-th unit of a change of t saves (t - j + 1)^2 - (t - j)^2 = 2 (t - j) + 1, less with each unit, so the units
    that save most are taken: d = clip(round(t - m), 0, room) for the least m that fits the budget, found by bisection;
    what is left goes to the entries tied at m, the first of them first.
    """
    size, room = delta.flatten(1).double().abs(), torch.where(delta > 0, high, -low).flatten(1).double()

    def at(m: Tensor) -> Tensor:
        return torch.minimum((size - m + 0.5).floor().clamp_min(0), room)

    upper = size.amax(dim=1, keepdim=True)
    lower = torch.zeros_like(upper)
    whole = at(lower)
    fits = whole.sum(dim=1, keepdim=True) <= budget
    for _ in range(60):
        middle = (lower + upper) / 2
        outside = at(middle).sum(dim=1, keepdim=True) > budget
        lower, upper = torch.where(outside, middle, lower), torch.where(outside, upper, middle)
    taken = at(upper)
    tied = at(lower) - taken
    left = budget - taken.sum(dim=1, keepdim=True)
    taken = taken + torch.minimum((left - (tied.cumsum(dim=1) - tied)).clamp_min(0), tied)
    taken = torch.where(fits, whole, taken).to(delta.dtype)
    return delta.sign() * taken.reshape(delta.shape)


def _project_ball_and_box(delta: Tensor, low: Tensor, high: Tensor, epsilon: float, norm: Norm) -> Tensor:
    """Euclidean projection of `delta` [N, *] onto {|d|_p <= epsilon, low <= d <= high}, where low <= 0 <= high.

    With a multiplier m >= 0 the minimiser is clip(shrink(delta, m), low, high), where shrink is d / (1 + m) for L2
    and soft thresholding by m for L1; its norm falls with m, so m is found by bisection per sample. For L1 this is
    the projection that Croce & Hein 2021 ("Mind the box") show to matter for L1 attacks.
    """
    shape = delta.shape
    delta, low, high = delta.flatten(1), low.flatten(1), high.flatten(1)

    def length(d: Tensor) -> Tensor:
        return d.norm(dim=1, keepdim=True) if norm == "l2" else d.abs().sum(dim=1, keepdim=True)

    def at(m: Tensor) -> Tensor:
        shrunk = delta / (1 + m) if norm == "l2" else delta.sign() * (delta.abs() - m).clamp_min(0)
        return shrunk.clamp(low, high)

    inside = delta.clamp(low, high)
    if bool((length(inside) <= epsilon).all()):
        return inside.reshape(shape)
    if epsilon == 0:
        return torch.zeros_like(delta).reshape(shape)
    # At the upper end the shrunk vector fits even without the box: |delta|_2 / (1 + m) = epsilon, or threshold max|d|.
    upper = (length(delta) / epsilon - 1).clamp_min(0) if norm == "l2" else delta.abs().amax(dim=1, keepdim=True)
    lower = torch.zeros_like(upper)
    for _ in range(40):
        middle = (lower + upper) / 2
        outside = length(at(middle)) > epsilon
        lower, upper = torch.where(outside, middle, lower), torch.where(outside, upper, middle)
    projected = at(upper)
    projected = projected * (epsilon / length(projected).clamp_min(epsilon))  # float rounding of the L2 upper end
    return torch.where(length(inside) <= epsilon, inside, projected).reshape(shape)
