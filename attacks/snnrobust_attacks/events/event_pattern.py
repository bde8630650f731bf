"""Patterns of added events on the border, in the corners or along a moving dash."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_choice, check_count
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.errors import InputError
from snnrobust.objectives.logits import margin
from snnrobust.plugin.protocols import Queries
from snnrobust.plugin.task import Task
from snnrobust.threat_models.selection import largest_mask
from snnrobust.threat_models.threat_model import Norm, ThreatModel
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.optimisers.shared import per_sample


@dataclass(frozen=True)
class EventPattern:
    """Events added on a pattern of pixels of an event camera, after DVS-Attacks (Marchisio et al. 2021).

    Patterns, in both polarities and all steps of [N, T, C, H, W]:
    "frame": the pixels within `width` of the border.
    "corner": a square of `width` pixels a side in each corner.
    "dash": in each step a horizontal line of `width` pixels, which moves on by its length from step to step, and comes
        back in at the other side; its first place is another one for each sample.

    Entries of the pattern are set to the upper bound (binary 1; of event counts the most that a count can be; under
    norms that count single events, one event is added). Nothing else changes, and no event is removed.

    chosen="random": floor(epsilon) random entries of the pattern, and a random place of the dash. chosen="gradient": in
    `steps` rounds the entries of the pattern whose change raises the objective most to first order, and the dash that
    begins where the pattern's summed gain is largest; of all rounds the strongest result. The control for it is
    chosen="random" with the same pattern: as many random entries of it.

    It differs from the published code in this. There events are added without a bound: entries of 2 in binary data;
    here values stay in the domain. There the frame fills the whole border at all steps and nothing is counted; here at
    most epsilon entries change, and an epsilon beyond the pattern's size gives the published form. There the two
    corners of the N-MNIST code are the same one; here all four are used, at once and with a width that grows with the
    budget. There the dash stands still within a recording (but in its mask-filter-aware form).

    Attributes:
        pattern: "frame", "corner" or "dash".
        chosen: "random" or "gradient".
        width: Pixels. 0: the narrowest frame, or the smallest corners, that hold epsilon entries; a dash of 2.
        steps: Rounds of chosen="gradient", each a forward and a backward pass.
    """

    pattern: Literal["frame", "corner", "dash"] = "frame"
    chosen: Literal["random", "gradient"] = "gradient"
    width: int = 0
    steps: int = 10

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l1", "l0", "l0-step", "additions")

    def __post_init__(self) -> None:
        check_choice("pattern", self.pattern, ("frame", "corner", "dash"))
        check_choice("chosen", self.chosen, ("random", "gradient"))
        check_count("width", self.width, 0, "give a number of pixels, or 0 for one from the budget")
        check_count("steps", self.steps)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are those of an event camera, with room for the pattern."""
        x = data.test.x
        if model.static or x.ndim != 5 or model.domain == "events":
            kind = "static" if model.static else "temporal"
            raise InputError(
                f"expected inputs [N, T, C, H, W] of an event camera for '{task.label}', got {kind} inputs "
                f"{list(x.shape)} of domain '{model.domain}' of model '{model.name}'; use 'patch' or 'universal' for "
                f"other grids, and bin event lists first"
            )
        if not all(math.isfinite(bound) for bound in model.bounds):
            raise InputError(f"expected finite bounds for '{task.label}', got {model.bounds}; pass bounds= to wrap")
        if self.width > min(x.shape[-2:]):
            raise InputError(
                f"expected width of '{task.label}' up to {min(x.shape[-2:])} on {list(x.shape[-2:])} pixels, got "
                f"{self.width}; make it smaller"
            )

    def perturb(self, oracle: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> Tensor:
        """Adversarial examples [N, T, C, H, W] for inputs x with labels y [N]."""
        if threat.epsilon == 0:
            return x.clone()
        rng = rng.on(x)
        order = rng.sub("order").uniform(index, x.shape[1:])
        if self.chosen == "random":
            start = rng.sub("place").uniform(index, (2,))
            start = (start * start.new_tensor(x.shape[-2:])).long()
            mask = self._mask(x.shape, threat, start.cpu()).to(x.device)
            return _filled(x, x, mask, order, _budget(threat, mask), threat)
        return self._by_gradient(oracle, x, y, threat, order, index)

    def _by_gradient(
        self, oracle: Queries, x: Tensor, y: Tensor, threat: ThreatModel, order: Tensor, index: Tensor
    ) -> Tensor:
        """The strongest result of rounds that each fill more of the pattern."""
        at, best, strength = x, x, torch.full((len(x),), -torch.inf, dtype=torch.float64, device=x.device)
        mask = torch.zeros_like(x, dtype=torch.bool)
        for k in range(self.steps + 1):
            last = k == self.steps
            if last:
                objective, logits = oracle.value(at, y, index, k)
            else:
                gradient, objective, logits = oracle.gradient(at, y, index, k)
            wrong = margin(logits, y) < 0
            # The squashed objective is below 1: a wrong iterate counts as stronger than any right one.
            now = torch.atan(objective.double()) / torch.pi + 2 * wrong
            best = torch.where(per_sample(now > strength, x), at, best)
            strength = torch.maximum(strength, now)
            if last:
                break
            gain = (_target(x, threat) - x) * gradient  # (N, T, C, H, W)
            if k == 0:
                mask = self._mask(x.shape, threat, self._dash_starts(gain)).to(x.device)
            spend = (_budget(threat, mask) * (k + 1) / self.steps).ceil().long()
            at = _filled(x, at, mask, _ranked(gain, order), spend, threat)
        return best

    def _dash_starts(self, gain: Tensor) -> Tensor:
        """First row and column [N, 2] of the dash with the largest summed gain [N, T, C, H, W]."""
        if self.pattern != "dash":
            return torch.zeros(len(gain), 2, dtype=torch.long)
        sums, length = gain.clamp_min(0).sum(dim=2).double(), self._dash(gain.shape)  # (N, T, H, W)
        total = torch.zeros_like(sums[:, 0])
        for t in range(gain.shape[1]):
            for pixel in range(length):
                total += sums[:, t].roll(-(t * length + pixel), dims=2)
        place = total.flatten(1).argmax(dim=1)
        return torch.stack([place // gain.shape[4], place % gain.shape[4]], dim=1).cpu()

    def _mask(self, shape: torch.Size, threat: ThreatModel, start: Tensor) -> Tensor:
        """Which entries belong to the pattern, [N, T, C, H, W]; the dash of each sample begins at `start` [N, 2]."""
        count, steps, channels, height, width = shape
        rows, columns = torch.arange(height)[:, None], torch.arange(width)
        if self.pattern == "dash":
            length = self._dash(shape)
            row, column = (each[:, None, None, None] for each in start.unbind(dim=1))  # (N, 1, 1, 1)
            moved = (columns - column - length * torch.arange(steps)[:, None, None]) % width  # (N, T, 1, W)
            return ((rows == row) & (moved < length))[:, :, None].expand(count, steps, channels, height, width)
        vertical, horizontal = torch.minimum(rows, height - 1 - rows), torch.minimum(columns, width - 1 - columns)
        # The distance from the border, or from the nearest corner.
        away = (torch.minimum if self.pattern == "frame" else torch.maximum)(vertical, horizontal)  # (H, W)
        limit = self.width
        while not self.width and limit <= int(away.max()):
            limit += 1
            if int((away < limit).sum()) * steps * channels >= threat.epsilon:
                break
        return (away < limit).expand(count, steps, channels, height, width)

    def _dash(self, shape: torch.Size) -> int:
        """The length of the dash."""
        return min(self.width or 2, shape[-1])


def _target(x: Tensor, threat: ThreatModel) -> Tensor:
    """The value of an entry with an event more, or at the upper bound where changed entries are counted."""
    high = threat.bounds[1]
    single = threat.norm in ("l1", "additions", "events")
    return (x + 1).clamp_max(high) if single else torch.full_like(x, high)


def _budget(threat: ThreatModel, mask: Tensor) -> Tensor:
    """How many entries of a pattern [N, *] may change, [N]; the projection keeps to what else is limited."""
    size = mask.flatten(1).sum(dim=1)
    if threat.norm == "l0-step":
        return size.clamp_max(threat.whole * mask.shape[1])
    return size if threat.norm == "linf" else size.clamp_max(threat.whole)


def _ranked(gain: Tensor, order: Tensor) -> Tensor:
    """The rank of each gain [N, *] in its sample, in [0, 1); equal ones, of a dead gradient, in the order given."""
    by_order = order.flatten(1).argsort(dim=1, stable=True)
    ranks = gain.flatten(1).gather(1, by_order).argsort(dim=1, stable=True)
    places = torch.arange(ranks.shape[1], device=gain.device).to(gain) / ranks.shape[1]
    return (
        torch.zeros_like(places.expand_as(ranks))
        .scatter(1, by_order.gather(1, ranks), places.expand_as(ranks))
        .reshape(gain.shape)
    )


def _filled(x: Tensor, at: Tensor, mask: Tensor, score: Tensor, count: Tensor, threat: ThreatModel) -> Tensor:
    """x [N, *] with `count` [N] entries of the pattern at their target: those of `at`, then by score in [0, 1)."""
    target = _target(x, threat)
    free = mask & (target > x)
    score = score + (at != x)
    chosen = free & largest_mask(score.masked_fill(~free, -torch.inf).flatten(1), count).reshape(x.shape)
    # Beyond the target, by the score: the projection keeps the changes that go furthest.
    beyond = 0.4 * score / 2 if threat.domain != "real" else 0.0
    return threat.project(torch.where(chosen, target + beyond, x), x)
