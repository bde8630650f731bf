"""One perturbation for all samples, fitted on validation data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_count, check_share
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.errors import InputError
from snnrobust.plugin.protocols import Queries, State
from snnrobust.plugin.task import Task
from snnrobust.threat_models.threat_model import Norm, ThreatModel
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.events.common_change import NO_SAMPLE, Judge, Judged, exchanged, some_of

#: Share of the steps in which a set grows to its budget.
GROWTH = 0.3


@dataclass(frozen=True)
class Universal:
    """Universal perturbation: the same change v of all samples, x' = P(x + v) with the threat model's projection P.

    Fitted on validation samples, which the core hands over; test samples are only changed, at no query. What is lowered
    is the share of validation samples that are right plus their mean margin, each relative to the originals; gradients
    of the objective are averaged over these samples at unit length.

    Counts (L0 in every domain; additions, deletions, and L1 of whole numbers): at most floor(epsilon) entries of v are
    not zero. Each sets its entry of every sample to the upper or the lower bound (on spikes: to 1 or to 0; a sample
    that has this value already is not changed there, so fewer entries than epsilon may differ), or, under the other
    norms, adds or removes one event. The set grows to its budget in the first 30 % of the steps. Each step takes back
    some changes of small mean gain and makes others of large mean gain, with Gumbel noise as in `flips`, and keeps the
    result if what is left on the validation samples is no more.

    L-inf, L2, and L1 of real inputs: projected gradient steps 2 epsilon (1 - k / steps), in the steepest direction of
    the mean gradient, from a random start; the best v is kept.

    After Moosavi-Dezfooli et al. 2017 (arXiv 1610.08401), which add up minimal perturbations of one sample after the
    other, and Büchel et al. 2022 (Frontiers in Neuroscience, "Adversarial attacks on spiking convolutional neural
    networks for event-based vision"), which do so on spikes. It differs: the search is over sets of counted size, led
    by the mean gradient, and the published tutorial fits on its test loader.

    Attributes:
        steps: Number of steps, each a forward and a backward pass of the samples that it is fitted on.
        samples: How many random validation samples it is fitted on, at most.
        exchange: Greatest share of the changes that the first step takes back.
    """

    steps: int = 100
    samples: int = 128
    exchange: float = 0.5

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1", "l0", "additions", "deletions")

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_count("samples", self.samples)
        check_share("exchange", self.exchange, "give a share of the changes", zero=True, one=True)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` for event lists."""
        if model.domain == "events":
            raise InputError(
                f"expected grids for '{task.label}', got event lists of model '{model.name}'; bin them first, and wrap "
                f"with domain='binary' or 'integer'"
            )

    def fit(self, oracle: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> State:
        """The change v [*] of all samples, fitted on the samples x [N, *] with labels y [N]."""
        if threat.epsilon == 0:
            return {"change": torch.zeros_like(x[0])}
        few = some_of(index, self.samples, rng)
        judge = Judge(oracle, x[few.to(x.device)], y[few.to(y.device)], index[few])
        search = self._fit_set if _counts(threat) else self._fit_in_ball
        return {"change": search(judge, threat, rng)}

    def perturb(
        self, oracle: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor, fitted: State
    ) -> Tensor:
        """The samples x [N, *] with the change; steps beyond those that it was fitted on stay as they are."""
        change = fitted["change"].to(x)
        missing = max(0, x.shape[1] - len(change))
        change = functional.pad(change, (0, 0) * (change.ndim - 1) + (0, missing))[: x.shape[1]]
        return threat.project(x + change, x)

    def _fit_set(self, judge: Judge, threat: ThreatModel, rng: Draws) -> Tensor:
        """The best set of counted changes."""
        x, most = judge.x, min(threat.whole, judge.x[0].numel())
        change, judged = torch.zeros_like(x[0]), judge(x, 0)
        for k in range(self.steps):
            if not judged.right:
                break
            wanted = math.ceil(most * min(1.0, (k + 1) / (GROWTH * self.steps)))
            proposed = self._propose(change, judged, x, threat, wanted, k, rng)
            after = judge(_added(x, proposed, threat), k + 1)
            if after.loss <= judged.loss:
                change, judged = proposed, after
        return change

    def _propose(
        self, change: Tensor, judged: Judged, x: Tensor, threat: ThreatModel, wanted: int, k: int, rng: Draws
    ) -> Tensor:
        """The set [*] with some of its changes exchanged for others."""
        held, count, (low, high) = change.flatten(), change.numel(), threat.bounds
        size = high - low if threat.norm == "l0" else 1.0
        # All numbers of a step in one draw.
        unit = rng.sub("propose").uniform(NO_SAMPLE, (3 * count + 3,), k)[0]
        side = unit[2 * count : 3 * count]
        part, heat, coin = unit[3 * count :].tolist()
        gradient = judged.gradient

        # What each change is worth to first order, a mean over the samples.
        up = _mean(gradient * ((x + size).clamp_max(high) - x))
        down = _mean(gradient * ((x - size).clamp_min(low) - x))
        allowed = threat.within("additions") >= 1, threat.within("deletions") >= 1
        up, down = (
            each if can else torch.full_like(each, -torch.inf) for each, can in zip((up, down), allowed, strict=True)
        )
        upwards = torch.where(up == down, side < 0.5, up > down)
        target = torch.where(upwards, size, -size)
        gain = torch.maximum(up, down)

        changed = held != 0
        worth = _mean(gradient * (_added(x, change, threat) - x))
        spread = int(changed.sum())
        least = 1 if spread >= wanted else int(part < 0.5)
        back = max(int(self.exchange * (1 - k / self.steps) * part * spread), spread - wanted, least)
        draws, undoes = unit[: 2 * count].reshape(2, count), target == held
        kept, made = exchanged(changed, worth, gain, undoes, back, wanted, draws, heat=heat, along=coin < 0.5)
        return torch.where(made, target, torch.where(kept, held, 0.0)).reshape(change.shape)

    def _fit_in_ball(self, judge: Judge, threat: ThreatModel, rng: Draws) -> Tensor:
        """The best change in the ball by projected gradient steps."""
        x, (low, high) = judge.x, threat.bounds
        ball = ThreatModel(threat.norm, threat.epsilon, (low - high, high - low))
        nothing = torch.zeros_like(x[:1])
        change = ball.start(nothing, rng.sub("start"), NO_SAMPLE)  # (1, *)
        best, least = nothing, judge.loss(x, 0)
        for k in range(self.steps):
            judged = judge(threat.project(x + change, x), k + 1)
            if judged.loss <= least:
                best, least = change, judged.loss
            if not judged.right:
                break
            direction = ball.steepest(judged.gradient.double().mean(dim=0, keepdim=True).to(x))
            step = 2 * threat.epsilon * (1 - k / self.steps)
            change = ball.project(change + step * direction, nothing)
        return best[0]


def _counts(threat: ThreatModel) -> bool:
    """Whether the norm counts changes, so that a perturbation is a set of entries."""
    return threat.norm in ("l0", "additions", "deletions") or (threat.norm == "l1" and threat.domain != "real")


def _added(x: Tensor, change: Tensor, threat: ThreatModel) -> Tensor:
    """The samples with a set of changes; under L0 alone the set itself keeps to the budget."""
    if threat.norm == "l0" and not threat.limits:
        return (x + change).clamp(*threat.bounds)
    return threat.project(x + change, x)


def _mean(values: Tensor) -> Tensor:
    """The mean over samples, [N, *] -> [D]; in float64, so that no order of summation decides a choice."""
    return values.flatten(1).double().mean(dim=0)
