"""The spike-flip attack on pixels behind an encoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_count, check_share
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.errors import InputError
from snnrobust.plugin.protocols import Queries
from snnrobust.plugin.task import Task
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.events.changed_entries import lead
from snnrobust_attacks.optimisers.shared import check_norm, per_sample


@dataclass(frozen=True)
class SpikeFlipPixels:
    """Spike-flip attack of Liang et al. 2021 (arXiv 2001.01587) on the pixels behind a Poisson encoder.

    Each step encodes the image x anew and draws a mask over the spikes with P(entry) = |g| / max |g|, g the gradient
    at the spikes. Those drawn become 1 where g > 0 and 0 where g < 0; where the whole gradient is zero, a random share
    `share` of them flips. The change d of the spikes moves the pixels,

        x <- clamp(x + mean_t d_t - pull (x - x0)),  pull = .1 (the source's c),

    and it is projected onto the threat model. The source's distance is the mean square m = mean((x - x0)^2): under
    norm "l2" that is epsilon = sqrt(D m) for D pixels (m = .02 on 28 x 28 pixels is epsilon = 3.96), and a distance d
    is m = d^2 / D. Values between other bounds than 0 and 1 are scaled by their range.

    It differs from its source in this:
    - The source stops at the first success on the one sample that it draws. Here all steps are taken, and the image of
      least margin, over the attack's own draws (`eot` of them), is scored on fresh draws that no search has seen.
    - The source drops an image beyond its largest distance; here it is projected.
    - An encoder that passes an image unchanged to each step has no spikes to flip: its values go to 0 and 1. Use PGD
      there.

    Attributes:
        steps: Number of steps, each a forward and a backward pass, and one forward pass more for each draw.
        share: Share of the spikes that flips where the gradient is zero.
        pull: Share of the pixels' change that a step takes back.
    """

    steps: int = 25
    share: float = 0.05
    pull: float = 0.1

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_share("share", self.share, "give a share of the spikes", one=True)
        check_share("pull", self.pull, "give a share of the change", zero=True, one=True)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless images go through an encoder, and the norm is a distance of pixels."""
        check_norm(task, "l2", "linf", "l1")
        if not model.static or model.layout == "N" or model.domain != "real":
            raise InputError(
                f"expected images that an encoder of model '{model.name}' makes spikes for '{task.label}', got "
                f"{'static' if model.static else 'temporal'} inputs of domain '{model.domain}', layout "
                f"'{model.layout}'; wrap with encoder='poisson', or use 'spike-flip' on spikes"
            )
        image = data.test.x[:1].to(device=model.device, dtype=model.input_dtype)
        with torch.no_grad():
            shape = tuple(model.encode(image, torch.arange(1), 0).shape[2:])
        if shape != image.shape[1:]:
            raise InputError(
                f"expected an encoder that keeps the shape {tuple(image.shape[1:])} of an image for '{task.label}', "
                f"got steps of shape {shape}; use encoder='poisson'"
            )

    def perturb(self, oracle: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> Tensor:
        """The images of least margin [N, *] for inputs x [N, *] with labels y [N]."""
        low, high = threat.bounds
        at, best = x, x
        least = torch.full((len(x),), torch.inf, device=x.device)
        for k in range(self.steps + 1):
            leads = lead(oracle.logits(at, index, 2 * k), y).to(least)
            best = torch.where(per_sample(leads < least, x), at, best)
            least = torch.minimum(leads, least)
            if k < self.steps:
                spikes, gradient = oracle.encoded_gradient(at, y, index, 2 * k + 1)
                change = self._flipped(spikes, gradient, rng.on(x), index, k) - spikes  # [N, T, *]
                moved = at + (high - low) * change.mean(dim=1).to(x) - self.pull * (at - x)
                at = threat.project(moved.clamp(low, high), x)
        return best

    def _flipped(self, spikes: Tensor, gradient: Tensor, rng: Draws, index: Tensor, k: int) -> Tensor:
        """The spikes [N, T, *] with those that are drawn set along the gradient."""
        unit = rng.sub("spike-flip").uniform(index, spikes.shape[1:], k).to(spikes)
        largest = per_sample(gradient.flatten(1).abs().amax(dim=1), spikes)
        along = torch.where((unit < gradient.abs() / largest) & (gradient != 0), (gradient > 0).to(spikes), spikes)
        flipped = torch.where(unit < self.share, 1 - spikes, spikes)
        return torch.where(largest > 0, along, flipped)
