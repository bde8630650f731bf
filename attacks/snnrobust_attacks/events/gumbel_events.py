"""The Gumbel-softmax attack on raw events."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_count, check_positive
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.errors import InputError
from snnrobust.plugin.protocols import Queries
from snnrobust.plugin.task import Task
from snnrobust.threat_models.event_lists import project_events
from snnrobust.threat_models.selection import largest_mask
from snnrobust.threat_models.sensor import PRESENT, Sensor, T
from snnrobust.threat_models.threat_model import Norm, ThreatModel
from snnrobust.wrapping.decision import predict
from snnrobust.wrapping.model import SpikingModel

#: Logits of a candidate that is no event of the original: of absence, and of each polarity.
ABSENT, OTHER = 0.9, 0.05
#: Greatest size of a logit, and greatest length of a sample's gradient with respect to its logits.
BOUND, LENGTH = 2.0, 20.0
#: Decay of Adam's moments.
FIRST, SECOND = 0.9, 0.999


@dataclass(frozen=True)
class GumbelEvents:
    """Gumbel-softmax attack on event lists (Yao et al. 2024, ECCV; code JY-ura/GumbelSoftmaxAttack).

    A candidate k is a place (t, x, y) with a logit for each of its states: absent, or present with one of the P
    polarities. Each step draws a state for each candidate, argmax(logits + Gumbel noise), evaluates the net at the
    events so drawn, and passes the gradient straight through the softmax at temperature tau:

        d / d logit_c = q_c (G_c - sum_s q_s G_s) / tau,  q = softmax((logits + noise) / tau),

    where G_c is the gradient of the objective with respect to the presence of that event, minus `penalty` / K for each
    event added or removed. Adam with a cosine step size ascends; logits are clamped to [-2, 2], the gradient of a
    sample to length 20; tau falls from `hottest` to `coldest`. Logits start at 1 for an event's own state and 0 for
    its others; for added candidates at .9 for absence and .05 for presence.

    It differs from its source in this:
    - The budget is held exactly, at each step: of the drawn changes, those with the largest mean gradient so far are
      made. (The source has no budget, and limits changes by the penalty alone.) The first step evaluates the original.
    - Added candidates are `candidates` random places, half of them anywhere on the sensor, half next to an event of
      the original at a random time. The source takes all events of a sample of the target class, or random places; an
      attack here sees the samples it attacks alone.
    - Untargeted, unless the objective has a target.
    - Frames are those of the model's own binning, of the events that are returned. The source splits frames by the
      number of candidates, absent ones included, so that its events give other frames.
    - The best drawn example is returned, not the last.

    Added events take the absent rows of a list, `spare=` in `snnrobust.events.dataset`.

    Attributes:
        steps: Evaluations of the net, each with a gradient.
        candidates: Places where events may be added.
        learning_rate: Adam's first step size.
        hottest: First temperature.
        coldest: Last temperature.
        penalty: Weight of the mean change.
    """

    steps: int = 100
    candidates: int = 2000
    learning_rate: float = 1.0
    hottest: float = 2.0
    coldest: float = 0.1
    penalty: float = 0.1

    norms: ClassVar[tuple[Norm, ...]] = ("l0", "l1", "additions", "deletions")
    event_lists: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count("steps", self.steps, 2, "give a step for the original and at least one more")
        check_count("candidates", self.candidates)
        for name in ("learning_rate", "hottest", "coldest"):
            check_positive(name, getattr(self, name))
        if not 0 <= self.penalty < math.inf:
            raise InputError(f"expected penalty >= 0 and finite, got {self.penalty!r}; 0 leaves it out")

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are event lists with room for the events that may be added."""
        if model.domain != "events":
            raise InputError(
                f"expected event lists for '{task.label}', got domain '{model.domain}'; wrap with domain='events' and "
                f"encoder=sr.events.by_time(...), or use 'sda' or 'spike-flip' on frames"
            )
        norm = "l0" if task.attack is None else task.attack.norm
        if norm not in self.norms:
            raise InputError(
                f"expected norm in {list(self.norms)} for '{task.label}', got '{norm}'; it adds and removes events"
            )
        limits = {} if task.attack is None else dict(task.attack.limits)
        most = min(
            max(task.strengths, default=0.0), *(limits.get(each, math.inf) for each in ("l0", "l1", "additions"))
        )
        room = int((data.test.x[..., PRESENT] < 0.5).sum(dim=1).min())
        # A budget of as many events as a list has rows lets all of it change: that is full range, not a number to hold.
        if norm != "deletions" and room < math.floor(most + 1e-6) < data.test.x.shape[1]:
            raise InputError(
                f"expected room for {most:g} more events in each list for '{task.label}', got {room} absent rows; "
                f"make the data with sr.events.dataset(..., spare={math.floor(most + 1e-6)}), or use norm='deletions'"
            )

    def perturb(self, oracle: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> Tensor:
        """The best event lists found [N, E, 5] for the lists x [N, E, 5] with labels y [N]."""
        if threat.sensor is None or threat.whole < 1:
            return x.clone()
        rng = rng.on(x)
        added = self.candidates if threat.within("additions") >= 1 else 0
        events, own = _candidates(x, added, threat.sensor, rng.sub("candidates"), index)
        search = _Search(self, events, own, _room(x), threat, threat.sensor)
        best = own[..., 1:].clone()  # (N, K, P): whether each event is present
        highest = torch.full((len(x),), -torch.inf, dtype=torch.float64, device=x.device)
        active = torch.arange(len(x), device=x.device)
        for step in range(self.steps):
            ids = index[active.to(index.device)]
            unit = rng.sub("noise").uniform(ids, own.shape[1:], step)
            drawn = search.draw(active, unit, step)
            gradient, value, logits = oracle.gradient(search.lists(active, drawn), y[active], ids, step)
            fooled = predict(logits) != y[active]
            better = fooled | (value.double() > highest[active]) if step else fooled  # the original is no example
            best[active[better]], highest[active[better]] = drawn[better], value[better].double()
            search.ascend(active, gradient[..., PRESENT].reshape(drawn.shape), step)
            active = active[~fooled]
            if not len(active):
                break
        return _emitted(x, events, own, best)


class _Search:
    """The logits of a batch, Adam's moments, and the mean gradient of each event's presence.

    Args:
        settings: The attack.
        events: All events of all candidates, [N, K P, 5], absent.
        own: The original's state of each candidate, one-hot [N, K, 1 + P]; all false where a row is no candidate.
        room: How many events may be added to each list, [N].
        threat: What may be changed.
        sensor: Which events exist.
    """

    def __init__(
        self, settings: GumbelEvents, events: Tensor, own: Tensor, room: Tensor, threat: ThreatModel, sensor: Sensor
    ) -> None:
        self._settings, self._threat, self._sensor = settings, threat, sensor
        self._events, self._own, self._room = events, own, room
        start = torch.full_like(own, OTHER, dtype=events.dtype)
        start[..., 0] = ABSENT
        self._logits = torch.where(own[..., 1:].any(dim=2, keepdim=True), own.to(events), start)
        self._first, self._second = torch.zeros_like(self._logits), torch.zeros_like(self._logits)
        self._mean = torch.zeros_like(self._logits[..., 1:])  # (N, K, P)
        self._share = torch.zeros_like(self._logits)
        states = own.shape[2]
        # Events added and removed from one state to another: none, one from or to absence, else two.
        change = 2 * (1 - torch.eye(states, device=events.device, dtype=events.dtype))
        change[0, 1:] = change[1:, 0] = 1
        usable = own.any(dim=2).sum(dim=1).clamp_min(1)  # (N,)
        self._cost = own.to(events) @ change * (settings.penalty / usable.to(events))[:, None, None]  # (N, K, 1 + P)

    def draw(self, rows: Tensor, unit: Tensor, step: int) -> Tensor:
        """Which events of the samples `rows` [n] are present, [n, K, P], by uniform numbers [n, K, 1 + P].

        The original at the first step, else drawn from the logits and within the budget.
        """
        noisy = self._logits[rows] - torch.log(-torch.log(unit.clamp(1e-7, 1 - 1e-7)))
        self._share[rows] = (noisy / self._temperature(step)).softmax(dim=2)
        own = self._own[rows]
        if step == 0:
            return own[..., 1:]
        drawn = torch.nn.functional.one_hot(noisy.argmax(dim=2), own.shape[2]).bool()
        return self._within_budget(rows, (drawn & own.any(dim=2, keepdim=True))[..., 1:])

    def lists(self, rows: Tensor, present: Tensor) -> Tensor:
        """Event lists [n, K P, 5] in which the events `present` [n, K, P] are."""
        return torch.cat([self._events[rows, :, :PRESENT], present.flatten(1)[..., None].to(self._events)], dim=2)

    def ascend(self, rows: Tensor, gradient: Tensor, step: int) -> None:
        """One step of Adam, by the objective's gradient with respect to the presence of each event [n, K, P]."""
        settings = self._settings
        self._mean[rows] = FIRST * self._mean[rows] + (1 - FIRST) * gradient
        gain = torch.nn.functional.pad(gradient, (1, 0)) - self._cost[rows]  # (n, K, 1 + P); absence gains nothing
        share = self._share[rows]
        along = share * (gain - (share * gain).sum(dim=2, keepdim=True)) / self._temperature(step)
        along = along * self._own[rows].any(dim=2, keepdim=True)
        length = along.flatten(1).norm(dim=1)[:, None, None]
        along = along * (LENGTH / length.clamp_min(LENGTH))
        self._first[rows] = FIRST * self._first[rows] + (1 - FIRST) * along
        self._second[rows] = SECOND * self._second[rows] + (1 - SECOND) * along.square()
        first = self._first[rows] / (1 - FIRST ** (step + 1))
        second = self._second[rows] / (1 - SECOND ** (step + 1))
        rate = settings.learning_rate * (1 + math.cos(math.pi * step / settings.steps)) / 2
        moved = self._logits[rows] + rate * first / (second.sqrt() + 1e-8)
        self._logits[rows] = moved.clamp(-BOUND, BOUND)

    def _temperature(self, step: int) -> float:
        settings = self._settings
        part = step / max(settings.steps - 1, 1)
        return math.exp((1 - part) * math.log(settings.hottest) + part * math.log(settings.coldest))

    def _within_budget(self, rows: Tensor, drawn: Tensor) -> Tensor:
        """The drawn events [n, K, P] with the changes of least mean gradient undone, until the budget holds."""
        was, now, mean = self._own[rows][..., 1:].flatten(1), drawn.flatten(1), self._mean[rows].flatten(1)  # (n, K P)
        gain = torch.where(now, mean, -mean)
        gain = gain / gain.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(gain.dtype).tiny)
        new = now & ~was
        now = now & (was | largest_mask(torch.where(new, gain, -torch.inf), self._room[rows]))
        # Presence that rounds to the drawn one, and is further from the original's the larger the gain.
        wanted = torch.where(now, 0.75 + 0.2 * gain, 0.25 - 0.2 * gain)
        wanted = torch.where(now == was, was.to(wanted), wanted)
        lists, original = self.lists(rows, wanted), self.lists(rows, was)
        found = project_events(lists, original, self._threat.budgets, self._sensor, by_row=True)
        return (found[..., PRESENT] > 0.5).reshape(drawn.shape)


