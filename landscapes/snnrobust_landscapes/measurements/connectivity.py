"""Training loss and accuracy on the straight line between two checkpoints of a net."""

from __future__ import annotations

import hashlib
import math
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.errors import InputError
from snnrobust.plugin.task import Task
from snnrobust.results.artifacts import Artifact, Profile
from snnrobust.results.checkpoint import MeasurementCheckpoint
from snnrobust.results.records import Record
from snnrobust.wrapping.model import SpikingModel
from snnrobust_landscapes.loss.landscape import LossValues
from snnrobust_landscapes.loss.weights import WeightLandscape, temporarily_set
from snnrobust_landscapes.measurements import section_points
from snnrobust_landscapes.measurements.setting_checks import require_counts, require_not_negative, require_positive

LINE = "straight line between checkpoints"
UNIT = "share of the way"


@dataclass(frozen=True)
class Connectivity:
    """L((1 - t) theta_0 + t theta_1) for t in [0, 1], from the model's weights theta_0 to those of a checkpoint.

    All floating-point tensors of the state dict are interpolated, batch norm's running statistics too, so that the ends
    are exactly the trained nets. Recomputing the statistics at each point (Jordan et al. 2023, "REPAIR", arXiv
    2211.08403) often lowers the barrier between nets with batch norm; it is not done here. Integers, such as batch
    norm's count of batches, do not change.

    Yields a `Profile` of "loss" and "accuracy" and the records "loss" at t = 0 and t = 1 and
    "barrier" = max over t in [0, 1] of L(t) - ((1 - t) L(0) + t L(1)) (Frankle et al. 2020, arXiv 1912.05671, take the
    mean of the ends in place of the chord; for ends of equal loss it is the same), which is >= 0.

    Attributes:
        checkpoint: Path of a state dict of the same net, as `torch.save(net.state_dict(), path)` writes it.
        points: Points in [0, 1], the ends included.
        beyond: How far the line extends beyond both ends, as a share of its length.
        samples: Number of training samples, the first ones (all if there are fewer).
        logit_scale: Factor of the logits before the cross entropy, as in training.
        chunk: Samples that go through the net together, fewer where memory runs out.
        digest: Digest of the file's content, so that a run is not resumed with another file.

    Raises:
        InputError: If there is no such file, or for a setting out of range.
    """

    checkpoint: str = field(repr=False, compare=False)  # runs are compared by the digest, not by the path
    points: int = 21
    beyond: float = 0.0
    samples: int = 500
    logit_scale: float = 1.0
    chunk: int = 64
    digest: str = field(init=False)

    resumable: ClassVar[bool] = True
    paths: ClassVar[tuple[str, ...]] = ("checkpoint",)

    def __post_init__(self) -> None:
        require_counts(self, points=2, samples=1, chunk=1)
        require_positive(self, "logit_scale")
        require_not_negative(self, "beyond")
        object.__setattr__(self, "checkpoint", str(self.checkpoint))
        object.__setattr__(self, "digest", _digest(self.checkpoint))

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless there are training data, and a checkpoint of the model's net.

        The loss must be finite at both ends.
        """
        other = self._require(model, data)
        with model.session():
            line = _StraightLine(self._landscape(model, data), other)
            for end in (0.0, 1.0):
                line.loss(end)

    def measure(
        self, model: SpikingModel, data: EvaluationData, rng: Draws, checkpoint: MeasurementCheckpoint | None = None
    ) -> Iterable[Record | Artifact]:
        """The profile and the records; the net's weights are as before."""
        other = self._require(model, data)
        checkpoint = MeasurementCheckpoint() if checkpoint is None else checkpoint
        steps = self.points - 1
        outside = math.floor(self.beyond * steps + 1e-9)
        positions = np.arange(-outside, self.points + outside) / steps  # 0 and 1 exactly among them
        with model.session():
            landscape = self._landscape(model, data)
            line = _StraightLine(landscape, other)
            chunk = len(landscape.chunks[0].y)
            values = section_points.losses_at_points(
                len(positions), lambda k: line.loss(positions[k]), checkpoint, chunk
            )
        count = len(landscape.samples)
        inner = slice(outside, outside + self.points)
        t, losses = positions[inner], values[inner, 0]
        barrier = float((losses - ((1 - t) * losses[0] + t * losses[-1])).max())
        name = Path(self.checkpoint).name
        yield Profile(
            x=positions,
            values={"loss": values[:, 0], "accuracy": values[:, 1]},
            axis=f"{UNIT} from the model (0) to {name} (1)",
            caption=(
                f"{section_points.caption_start(landscape)} on the straight line to {name}, running statistics "
                f"included."
            ),
        )
        for end, value in ((0.0, losses[0]), (1.0, losses[-1])):
            yield Record("loss", float(value), count=count, strength=end, unit=UNIT, threat=LINE, space="weights")
        yield Record("barrier", barrier, count=count, threat=LINE, space="weights")

    def _landscape(self, model: SpikingModel, data: EvaluationData) -> WeightLandscape:
        train = data.training(section_points.PURPOSE)
        train = train.take(min(self.samples, len(train)))
        size = min(self.chunk, data.batch_size)  # which is halved where memory ran out
        return WeightLandscape(model, train, chunk=size, logit_scale=self.logit_scale)

    def _require(self, model: SpikingModel, data: EvaluationData) -> dict[str, Tensor]:
        """The floating-point tensors of the checkpoint by name."""
        data.training(section_points.PURPOSE)
        if _digest(self.checkpoint) != self.digest:
            raise InputError(
                f"expected '{self.checkpoint}' as it was when the measurement was made, got other content; create the "
                f"measurement again"
            )
        state, own = _state(self.checkpoint), model.net.state_dict()
        if state.keys() != own.keys():
            missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
            raise InputError(
                f"expected a state dict of the net of model '{model.name}' in '{self.checkpoint}', got one without "
                f"{missing} and with {unknown} in addition; save net.state_dict() of the same net"
            )
        floating = {name: state[name] for name in _floating(model.net)}
        for name, each in floating.items():
            if each.shape != own[name].shape:
                raise InputError(
                    f"expected '{name}' of shape {tuple(own[name].shape)} in '{self.checkpoint}', got "
                    f"{tuple(each.shape)}; save net.state_dict() of the same net"
                )
            if not torch.isfinite(each).all():
                raise InputError(
                    f"expected finite weights in '{self.checkpoint}', got NaN or infinity in '{name}'; "
                    f"give another checkpoint"
                )
        return floating


