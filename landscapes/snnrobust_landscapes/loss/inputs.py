"""The training loss over each sample's own input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.wrapping.model import SpikingModel
from snnrobust_landscapes.loss.fast_logits import FastLogits
from snnrobust_landscapes.loss.landscape import Chunk, LossValues, loss_and_correct, split_into_chunks


class InputLandscape:
    """The cross entropy of each sample as a function of its input (see `Landscape`): N losses of D values.

    Inputs are not clipped to the model's bounds.

    Args:
        model: The model, with a session open.
        samples: Training samples, N.
        chunk: Samples that go through the net together.
        logit_scale: Factor of the logits before the cross entropy, as in training.
    """

    space = "inputs"

    def __init__(self, model: SpikingModel, samples: Dataset, *, chunk: int = 64, logit_scale: float = 1.0) -> None:
        self.model = model
        self.samples = samples
        self.chunks: Sequence[Chunk] = split_into_chunks(model, samples, chunk)
        self.logit_scale = logit_scale
        self.blocks = len(samples)
        self.size = samples.x[0].numel()
        # Padding after a sequence's end is not part of the input.
        self._mask = _valid(samples)  # [N, D]
        norms: Tensor = torch.linalg.vector_norm(samples.x.flatten(1).double() * self._mask, dim=1)  # [N]
        self._norms = norms.clamp(min=1e-12)
        self._fast: FastLogits | None = None

    def take(self, count: int) -> InputLandscape:
        """The losses of the first `count` samples, in one chunk."""
        few = self.samples.take(min(count, len(self.samples)))
        return InputLandscape(self.model, few, chunk=count, logit_scale=self.logit_scale)

    def leaves(self, chunk: Chunk) -> list[Tensor]:
        """The inputs [n, *], to be differentiated by."""
        return [chunk.x.clone().requires_grad_()]

    def logits(self, leaves: Sequence[Tensor], chunk: Chunk) -> Tensor:
        """Scaled logits [n, K] of the inputs `leaves`."""
        return self.logit_scale * self.model.logits(leaves[0], keys=chunk.index, lengths=chunk.lengths)

    def losses(self, logits: Tensor, chunk: Chunk) -> Tensor:
        """Cross entropy [n]."""
        return functional.cross_entropy(logits, chunk.y, reduction="none")

    def parts(self, vectors: Tensor, chunk: Chunk) -> Iterator[tuple[int | slice, list[Tensor]]]:
        """One pass for the rows of `chunk`, each for its own sample: vectors [N, D]."""
        yield chunk.rows, [vectors[chunk.rows].reshape(chunk.x.shape).to(chunk.x)]

    def flatten(self, tensors: Sequence[Tensor | None], chunk: Chunk) -> Tensor:
        """A tensor of the inputs' shape as rows [n, D]."""
        (only,) = tensors
        return (torch.zeros_like(chunk.x) if only is None else only).detach().flatten(1).double()

    @torch.no_grad()
    def loss(self, offset: Tensor) -> LossValues:
        """The true losses at x + offset, [N, D]."""
        if self._fast is None:
            self._fast = FastLogits(self.model, self.chunks[0], weights_move=False)
        losses, correct = [], []
        for chunk, x in self._moved(offset):
            each, right = loss_and_correct(self.model, self._fast(x, chunk), chunk, self.logit_scale)
            losses.append(each)
            correct.append(right)
        return LossValues(torch.cat(losses), torch.cat(correct))

    def gradient(self, offset: Tensor) -> Tensor:
        """The surrogate gradients at x + offset, [N, D]."""
        found = []
        for chunk, x in self._moved(offset):
            with torch.enable_grad():
                leaf = x.requires_grad_()
                value = self.losses(self.logits([leaf], chunk), chunk).sum()
                found.append(self.flatten(torch.autograd.grad(value, [leaf], allow_unused=True), chunk))
        return torch.cat(found)

    def membranes(self, offset: Tensor, chunk: Chunk) -> dict[str, Tensor]:
        """Membrane potentials at x + offset, each [n, T, *]."""
        x = chunk.x + offset[chunk.rows].reshape(chunk.x.shape).to(chunk.x)
        return self.model.record(x, keys=chunk.index).membranes

    def direction(self, rng: Draws) -> Tensor:
        """A random direction for each sample, of the norm of its input, [N, D]."""
        drawn = rng.normal(self.samples.index, (self.size,)).double() * self._mask
        lengths: Tensor = torch.linalg.vector_norm(drawn, dim=1)
        return drawn * (self._norms / lengths).unsqueeze(1)

    def relative_norm(self, direction: Tensor) -> Tensor:
        """|d_n| / |x_n|, [N]."""
        moves: Tensor = torch.linalg.vector_norm(direction.cpu(), dim=1)
        return moves / self._norms

    def scale(self) -> Tensor:
        """|x_n| in each coordinate of sample n, zero in padding, [N, D]."""
        found: Tensor = self._norms.unsqueeze(1) * self._mask
        return found.expand(self.blocks, self.size).to(self.model.device)

    def _moved(self, offset: Tensor) -> Iterator[tuple[Chunk, Tensor]]:
        for chunk in self.chunks:
            moved = chunk.x.double() + offset[chunk.rows].reshape(chunk.x.shape).to(chunk.x.device)
            yield chunk, moved.to(chunk.x.dtype)


def _valid(samples: Dataset) -> Tensor:
    """1 for each value at a valid step, 0 for padding: [N, D], or [N, 1] without padding."""
    if samples.lengths is None:
        return torch.ones(len(samples), 1, dtype=torch.float64)
    steps = torch.arange(samples.x.shape[1])
    mask = (steps < samples.lengths[:, None]).double()  # [N, T]
    return mask.repeat_interleave(samples.x[0, 0].numel(), dim=1)
