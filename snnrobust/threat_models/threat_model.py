"""Threat models: what an attacker may change, projection onto it, and random starting points."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.errors import InputError
from snnrobust.threat_models.balls import project_ball_and_box, project_whole_l1
from snnrobust.threat_models.counts import count_distance, project_counts
from snnrobust.threat_models.event_lists import check_event_norms, event_distance, project_events, random_events
from snnrobust.threat_models.selection import absent, largest_mask
from snnrobust.threat_models.sensor import Sensor
from snnrobust.threat_models.shifts import project_shifts, random_shifts, shift_distance

#: Change of an entry beyond which a sample is projected in float64: sums of such changes lose the radius in float32.
FAR = 100.0
Norm = Literal[
    "linf", "l2", "l1", "l0", "l0-step", "additions", "deletions", "events", "shift-linf", "shift-l1", "shift-l0"
]
Domain = Literal["real", "integer", "binary", "events"]
#: A norm and the most that is allowed in it.
Limit = tuple[Norm, float]

#: Norm balls of real inputs; whole numbers have them too, without L2.
BALLS: tuple[Norm, ...] = ("linf", "l2", "l1", "l0")
#: Norms in which a radius is large enough to allow every input.
ALLOW_EVERYTHING: tuple[Norm, ...] = ("linf", "l2", "l1", "l0", "l0-step")
#: What is counted of the changes of spikes and event counts.
COUNTS: tuple[Norm, ...] = ("linf", "l1", "l0", "l0-step", "additions", "deletions", "events")
#: What is measured of events that move in time, and are neither added nor removed.
SHIFTS: tuple[Norm, ...] = ("shift-linf", "shift-l1", "shift-l0")


@dataclass(frozen=True)
class ThreatModel:
    """All inputs within `epsilon` of the original in `norm`, inside `bounds`, with entries in `domain`.

    Attributes:
        norm: Over all entries of a sample (time axis included):
            "linf", "l2", "l1": of the difference. "l1" of event counts is the number of events added and removed.
            "l0": entries that differ: flips where inputs are binary, any whole change of an event count, any change
            of a real value.
            "l0-step": the most entries that differ in one time step.
            "additions": events added, where none is removed. "deletions": events removed, where none is added. A limit
            on the other allows both, each within its own.
            "events": by how much the total number of events differs; a limit only.
            "shift-linf", "shift-l1", "shift-l0": events move in time, on their own pixel and polarity, and are neither
            added nor removed: the largest shift in steps, the total of all shifts, the number of events moved. A count
            of several events in one entry moves as a whole, to an empty entry.
        epsilon: Radius in input units, or what is counted (cut to a whole number); 0 allows the original alone.
        bounds: Least and greatest value of an input entry.
        domain: "real"; "integer" (event counts); "binary" (0 or 1); "events": event lists [N, E, 5] with rows
            (t, x, y, p, present).
        limits: Further norms of the same kind (balls and counts of whole numbers, or shifts), with the most that is
            allowed in each. Shifts have to keep to all of them in one matching of the events.
        sensor: Which events exist, in the domain "events".
        silent: Value of the entries that may not change, of real inputs; None where all may. Where inputs are spike
            times, it marks the spikes that are absent: the others move in time, by epsilon at most ("linf"), in total
            ("l1"), or in number ("l0").

    Raises:
        InputError: For an unknown norm or domain, a negative or non-finite radius, a fraction of what is counted,
            empty bounds, or limits that don't belong together.

    Example:
        >>> threat = ThreatModel("linf", 0.1, (0.0, 1.0))
        >>> threat.project(torch.tensor([[0.5, 0.02]]), torch.tensor([[0.3, 0.05]]))
        tensor([[0.4000, 0.0200]])
        >>> flips = ThreatModel("l0", 1, domain="binary")
        >>> flips.project(torch.tensor([[0.0, 0.7, 0.9]]), torch.tensor([[0.0, 0.0, 0.0]]))
        tensor([[0., 0., 1.]])
        >>> later = ThreatModel("shift-linf", 1, domain="binary")
        >>> later.project(torch.tensor([[[0.1], [0.2], [0.9]]]), torch.tensor([[[1.0], [0.0], [0.0]]]))[0, :, 0]
        tensor([0., 1., 0.])
    """

    norm: Norm
    epsilon: float
    bounds: tuple[float, float] = (0.0, 1.0)
    domain: Domain = "real"
    limits: tuple[Limit, ...] = ()
    sensor: Sensor | None = None
    silent: float | None = None

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm):
            raise InputError(f"expected norm in {list(get_args(Norm))}, got {self.norm!r}; name one of these")
        if self.domain not in get_args(Domain):
            raise InputError(f"expected domain in {list(get_args(Domain))}, got {self.domain!r}; name one of these")
        if self.norm == "events":
            raise InputError(
                "expected 'events' as a limit beside another norm, got it as norm; pass limits={'events': ...}"
            )
        if not (math.isfinite(self.epsilon) and self.epsilon >= 0):
            raise InputError(f"expected epsilon >= 0 and finite, got {self.epsilon}; give a radius in input units")
        low, high = self.bounds
        if not low < high:
            raise InputError(f"expected bounds with low < high, got {self.bounds}; give (least, greatest) input value")
        if (self.domain == "events") != (self.sensor is not None):
            raise InputError(
                f"expected a sensor with domain 'events' and with no other, got {self.sensor} with '{self.domain}'; "
                f"pass sensor=sr.events.Sensor(...) for event lists, and leave it out for grids"
            )
        for norm, most in ((self.norm, self.epsilon), *self.limits):
            if norm not in ("linf", "l2", "l1") and 0 < most < 1:
                raise InputError(f"expected epsilon 0 or >= 1 for norm '{norm}', got {most:g}; give a whole number")
        if self.norm == "l0" and not math.isfinite(high - low) and self.domain == "real":
            raise InputError(f"expected finite bounds for norm 'l0', got {self.bounds}; nothing else limits a change")
        check_limits(self.norm, self.limits)
        if self.silent is not None and self.domain != "real":
            raise InputError(
                f"expected no silent value in domain '{self.domain}', got {self.silent:g}; leave it out, since whole "
                f"numbers count spikes"
            )
        if self.domain == "events":
            check_event_norms([self.norm, *(norm for norm, _ in self.limits)])
        if self.domain == "real" and (self.limits or self.norm not in (*BALLS, "l0-step")):
            named = [self.norm, *(norm for norm, _ in self.limits)]
            raise InputError(f"expected one of {list(BALLS)} for real inputs, got {named}; wrap with domain='binary'")

    @property
    def ball(self) -> str:
        """The threat model without its radius, as text: attacks that share it can be compared and combined."""
        (low, high), fixed = self.bounds, "" if self.silent is None else f", {self.silent:g} fixed"
        return f"{budget_name(self.norm, self.limits)} in [{low:g}, {high:g}], {self.domain}{fixed}"

    @property
    def whole(self) -> int:
        """The radius as a whole number: 2.9999999 is a 3 lost to float rounding."""
        return math.floor(self.epsilon + 1e-6)

    @cached_property
    def budgets(self) -> dict[str, float]:
        """The most that is allowed in each norm; "additions" alone allows no deletions, and the other way round."""
        found: dict[str, float] = {self.norm: self.epsilon, **dict(self.limits)}
        for one, other in (("additions", "deletions"), ("deletions", "additions")):
            if self.norm == one:
                found.setdefault(other, 0)
        return found

    def may_change(self, x0: Tensor) -> Tensor:
        """Which entries of the originals x0 [N, *] may change, [N, *]."""
        return torch.ones_like(x0, dtype=torch.bool) if self.silent is None else ~absent(x0, self.silent)

    def within(self, norm: Norm) -> float:
        """The most that is allowed in one norm; infinite where there is no limit."""
        return self.budgets.get(norm, math.inf)

    def distance(self, x: Tensor, x0: Tensor) -> Tensor:
        """How far x [N, *] is from the originals x0 [N, *] in `norm`, [N], in float64.

        Infinite under a shift where x is not x0 with events moved in time.
        """
        if self.domain == "events":
            return event_distance(x, x0, self.norm)
        if self.norm in SHIFTS:
            return shift_distance(x, x0, self.norm)
        return count_distance(x, x0, self.norm)

    def project(self, x: Tensor, x0: Tensor) -> Tensor:
        """The nearest allowed input to `x` [N, *] around the originals `x0` [N, *].

        This is the exact Euclidean projection onto the intersection of ball, box and domain, but for one case: under L2
        in the integer and binary domains, the change is cut towards zero to whole numbers after the projection, which
        stays inside ball and box but need not be nearest. Where several points are nearest (L0, and L1 of whole
        numbers), the changes of the entries that come first are kept. For several limits together see
        `counts.project_counts`, for events that move in time `shifts.project_shifts`, for event lists
        `event_lists.project_events`: always allowed, and nearest where they say so.
        """
        if self.silent is not None:
            free = self.may_change(x0)
            return torch.where(free, self._projected(torch.where(free, x, x0), x0), x0)
        return self._projected(x, x0)

    def _projected(self, x: Tensor, x0: Tensor) -> Tensor:
        """The same where every entry may change."""
        if self.domain == "events" and self.sensor is not None:
            return project_events(x, x0, self.budgets, self.sensor)
        if self.norm in SHIFTS:
            return project_shifts(x, x0, self.budgets)
        if self._counted:
            return project_counts(x, x0, self.budgets, self.bounds, whole=self.domain != "real")
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
            return x0 + project_whole_l1(x - x0, low - x0, high - x0, self.whole)
        norm: Literal["l2", "l1"] = "l2" if self.norm == "l2" else "l1"
        delta = project_ball_and_box(x - x0, low - x0, high - x0, self.epsilon, norm)
        far = (x - x0).flatten(1).abs().amax(dim=1) > FAR
        if x.dtype != torch.float64 and bool(far.any()):
            wide, origin = x[far].double(), x0[far].double()
            found = project_ball_and_box(wide - origin, low - origin, high - origin, self.epsilon, norm)
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
        floor(epsilon) random entries, each moved by one. Several limits, and counts of additions and deletions: the
        random changes of L0 that come first in a random order and fit. Shifts: random moves. Entries that may not
        change stay.
        """
        start = self._random(x0, rng, index, draw)
        return start if self.silent is None else torch.where(self.may_change(x0), start, x0)

    def _random(self, x0: Tensor, rng: Draws, index: Tensor, draw: int | Tensor) -> Tensor:
        """The same where every entry may change."""
        shape = x0.shape[1:]
        rng = rng.on(x0)
        if self.domain == "events" and self.sensor is not None:
            return random_events(x0, rng, index, draw, self.budgets, self.sensor)
        if self.norm in SHIFTS:
            return random_shifts(x0, rng.sub("where").uniform(index, shape, draw), self.budgets)
        if self._counted:
            other = self._other(x0, rng.sub("value").uniform(index, shape, draw))
            # Beyond the other value, by a random amount: the projection keeps the changes that go furthest.
            further = 0.4 * rng.sub("where").uniform(index, shape, draw)
            return self.project(other + (other - x0).sign() * further, x0)
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

    @property
    def _counted(self) -> bool:
        """Whether it is more than one norm ball."""
        return self.norm not in BALLS or bool(self.limits)

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

        Raises:
            InputError: For a threat model on spikes, or with limits.
        """
        if self._counted or self.domain == "events":
            raise InputError(f"expected one norm ball, got '{self.ball}'; project a step along the gradient instead")
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


def budget_name(norm: Norm, limits: tuple[Limit, ...]) -> str:
    """A norm with its limits, as text: what attacks share that are compared and combined.

    Example:
        >>> budget_name("l0", (("deletions", 2),))
        'l0 with deletions <= 2'
    """
    if not limits:
        return norm
    return f"{norm} with {' and '.join(f'{other} <= {most:g}' for other, most in limits)}"


def check_limits(norm: Norm, limits: tuple[Limit, ...]) -> None:
    """Raises an `InputError` unless `limits` belong to one kind of threat model with `norm`."""
    names = [norm, *(other for other, _ in limits)]
    kinds = [[each for each in kind if each != norm] for kind in (COUNTS, SHIFTS) if norm in kind]
    for other, most in limits:
        if other not in get_args(Norm) or not any(other in kind for kind in kinds):
            known = kinds[0] if kinds else []
            raise InputError(
                f"expected limits beside norm '{norm}' in {known}, got {other!r}; "
                + ("name one of these" if known else "leave limits= out")
            )
        if not (math.isfinite(most) and most >= 0):
            raise InputError(f"expected a limit >= 0 and finite for '{other}', got {most}; give a whole number")
    if len(set(names)) < len(names):
        raise InputError(f"expected each norm once, got {names}; leave the repeated limit out")
