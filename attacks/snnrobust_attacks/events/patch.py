"""An adversarial patch: a rectangle of the sensor, fitted on validation data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_choice, check_count
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.errors import InputError
from snnrobust.plugin.protocols import Queries, State
from snnrobust.plugin.task import Task
from snnrobust.threat_models.selection import largest_mask
from snnrobust.threat_models.threat_model import Norm, ThreatModel
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.events.common_change import NO_SAMPLE, Judge, exchanged, some_of

#: Places that are tried with their first content, those of the largest summed gain.
PLACES = 8
#: Greatest share of the content that the first step switches each way.
EXCHANGED = 0.5
#: Sides of a patch where no budget decides: this share of the sensor's.
SHARE = 0.25


@dataclass(frozen=True)
class Patch:
    """Adversarial patch: the same content, each entry at one of the bounds, in a rectangle of every sample.

    Fitted on validation samples, which the core hands over; test samples are only changed, at no query. The content
    covers all channels (polarities) and `duration` steps. What differs from a sample counts against its budget: the
    result is the projection of the patched sample, which under L0 takes back the changes of the last steps where there
    are too many.

    Where changed entries are counted, no more of the content than epsilon is at the upper bound.

    Its place is the same for all samples: of the 8 whose entries have the largest summed gain, the one with which
    fewest validation samples stay right; or random for each sample, keyed by its id. The content starts where the mean
    gradient points. Then entries of small mean gain are lowered and others of large mean gain raised, with Gumbel
    noise, at first up to half of them; what leaves no more validation samples right, and no larger margins, is kept.

    Inputs [N, T, C, H, W], [N, T, H, W], static images [N, C, H, W], and [N, T, F], of which it covers `side` channels
    next to each other.

    After Brown et al. 2017 (arXiv 1712.09665) and Büchel et al. 2022 (SPAA), where a round patch is fitted for one
    target class by gradient steps in float, rounded at the end. It differs: the content takes legal values at each
    step, and its changes are counted.

    Attributes:
        side: Pixels a side (channels of [N, T, F]). 0: as large as the entries of the patch fit into the budget, at
            least 1; a quarter of the sensor's sides where the norm counts nothing.
        duration: Steps that it lasts; 0: all.
        place: "fixed" or "random".
        steps: Number of steps, each a forward and a backward pass of the samples that it is fitted on.
        samples: How many random validation samples it is fitted on, at most.
    """

    side: int = 0
    duration: int = 0
    place: Literal["fixed", "random"] = "fixed"
    steps: int = 100
    samples: int = 128

    norms: ClassVar[tuple[Norm, ...]] = (
        *("linf", "l2", "l1", "l0"),
        *("l0-step", "additions", "deletions"),
    )

    def __post_init__(self) -> None:
        check_count("side", self.side, 0, "give a number of pixels, or 0 for one from the budget")
        check_count("duration", self.duration, 0, "give a number of steps, or 0 for all")
        check_choice("place", self.place, ("fixed", "random"))
        check_count("steps", self.steps)
        check_count("samples", self.samples)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` for event lists, inputs without a sensor, or a patch larger than it."""
        x = data.test.x
        if model.domain == "events" or (x.ndim != 4 if model.static else x.ndim not in (3, 4, 5)):
            raise InputError(
                f"expected inputs [N, T, C, H, W], [N, T, F] or static images [N, C, H, W] for '{task.label}', got "
                f"{list(x.shape)} of model '{model.name}'; use 'universal' for others"
            )
        if not all(math.isfinite(bound) for bound in model.bounds):
            raise InputError(f"expected finite bounds for '{task.label}', got {model.bounds}; pass bounds= to wrap")
        steps, _, height, width = _on_sensor(x[:1], model.static).shape[1:]
        if self.side > (width if height == 1 else min(height, width)) or self.duration > steps:
            raise InputError(
                f"expected a patch within {height} x {width} entries and {steps} steps for '{task.label}', got side "
                f"{self.side} and duration {self.duration}; make it smaller"
            )

    def fit(self, oracle: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> State:
        """The content [d, C, h, w], and the place (t, top, left) where it is the same for all samples."""
        few = some_of(index, self.samples, rng)
        grid = _on_sensor(x[few.to(x.device)], oracle.static)
        steps, channels, height, width = grid.shape[1:]
        box = self._box(threat, (steps, channels, height, width))
        content = grid.new_full((box[0], channels, box[1], box[2]), threat.bounds[0])
        if threat.epsilon == 0:
            return {"content": content, "place": torch.zeros(3, dtype=torch.long)}
        judge = Judge(oracle, x[few.to(x.device)], y[few.to(y.device)], index[few])
        search = _ContentSearch(judge, threat, oracle.static, content.shape)
        if self.place == "random":
            place = _random_places(rng, index[few], content.shape, grid.shape)
            content = search.first(place)
        else:
            place, content = search.best_place()
        content = search.improve(content, place, self.steps, rng)
        return {"content": content, "place": place[0]}

    def perturb(
        self, oracle: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor, fitted: State
    ) -> Tensor:
        """The samples x [N, *] with the patch, projected onto the budget."""
        if threat.epsilon == 0:
            return x.clone()
        content, grid = fitted["content"].to(x), _on_sensor(x, oracle.static)
        if self.place == "random":
            place = _random_places(rng, index, content.shape, grid.shape)
        else:
            place = fitted["place"].cpu().expand(len(x), 3)
        return threat.project(_patched(x, content, place, oracle.static), x)

    def _box(self, threat: ThreatModel, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Steps, height and width of the patch on a sensor (T, C, H, W)."""
        steps, channels, height, width = shape
        lasts = min(self.duration, steps) or steps
        side = self.side
        if not side:
            counted = _counts_all(threat) or threat.norm == "l0-step"
            room = 2 * threat.whole / channels / (1 if threat.norm == "l0-step" else lasts)
            fitting = [s for s in range(1, max(height, width) + 1) if min(s, height) * min(s, width) <= room]
            usual = math.ceil(SHARE * (width if height == 1 else min(height, width)))
            side = max(fitting, default=1) if counted else usual
        return lasts, min(side, height), min(side, width)


class _ContentSearch:
    """Finds the content of a patch.

    Args:
        judge: Judges the patched samples.
        threat: The threat model.
        static: Whether inputs have no time axis.
        shape: Of the content, (d, C, h, w).
    """

    def __init__(self, judge: Judge, threat: ThreatModel, static: bool, shape: torch.Size) -> None:
        self._judge, self._threat, self._static, self._shape = judge, threat, static, shape
        self._grid = _on_sensor(judge.x, static)
        self._gradient = _on_sensor(judge(judge.x, 0).gradient, static)  # at the originals
        low, high = threat.bounds
        self._gains = [self._gradient * (bound - self._grid) for bound in (high, low)]  # of setting to a bound

    def best_place(self) -> tuple[Tensor, Tensor]:
        """The best place for all samples, [N, 3], and its first content."""
        both = torch.maximum(*(each.double().mean(dim=0) for each in self._gains)).sum(dim=1)  # (T, H, W)
        steps, _, height, width = self._shape
        sums = functional.avg_pool3d(both[None, None], (steps, height, width), stride=1)[0, 0]
        order = sums.flatten().argsort(descending=True, stable=True)[:PLACES].tolist()
        tried = []
        for rank, at in enumerate(order):
            plane = sums.shape[1] * sums.shape[2]
            one = torch.tensor([at // plane, at % plane // sums.shape[2], at % sums.shape[2]])
            place = one.expand(len(self._grid), 3)
            content = self.first(place)
            tried.append((self._judge.loss(self._changed(content, place), rank + 1), rank, place, content))
        _, _, place, content = min(tried, key=lambda each: each[:2])
        return place, content

    def first(self, place: Tensor) -> Tensor:
        """The content that the mean gradient at the originals points to, at places [N, 3]."""
        up, down = (_mean_at(each, place, self._shape) for each in self._gains)
        low, high = self._threat.bounds
        most = self._most_raised()
        chosen = largest_mask((up - down).flatten()[None], most).reshape(up.shape)
        return torch.where((up > down) & chosen, high, low).to(self._grid)

    def improve(self, content: Tensor, place: Tensor, steps: int, rng: Draws) -> Tensor:
        """The content after `steps` attempts to switch some of its entries."""
        low, high = self._threat.bounds
        judged = self._judge(self._changed(content, place), PLACES + 1)
        count, most = content.numel(), self._most_raised()
        for k in range(steps):
            if not judged.right:
                break
            unit = rng.sub("exchange").uniform(NO_SAMPLE, (2 * count + 5,), k)[0]
            lowered, raised, heat, along, only_lower = unit[2 * count :].tolist()
            slope = _mean_at(_on_sensor(judged.gradient, self._static), place, self._shape).flatten()
            held = content.flatten() > low
            share, spread = EXCHANGED * (1 - k / steps), int(held.sum())
            more = 0 if only_lower < 0.25 else min(most, max(1, int(share * raised * (count - spread))))
            fewer = max(0 if more else 1, int(share * lowered * spread), spread + more - most)
            kept, made = exchanged(
                held,
                worth=slope,
                gain=slope,
                undoes=torch.ones_like(held),
                back=fewer,
                wanted=spread - fewer + more,
                unit=unit[: 2 * count].reshape(2, count),
                heat=heat,
                along=along < 0.5,
            )
            proposed = torch.where(kept | made, high, low).to(content).reshape(content.shape)
            after = self._judge(self._changed(proposed, place), PLACES + 2 + k)
            if after.loss <= judged.loss:
                content, judged = proposed, after
        return content

    def _most_raised(self) -> int:
        """How many entries of the content may be at the upper bound."""
        entries, threat = self._shape.numel(), self._threat
        return min(entries, threat.whole) if _counts_all(threat) else entries

    def _changed(self, content: Tensor, place: Tensor) -> Tensor:
        """The samples with a content at places [N, 3], projected onto the budget."""
        x, threat = self._judge.x, self._threat
        patched = _patched(x, content, place, self._static)
        fits = threat.norm == "l0" and not threat.limits and content.numel() <= threat.whole
        return patched if fits else threat.project(patched, x)


def _counts_all(threat: ThreatModel) -> bool:
    """Whether the norm counts changes of a sample in all."""
    return threat.norm in ("l0", "additions", "deletions", "events") or (
        threat.norm == "l1" and threat.domain != "real"
    )


def _on_sensor(x: Tensor, static: bool) -> Tensor:
    """Inputs as [N, T, C, H, W]: one step of static ones, channels of [N, T, F] as a row of pixels."""
    if static:
        return x.unsqueeze(1)
    if x.ndim == 3:
        return x[:, :, None, None, :]
    return x.unsqueeze(2) if x.ndim == 4 else x


def _random_places(rng: Draws, index: Tensor, content: torch.Size, grid: torch.Size) -> Tensor:
    """A random place (t, top, left) for each sample, [N, 3], at which the content (d, C, h, w) fits."""
    room = torch.tensor([grid[1] - content[0], grid[3] - content[2], grid[4] - content[3]]).clamp_min(0) + 1
    unit = rng.sub("place").uniform(index, (3,)).cpu()
    return torch.minimum((unit * room).long(), room - 1)


def _entries(place: Tensor, content: torch.Size, grid: torch.Size) -> Tensor:
    """Which entries of a flattened sample the content covers, [N, d C h w], at places [N, 3]."""
    (steps, channels, height, width), (_, _, rows, columns) = content, grid[1:]
    t, top, left = (each[:, None, None, None, None] for each in place.unbind(dim=1))
    t = t + torch.arange(steps)[:, None, None, None]
    c = torch.arange(channels)[:, None, None]
    y, x = top + torch.arange(height)[:, None], left + torch.arange(width)
    return (((t * channels + c) * rows + y) * columns + x).flatten(1)


def _patched(x: Tensor, content: Tensor, place: Tensor, static: bool) -> Tensor:
    """The samples x [N, *] with the content at places [N, 3]; what lies beyond their last step is left out."""
    grid = _on_sensor(x, static).shape
    last = int((grid[1] - place[:, 0]).min()) if len(x) else 0
    content = content[: max(0, last)]
    at = _entries(place, content.shape, grid).to(x.device)
    return x.flatten(1).scatter(1, at, content.flatten().expand(len(x), -1)).reshape(x.shape)


def _mean_at(values: Tensor, place: Tensor, content: torch.Size) -> Tensor:
    """The mean over samples of values [N, T, C, H, W] at places [N, 3], (d, C, h, w)."""
    at = _entries(place, content, values.shape).to(values.device)
    return values.flatten(1).gather(1, at).double().mean(dim=0).reshape(content)
