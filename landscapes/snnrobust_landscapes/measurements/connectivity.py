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
from snnrobust_landscapes.loss.landscape import Loss
from snnrobust_landscapes.loss.weights import Weights, placed
from snnrobust_landscapes.measurements import slices
from snnrobust_landscapes.measurements.settings import require_counts, require_not_negative, require_positive

LINE = "straight line between checkpoints"
UNIT = "share of the way"


@dataclass(frozen=True)
class Connectivity:
    """L((1 - t) theta_0 + t theta_1) for t in [0, 1], from the model's weights theta_0 to those of a checkpoint.

    All floating-point tensors of the state dict go along the line, batch norm's running statistics too: the ends are
    then the very nets that were trained. Statistics measured anew on the way (Jordan et al. 2023, "REPAIR", arXiv
    2211.08403) often lower the barrier between nets with batch norm: what is measured here is that of the weights as
    they are. Whole numbers, such as batch norm's count of batches, stay.

    Yields a `Profile` of "loss" and "accuracy" and the records "loss" at t = 0 and t = 1 and
    "barrier" = max over t in [0, 1] of L(t) - ((1 - t) L(0) + t L(1)) (Frankle et al. 2020, arXiv 1912.05671, take the
    mean of the ends in place of the chord; for ends of equal loss it is the same), which is >= 0.

    Attributes:
        checkpoint: Path of a state dict of the same net, as `torch.save(net.state_dict(), path)` writes it.
        points: Points of [0, 1], the ends among them.
        beyond: How far the line goes on beyond both ends, as a share of the way.
        samples: Training samples, the first so many (all where there are fewer).
        logit_scale: What training multiplied the logits by before the cross entropy.
        chunk: Samples that go through the net together, where memory has room for so many.
        digest: Of the file's content, so that a run does not go on with another file.

    Raises:
        InputError: If there is no such file, or for a setting out of range.
    """

    checkpoint: str = field(repr=False, compare=False)  # the digest tells a run from another, wherever the file is
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
        there = self._require(model, data)
        with model.session():
            way = _Way(self._landscape(model, data), there)
            for end in (0.0, 1.0):
                way.loss(end)

    def measure(
        self, model: SpikingModel, data: EvaluationData, rng: Draws, kept: MeasurementCheckpoint | None = None
    ) -> Iterable[Record | Artifact]:
        """The profile and the records; the net's weights are as before."""
        there = self._require(model, data)
        kept = MeasurementCheckpoint() if kept is None else kept
        steps = self.points - 1
        outside = math.floor(self.beyond * steps + 1e-9)
        ways = np.arange(-outside, self.points + outside) / steps  # 0 and 1 exactly among them
        with model.session():
            landscape = self._landscape(model, data)
            line = _Way(landscape, there)
            values = slices.walked(len(ways), lambda k: line.loss(ways[k]), kept, len(landscape.chunks[0].y))
        count = len(landscape.samples)
        inner = slice(outside, outside + self.points)
        t, losses = ways[inner], values[inner, 0]
        barrier = float((losses - ((1 - t) * losses[0] + t * losses[-1])).max())
        name = Path(self.checkpoint).name
        yield Profile(
            x=ways,
            values={"loss": values[:, 0], "accuracy": values[:, 1]},
            axis=f"{UNIT} from the model (0) to {name} (1)",
            caption=f"{slices.described(landscape)} on the straight line to {name}, running statistics included.",
        )
        for way, value in ((0.0, losses[0]), (1.0, losses[-1])):
            yield Record("loss", float(value), count=count, strength=way, unit=UNIT, threat=LINE)
        yield Record("barrier", barrier, count=count, threat=LINE)

    def _landscape(self, model: SpikingModel, data: EvaluationData) -> Weights:
        train = data.training(slices.WHAT)
        train = train.take(min(self.samples, len(train)))
        size = min(self.chunk, data.batch_size)  # which is halved where memory ran out
        return Weights(model, train, chunk=size, logit_scale=self.logit_scale)

    def _require(self, model: SpikingModel, data: EvaluationData) -> dict[str, Tensor]:
        """The floating-point tensors of the checkpoint by name."""
        data.training(slices.WHAT)
        if _digest(self.checkpoint) != self.digest:
            raise InputError(
                f"expected '{self.checkpoint}' as it was when the measurement was made, got other content; make it anew"
            )
        state, own = _state(self.checkpoint), model.net.state_dict()
        if state.keys() != own.keys():
            missing, other = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
            raise InputError(
                f"expected a state dict of the net of model '{model.name}' in '{self.checkpoint}', got one without "
                f"{missing} and with {other} beside; save net.state_dict() of the same net"
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


class _Way:
    """The straight line from the tensors of the net of `landscape` to those of `there`, by name."""

    def __init__(self, landscape: Weights, there: Mapping[str, Tensor]) -> None:
        self._landscape = landscape
        self._there = there
        self._tensors = _floating(landscape.model.net)
        self._here = {name: each.detach() for name, each in self._tensors.items()}

    def loss(self, t: float) -> Loss:
        """The loss at (1 - t) theta_0 + t theta_1."""
        at = {name: _between(each, self._there[name].to(each.device), t) for name, each in self._here.items()}
        names = self._landscape.names
        with placed(self._tensors, {name: each for name, each in at.items() if name not in names}):
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
    """The state dict in a file; nothing but tensors is ever loaded from it."""
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
    """What goes along the line: the net's own floating-point parameters and buffers, by their names in a state dict."""
    everything = net.state_dict(keep_vars=True)
    return {name: each for name, each in everything.items() if isinstance(each, Tensor) and each.is_floating_point()}


def _between(start: Tensor, end: Tensor, t: float) -> Tensor:
    """(1 - t) start + t end, summed in float64 and rounded once: at 0 and 1 the ends to the last bit."""
    return ((1 - t) * start.double() + t * end.double()).to(start.dtype)
