"""A loss over a space: what operators, slices and sharpness ask of the training loss, in weights or in inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.errors import InputError
from snnrobust.wrapping.model import SpikingModel

#: What moves of relative norm 1 are counted in, by space.
RADIUS: dict[str, str] = {"weights": "filter-relative radius", "inputs": "input-relative radius"}


@dataclass(frozen=True)
class Chunk:
    """Samples that go through the net together; their number is fixed, since a mean's rounding depends on it.

    Attributes:
        rows: Which of the samples.
        x: Inputs [n, *], on the model's device and in its dtype.
        y: Labels [n].
        index: Sample ids [n].
        lengths: Valid steps of each sequence [n], or None.
    """

    rows: slice
    x: Tensor
    y: Tensor
    index: Tensor
    lengths: Tensor | None


@dataclass(frozen=True)
class Loss:
    """The true loss at a point, sample by sample.

    Attributes:
        losses: Cross entropy [N], float64 on the CPU.
        correct: Whether each sample is right [N].
    """

    losses: Tensor
    correct: Tensor

    @property
    def mean(self) -> float:
        """Mean cross entropy."""
        return float(self.losses.mean())

    @property
    def accuracy(self) -> float:
        """Share of the samples that are right."""
        return float(self.correct.double().mean())


class Landscape(Protocol):
    """A loss L(origin + offset) in a space of `size` coordinates, for `blocks` independent losses at once.

    In weights there is one loss, the mean over samples. In inputs there is one for each sample, of its own input: the
    Hessian of all is block-diagonal, and everything is worked out for all blocks in the same passes.

    Attributes:
        model: The model; its session is open while a landscape is in use.
        samples: The training samples.
        chunks: How they go through the net.
        size: Coordinates of a block: P parameters, or D values of an input.
        blocks: 1, or the number of samples N.
        space: "weights" or "inputs".
        logit_scale: What training multiplied the logits by before the cross entropy.
    """

    model: SpikingModel
    samples: Dataset
    chunks: Sequence[Chunk]
    size: int
    blocks: int
    space: str
    logit_scale: float

    def take(self, count: int) -> Landscape:
        """The loss of the first so many samples, in one chunk."""

    def leaves(self, chunk: Chunk) -> list[Tensor]:
        """Fresh tensors that the loss of `chunk` is to be differentiated by: parameters, or the inputs [n, *]."""

    def logits(self, leaves: Sequence[Tensor], chunk: Chunk) -> Tensor:
        """Logits [n, K] of the net as it is, times the logit scale, with a graph to `leaves`."""

    def losses(self, logits: Tensor, chunk: Chunk) -> Tensor:
        """Each sample's part of the block's loss, [n]; their sum is what is differentiated: cross entropy over N in
        weights, cross entropy in inputs."""

    def parts(self, vectors: Tensor, chunk: Chunk) -> Iterator[tuple[int | slice, list[Tensor]]]:
        """The tangents of `leaves` that rows of `vectors` stand for: (rows, tangents) for each pass that is needed.

        In weights vectors are [B, P] for any B, with a pass for each row. In inputs [N, D], with one pass for all.
        """

    def flatten(self, tensors: Sequence[Tensor | None], chunk: Chunk) -> Tensor:
        """Tensors of the shapes of `leaves` as float64 rows, [P] or [n, D]; None counts as zero."""

    def loss(self, offset: Tensor) -> Loss:
        """The true loss at origin + offset, [P] or [N, D]; without a graph, on fast kernels where there are any."""

    def gradient(self, offset: Tensor) -> Tensor:
        """The surrogate gradient at origin + offset, of its shape, float64."""

    def membranes(self, offset: Tensor, chunk: Chunk) -> dict[str, Tensor]:
        """Membrane potentials [n, T, *] of each spiking node when it fires or not, at origin + offset.

        Raises:
            InputError: If the net has no spiking nodes of a known framework.
        """

    def direction(self, rng: Draws) -> Tensor:
        """A random direction of relative norm 1, [P] or [N, D]: Gaussian, with each filter (weights) or each sample's
        input scaled to the norm of what it moves (Li et al. 2018, arXiv 1712.09913)."""

    def relative_norm(self, direction: Tensor) -> Tensor:
        """Root mean square over filters (or of the one input) of |d_f| / |theta_f|, for each block [blocks].

        Random directions have 1; others are compared with them after division by it.
        """

    def scale(self) -> Tensor:
        """What each coordinate's move counts against, [P] or [N, D], float64: the relative norm of d is |d / scale|.
        Coordinates of scale 0, those of filters of zeros, are not counted."""


def identity(landscape: Landscape) -> tuple[object, ...]:
    """What tells landscapes of one model apart, to keep by what was worked out on them; not which layer it is."""
    digest = hashlib.blake2b(digest_size=16)
    samples = landscape.samples
    for tensor in (samples.x, samples.y, samples.index):
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    at_once = landscape.chunks[0].rows.stop
    return landscape.space, landscape.size, landscape.logit_scale, len(samples), at_once, digest.hexdigest()


def chunked(model: SpikingModel, samples: Dataset, size: int) -> list[Chunk]:
    """The samples in chunks of `size`, the last of which may be smaller."""
    chunks = []
    for start in range(0, len(samples), size):
        rows = slice(start, min(start + size, len(samples)))
        lengths = None if samples.lengths is None else samples.lengths[rows]
        x = samples.x[rows].to(device=model.device, dtype=model.dtype)
        chunks.append(Chunk(rows, x, samples.y[rows].to(model.device), samples.index[rows], lengths))
    return chunks


def scored(model: SpikingModel, logits: Tensor, chunk: Chunk, logit_scale: float) -> tuple[Tensor, Tensor]:
    """Cross entropy [n] in float64 and whether each sample is right [n], on the CPU.

    Raises:
        InputError: If a loss is not finite.
    """
    losses = functional.cross_entropy(logit_scale * logits.double(), chunk.y, reduction="none").cpu()
    if not torch.isfinite(losses).all():
        at = int(chunk.index[~torch.isfinite(losses)][0])
        raise InputError(
            f"expected a finite training loss of model '{model.name}', got {float(losses[~torch.isfinite(losses)][0])} "
            f"for sample {at}; check weights and data, or stay closer to the weights"
        )
    return losses, (model.predict(logits) == chunk.y).cpu()
