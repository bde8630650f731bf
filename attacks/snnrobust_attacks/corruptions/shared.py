"""What corruptions of spikes and events share: checks of model, data and severity, and moves of single events."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.errors import InputError
from snnrobust.wrapping.model import SpikingModel

#: Axes of event frames [N, T, C, H, W], and of sequences [N, T, F].
FRAMES, LINES = 5, 3


def check_events(model: SpikingModel, noise: str, high: float | None = None) -> None:
    """Raises an `InputError` unless inputs are sequences of spikes or event counts.

    Args:
        model: The model.
        noise: What the corruption is called.
        high: The greatest count that it emits; None for one that adds no events to an entry.
    """
    if model.static or model.domain == "real" or model.bounds[0] != 0:
        raise InputError(
            f"expected sequences of spikes or event counts from 0 up for {noise}, got "
            f"{'static' if model.static else 'temporal'} data of domain '{model.domain}' in {model.bounds} of "
            f"model '{model.name}'; wrap with encoder=None and domain='binary', or domain='integer' and bounds=(0, MAX)"
        )
    if high is not None and high != model.bounds[1]:
        raise InputError(
            f"expected high to be the greatest count {model.bounds[1]:g} of model '{model.name}' for {noise}, "
            f"got {high:g}; pass high={model.bounds[1]:g}"
        )


def check_sequences(model: SpikingModel, noise: str, fill: float) -> None:
    """Raises an `InputError` unless inputs are sequences, and `fill` is one of their values."""
    low, most = model.bounds
    if model.static:
        raise InputError(
            f"expected sequences [N, T, *] for {noise}, got static data of model '{model.name}'; wrap with "
            f"encoder=None, or use 'occlusion' for images"
        )
    if not low <= fill <= most or (model.domain != "real" and fill != round(fill)):
        raise InputError(
            f"expected fill to be a value of domain '{model.domain}' in {model.bounds} of model '{model.name}' for "
            f"{noise}, got {fill:g}; pass fill={low:g}"
        )


def check_axes(data: EvaluationData, noise: str, axes: tuple[int, ...] = (LINES, FRAMES)) -> None:
    """Raises an `InputError` unless the test data has one of these numbers of axes."""
    known = {LINES: "[N, T, F]", FRAMES: "[N, T, C, H, W]"}
    shape = tuple(data.test.x.shape)
    if len(shape) not in axes:
        raise InputError(
            f"expected inputs {' or '.join(known[each] for each in axes)} for {noise}, got {shape}; reshape the data, "
            f"or use 'spike-deletion', which takes any shape"
        )


def check_other_steps(model: SpikingModel, data: EvaluationData, steps: int, noise: str, remedy: str) -> None:
    """Raises an `InputError` unless the net takes the first `steps` of a sample, by a forward pass of it."""
    sample = data.test.take(1)
    lengths = None if sample.lengths is None else sample.lengths.clamp(max=steps)
    try:
        with torch.no_grad():
            model.logits(sample.x[:, :steps], keys=sample.index, lengths=lengths)
    except Exception as error:  # the user's own net may fail in any way
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"expected model '{model.name}' to take {steps} of {sample.x.shape[1]} steps for {noise}, got "
            f"{type(error).__name__}: {reason}; {remedy}"
        ) from error


def check_high(high: float) -> None:
    """Raises an `InputError` unless `high` is a count of at least 1."""
    if not (math.isfinite(high) and high >= 1 and high == round(high)):
        raise InputError(f"expected a whole high >= 1, got {high!r}; give the model's upper bound")


def check_severity(severity: float, noise: str, unit: str) -> None:
    """Raises an `InputError` unless `severity` is finite and at least 0."""
    if not (severity >= 0 and math.isfinite(severity)):
        raise InputError(f"expected a finite severity >= 0 for {noise}, got {severity}; give {unit}")


def clock(x: Tensor) -> Tensor:
    """The steps 0..T-1 of the sequences x [N, T, *], [T, 1, ...]."""
    return torch.arange(x.shape[1], device=x.device).reshape(-1, *[1] * (x.ndim - 2))


def move_in_time(x: Tensor, shift: Callable[[int], Tensor], high: float, *, clamp: bool) -> Tensor:
    """Each event moved in time by a number of steps of its own; counts above `high` are cut.

    Args:
        x: Counts, [N, T, *].
        shift: Whole steps [N, T, *] for the first, second ... event of each entry, numbered from 0.
        high: The greatest count.
        clamp: Whether times are clamped to the sequence; if not, events that leave it are lost.
    """
    steps = x.shape[1]
    moved = torch.zeros_like(x)
    for event in range(int(x.max())):
        time = (clock(x) + shift(event)).long()
        inside = (time >= 0) & (time < steps)
        there = x > event if clamp else (x > event) & inside
        moved.scatter_add_(1, time.clamp(0, steps - 1), there.to(x))
    return moved.clamp(max=high)


def move_steps(x: Tensor, time: Tensor, steps: int, high: float) -> Tensor:
    """Step t of the sequences x [N, T, *] moved to step time[t]; those outside of 0..steps-1 are lost.

    Counts that meet add up, and are cut at `high`.
    """
    inside = (time >= 0) & (time < steps)
    moved = x.new_zeros(len(x), steps, *x.shape[2:])
    return moved.index_add_(1, time[inside], x[:, inside]).clamp(max=high)


def poisson(uniform: Tensor, rate: Tensor, most: float) -> Tensor:
    """Poisson counts by inversion: the number of k with P(count <= k) <= u, cut at `most`.

    Args:
        uniform: u in [0, 1), [N, *].
        rate: Expected counts, of a shape that broadcasts to it.
        most: The greatest count.
    """
    rate = rate.double()
    count, probability = torch.zeros_like(uniform), torch.exp(-rate)
    reached = probability  # P(count <= k)
    for k in range(int(most)):
        more = uniform >= reached
        if not bool(more.any()):
            break
        count = count + more
        probability = probability * rate / (k + 1)
        reached = reached + probability
    return count


def add_events(x: Tensor, more: Tensor, high: float) -> Tensor:
    """The counts x [N, T, *] with further events; counts are cut at `high`, and none falls."""
    return torch.maximum(x, (x + more.to(x)).clamp(max=high))
