"""A loss over a space: the interface of operators, planes, lines and sharpness to the loss in weights or inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.errors import InputError
from snnrobust.wrapping.decision import Correctness
from snnrobust.wrapping.model import SpikingModel

#: The unit of relative norms, by space.
RADIUS_UNITS: dict[str, str] = {"weights": "filter-relative radius", "inputs": "input-relative radius"}


@dataclass(frozen=True)
class Chunk:
    """Samples that go through the net together; their number is fixed, since the rounding of a mean depends on it.

    Attributes:
        rows: Their rows among all samples.
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
class LossValues:
    """The true loss at a point, sample by sample.

    Attributes:
        losses: Cross entropy [N], float64 on the CPU.
        correct: Whether each sample is classified correctly [N].
    """

    losses: Tensor
    correct: Tensor

    @property
    def mean(self) -> float:
        """Mean cross entropy."""
        return float(self.losses.mean())

    @property
    def accuracy(self) -> float:
        """Share of the samples that are classified correctly."""
        return float(self.correct.double().mean())


class Landscape(Protocol):
    """A loss L(origin + offset) in a space of `size` coordinates, for `blocks` independent losses at once.

    In weights there is one loss, the mean over samples. In inputs there is one for each sample, of its own input: the
    Hessian of all is block-diagonal, and all blocks are computed in the same passes.

    Attributes:
        model: The model; its session is open while a landscape is in use.
        samples: The training samples.
        chunks: The samples in chunks that go through the net together.
        size: Coordinates of a block: P parameters, or D values of an input.
        blocks: 1, or the number of samples N.
        space: "weights" or "inputs".
        logit_scale: Factor of the logits before the cross entropy, as in training.
    """

    model: SpikingModel
    samples: Dataset
    chunks: Sequence[Chunk]
    size: int
    blocks: int
    space: str
    logit_scale: float

    def take(self, count: int) -> Landscape:
        """The loss of the first `count` samples, in one chunk."""

    def leaves(self, chunk: Chunk) -> list[Tensor]:
        """Fresh leaf tensors, to differentiate the loss of `chunk` by: parameters, or the inputs [n, *]."""

    def logits(self, leaves: Sequence[Tensor], chunk: Chunk) -> Tensor:
        """Logits [n, K] of the net as it is, times the logit scale, with a graph to `leaves`."""

    def losses(self, logits: Tensor, chunk: Chunk) -> Tensor:
        """Each sample's part of its block's loss, [n]: cross entropy over N in weights, cross entropy in inputs.

        Their sum is differentiated.
        """

    def parts(self, vectors: Tensor, chunk: Chunk) -> Iterator[tuple[int | slice, list[Tensor]]]:
        """Rows of `vectors` as tangents of `leaves`: (rows, tangents) for each pass that is needed.

        In weights vectors are [B, P] for any B, with a pass for each row. In inputs [N, D], with one pass for all.
        """

    def flatten(self, tensors: Sequence[Tensor | None], chunk: Chunk) -> Tensor:
        """Tensors of the shapes of `leaves` as float64 rows, [P] or [n, D]; None counts as zero."""

    def loss(self, offset: Tensor) -> LossValues:
        """The true loss at origin + offset, [P] or [N, D]; without a graph, on fast kernels where there are any."""

    def gradient(self, offset: Tensor) -> Tensor:
        """The surrogate gradient at origin + offset, of its shape, float64."""

    def membranes(self, offset: Tensor, chunk: Chunk) -> dict[str, Tensor]:
        """Membrane potentials [n, T, *] of each spiking node before the reset, at origin + offset.

        Raises:
            InputError: If the net has no spiking nodes of a supported framework.
        """

    def direction(self, rng: Draws) -> Tensor:
        """A random direction of relative norm 1, [P] or [N, D] (Li et al. 2018, arXiv 1712.09913).

        Gaussian, scaled to the norm of each filter (weights) or of each sample's input.
        """

    def relative_norm(self, direction: Tensor) -> Tensor:
        """Root mean square over filters (or of the one input) of |d_f| / |theta_f|, for each block [blocks].

        It is 1 for random directions; other directions are divided by it, to be comparable with them.
        """

    def scale(self) -> Tensor:
        """The scale of each coordinate, [P] or [N, D], float64: the relative norm of d is |d / scale|.

        Coordinates of scale 0, those of filters of zeros, are left out.
        """


def landscape_fingerprint(landscape: Landscape) -> tuple[Hashable, ...]:
    """Cache key parts that distinguish landscapes of one model, except by layer."""
    digest = hashlib.blake2b(digest_size=16)
    samples = landscape.samples
    for tensor in (samples.x, samples.y, samples.index):
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    at_once = landscape.chunks[0].rows.stop
    return landscape.space, landscape.size, landscape.logit_scale, len(samples), at_once, digest.hexdigest()


def split_into_chunks(model: SpikingModel, samples: Dataset, size: int) -> list[Chunk]:
    """The samples in chunks of `size`, the last of which may be smaller."""
    chunks = []
    for start in range(0, len(samples), size):
        rows = slice(start, min(start + size, len(samples)))
        lengths = None if samples.lengths is None else samples.lengths[rows]
        x = samples.x[rows].to(device=model.device, dtype=model.dtype)
        chunks.append(Chunk(rows, x, samples.y[rows].to(model.device), samples.index[rows], lengths))
    return chunks


def loss_and_correct(model: SpikingModel, logits: Tensor, chunk: Chunk, logit_scale: float) -> tuple[Tensor, Tensor]:
    """Cross entropy [n] in float64 and whether each sample is classified correctly [n], on the CPU.

    Raises:
        InputError: If a loss is not finite.
    """
    losses = functional.cross_entropy(logit_scale * logits.double(), chunk.y, reduction="none").cpu()
    if not torch.isfinite(losses).all():
        at = int(chunk.index[~torch.isfinite(losses)][0])
        raise InputError(
            f"expected a finite training loss of model '{model.name}', got {float(losses[~torch.isfinite(losses)][0])} "
            f"for sample {at}; check weights and data, or use a smaller radius"
        )
    return losses, Correctness(logits, chunk.y).correct.cpu()