def _room(x: Tensor) -> Tensor:
    """How many absent rows event lists x [N, E, 5] have, [N]."""
    return (x[..., PRESENT] < 0.5).sum(dim=1)


def _candidates(x: Tensor, added: int, sensor: Sensor, rng: Draws, index: Tensor) -> tuple[Tensor, Tensor]:
    """All events of all candidates, [N, K P, 5], and the original's state of each, one-hot [N, K, 1 + P].

    The K = E + `added` candidates are the rows of x [N, E, 5], and random places: every other one next to an event of
    x, at a random time.
    """
    kinds = sensor.polarities
    present = x[..., PRESENT] > 0.5
    unit = rng.uniform(index, (added, 4), 0)
    sizes = torch.tensor([sensor.duration, sensor.width, sensor.height], device=x.device).to(x)
    anywhere = torch.minimum((unit[..., :3] * sizes).floor(), sizes - 1)  # (N, added, 3)
    row = (unit[..., 3] * x.shape[1]).long().clamp_max(x.shape[1] - 1)  # (N, added)
    near = x.gather(1, row[..., None].expand(-1, -1, x.shape[2]))
    offset = (rng.uniform(index, (added, 2), 1) * 3).floor() - 1  # -1, 0 or 1
    beside = torch.minimum((near[..., T + 1 : T + 3] + offset).clamp_min(0), sizes[1:] - 1)
    beside = torch.cat([anywhere[..., :1], beside], dim=2)
    every_other = torch.arange(added, device=x.device)[:, None] % 2 == 1
    chosen = torch.where(every_other & (near[..., PRESENT:] > 0.5), beside, anywhere)
    places = torch.cat([x[..., :3], chosen], dim=1)  # (N, K, 3)
    polarity = torch.arange(kinds, device=x.device).to(x).expand(*places.shape[:2], kinds)  # (N, K, P)
    events = torch.cat([places[:, :, None].expand(*polarity.shape, 3), polarity[..., None]], dim=3)
    events = torch.nn.functional.pad(events, (0, 1)).flatten(1, 2)  # (N, K P, 5)
    state = (x[..., PRESENT - 1].long() + 1).clamp(0, kinds)
    own = torch.nn.functional.one_hot(state, 1 + kinds).bool() & present[..., None]
    absent = torch.zeros(len(x), added, 1 + kinds, dtype=torch.bool, device=x.device)
    absent[..., 0] = True
    return events, torch.cat([own, absent], dim=1)


def _emitted(x: Tensor, events: Tensor, own: Tensor, present: Tensor) -> Tensor:
    """The lists x [N, E, 5] with the events `present` [N, K, P]: removed ones absent, added ones in absent rows."""
    kept = (present & own[..., 1:])[:, : x.shape[1]].any(dim=2)  # (N, E)
    result = torch.cat([x[..., :PRESENT], kept[..., None].to(x)], dim=2)
    new = (present & ~own[..., 1:]).flatten(1)  # (N, K P)
    count = int(new.sum(dim=1).max()) if len(x) else 0
    source = (~new).long().argsort(dim=1, stable=True)[:, :count]  # the added events first
    rows = (x[..., PRESENT] > 0.5).long().argsort(dim=1, stable=True)[:, :count]  # the absent rows first
    filled = new.gather(1, source)[..., None]  # (N, count, 1)
    width = x.shape[2]
    put = events.gather(1, source[..., None].expand(-1, -1, width))
    put = torch.cat([put[..., :PRESENT], torch.ones_like(put[..., PRESENT:])], dim=2)
    at = rows[..., None].expand(-1, -1, width)
    return result.scatter(1, at, torch.where(filled, put, result.gather(1, at)))