class _StraightLine:
    """The straight line from the tensors of the net of `landscape` to those of `other`, by name."""

    def __init__(self, landscape: WeightLandscape, other: Mapping[str, Tensor]) -> None:
        self._landscape = landscape
        self._other = other
        self._tensors = _floating(landscape.model.net)
        self._own = {name: each.detach() for name, each in self._tensors.items()}

    def loss(self, t: float) -> LossValues:
        """The loss at (1 - t) theta_0 + t theta_1."""
        at = {name: _between(each, self._other[name].to(each.device), t) for name, each in self._own.items()}
        names = self._landscape.names
        with temporarily_set(self._tensors, {name: each for name, each in at.items() if name not in names}):
            return self._landscape.loss_at({name: at[name] for name in names})


def _digest(path: str) -> str:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(
            f"expected a checkpoint at '{path}', got: {error.strerror}; save net.state_dict() there"
        ) from error
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _state(path: str) -> Mapping[str, Tensor]:
    """The state dict in a file; only tensors are loaded from it."""
    try:
        state: Any = torch.load(path, weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"expected a state dict in '{path}', got a file that can't be read as one ({reason}); "
            f"save net.state_dict() with torch.save"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(each, Tensor) for each in state.values()):
        raise InputError(f"expected a state dict in '{path}', got {type(state).__name__}; save net.state_dict()")
    return state


def _floating(net: nn.Module) -> dict[str, Tensor]:
    """The tensors to interpolate: floating-point parameters and buffers of a net, by their names in a state dict."""
    everything = net.state_dict(keep_vars=True)
    return {name: each for name, each in everything.items() if isinstance(each, Tensor) and each.is_floating_point()}


def _between(start: Tensor, end: Tensor, t: float) -> Tensor:
    """(1 - t) start + t end, summed in float64 and rounded once, so that it is exact at 0 and 1."""
    return ((1 - t) * start.double() + t * end.double()).to(start.dtype)
