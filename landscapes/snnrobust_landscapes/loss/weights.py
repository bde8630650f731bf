"""The training loss over a net's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.errors import InputError
from snnrobust.wrapping.model import SpikingModel
from snnrobust_landscapes.loss.fast_logits import LARGEST, FastLogits
from snnrobust_landscapes.loss.filters import Filters
from snnrobust_landscapes.loss.landscape import Chunk, LossValues, loss_and_correct, split_into_chunks


class WeightLandscape:
    """The mean cross entropy of training samples as a function of the net's parameters (see `Landscape`).

    Batch norm is in eval mode, a stochastic model is taken at one draw. The parameters are those that require a
    gradient, or all where none does. Their values are never written to.

    Args:
        model: The model, with a session open.
        samples: Training samples.
        chunk: Samples that go through the net together.
        logit_scale: Factor of the logits before the cross entropy, as in training.
        chosen: Which parameters may move, by qualified name; None: all.

    Raises:
        InputError: If no parameter may move.
    """

    blocks = 1
    space = "weights"

    def __init__(
        self,
        model: SpikingModel,
        samples: Dataset,
        *,
        chunk: int = 64,
        logit_scale: float = 1.0,
        chosen: Callable[[str], bool] | None = None,
    ) -> None:
        self.model = model
        self.samples = samples
        self.chunks: Sequence[Chunk] = split_into_chunks(model, samples, chunk)
        self.logit_scale = logit_scale
        self._parameters = {
            name: p for name, p in trainable_parameters(model).items() if chosen is None or chosen(name)
        }
        if not self._parameters:
            raise InputError(
                f"expected parameters in model '{model.name}' to differentiate by, got none; measure a net with "
                f"trainable parameters"
            )
        self.theta = {name: p.detach() for name, p in self._parameters.items()}
        self.names = list(self.theta)
        self.size = sum(p.numel() for p in self.theta.values())
        self.filters = Filters(self.theta)
        self._module = _Net(model)
        self._fast: FastLogits | None = None
        self._passes: Sequence[Chunk] = self.chunks

    def take(self, count: int) -> WeightLandscape:
        """The loss of the first `count` samples, in one chunk."""
        few = self.samples.take(min(count, len(self.samples)))
        return WeightLandscape(
            self.model, few, chunk=count, logit_scale=self.logit_scale, chosen=self.theta.__contains__
        )

    def leaves(self, chunk: Chunk) -> list[Tensor]:
        """Copies of the parameters, to differentiate by."""
        return [p.clone().requires_grad_() for p in self.theta.values()]

    def logits(self, leaves: Sequence[Tensor], chunk: Chunk) -> Tensor:
        """Scaled logits [n, K] of the net with `leaves` for its parameters."""
        weights = {f"net.{name}": leaf for name, leaf in zip(self.names, leaves, strict=True)}
        inputs = (chunk.x, chunk.index, chunk.lengths)
        out: Tensor = torch.func.functional_call(self._module, weights, inputs)
        return self.logit_scale * out

    def losses(self, logits: Tensor, chunk: Chunk) -> Tensor:
        """Cross entropy over N, [n]."""
        return functional.cross_entropy(logits, chunk.y, reduction="none") / len(self.samples)

    def parts(self, vectors: Tensor, chunk: Chunk) -> Iterator[tuple[int | slice, list[Tensor]]]:
        """A pass for each of the vectors [B, P]."""
        for row, vector in enumerate(vectors):
            yield row, self.unflatten(vector)

    def flatten(self, tensors: Sequence[Tensor | None], chunk: Chunk | None = None) -> Tensor:
        """Tensors of the parameters' shapes as one vector [P]."""
        filled = (torch.zeros_like(p) if t is None else t for t, p in zip(tensors, self.theta.values(), strict=True))
        return torch.cat([each.detach().reshape(-1).double() for each in filled])

    def unflatten(self, vector: Tensor) -> list[Tensor]:
        """A vector [P] as tensors of the parameters' shapes and dtypes."""
        sizes = [p.numel() for p in self.theta.values()]
        pieces = zip(torch.split(vector, sizes), self.theta.values(), strict=True)
        return [piece.reshape(p.shape).to(p) for piece, p in pieces]

    def moved(self, offset: Tensor) -> dict[str, Tensor]:
        """The parameters at theta + offset, summed in float64 and rounded once."""
        at = self.flatten(list(self.theta.values())) + offset.to(self.model.device)
        return dict(zip(self.names, self.unflatten(at), strict=True))

    @torch.no_grad()
    def loss(self, offset: Tensor) -> LossValues:
        """The true loss at theta + offset, [P]."""
        return self.loss_at(self.moved(offset))

    @torch.no_grad()
    def loss_at(self, weights: Mapping[str, Tensor]) -> LossValues:
        """The true loss at these parameters, by name."""
        if self._fast is None:
            self._fast = FastLogits(self.model, self.chunks[0], weights_move=True)
            self._passes = self._joined(self._fast)
        losses, correct = [], []
        with self._temporarily_set(weights):
            for chunk in self._passes:
                each, right = loss_and_correct(self.model, self._fast(chunk.x, chunk), chunk, self.logit_scale)
                losses.append(each)
                correct.append(right)
        return LossValues(torch.cat(losses), torch.cat(correct))

    def gradient(self, offset: Tensor) -> Tensor:
        """The surrogate gradient of the mean loss at theta + offset, [P]."""
        weights = [p.requires_grad_() for p in self.moved(offset).values()]
        total = torch.zeros(self.size, dtype=torch.float64, device=self.model.device)
        for chunk in self.chunks:
            with torch.enable_grad():
                value = self.losses(self.logits(weights, chunk), chunk).sum()
                total += self.flatten(torch.autograd.grad(value, weights, allow_unused=True))
        return total

    def membranes(self, offset: Tensor, chunk: Chunk) -> dict[str, Tensor]:
        """Membrane potentials at theta + offset, each [n, T, *]."""
        with self._temporarily_set(self.moved(offset)):
            return self.model.record(chunk.x, keys=chunk.index).membranes

    def direction(self, rng: Draws) -> Tensor:
        """A random filter-normalised direction [P]; zero in parameters of fewer than two axes."""
        return self.flatten(list(self.filters.random(rng).values()))

    def relative_norm(self, direction: Tensor) -> Tensor:
        """Root mean square over filters of |d_f| / |theta_f|, [1]."""
        return self.filters.relative_norm(dict(zip(self.names, self.unflatten(direction), strict=True))).reshape(1)

    def scale(self) -> Tensor:
        """The norm of each coordinate's filter, times the root of the number of filters, [P]."""
        return self.flatten(list(self.filters.scales().values()))

    def _joined(self, fast: FastLogits) -> Sequence[Chunk]:
        """The chunks; several joined in one, which is faster for small nets, if that changes no bit of the first."""
        size = len(self.chunks[0].y)
        fitting = min(fast.most, LARGEST // self.chunks[0].x[0].nbytes)  # samples
        times = min(fitting // size, len(self.chunks))
        if times < 2:
            return self.chunks
        joined = split_into_chunks(self.model, self.samples, times * size)
        apart = torch.cat([fast(chunk.x, chunk) for chunk in self.chunks[:times]])
        return joined if torch.equal(fast(joined[0].x, joined[0]), apart) else self.chunks

    def _temporarily_set(self, weights: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        return temporarily_set(self._parameters, weights)


@contextmanager
def temporarily_set(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Sets the data of those `tensors` to `values`, by name, and restores it afterwards.

    The tensor objects stay the same, so that an accelerated model, which refers to them, uses the values too.
    """
    before = {name: tensors[name].data for name in values}
    try:
        for name, value in values.items():
            tensors[name].data = value
        yield
    finally:
        for name, value in before.items():
            tensors[name].data = value


def trainable_parameters(model: SpikingModel) -> dict[str, nn.Parameter]:
    """The parameters of a model by name: those that require a gradient, or all where none does."""
    everything = dict(model.net.named_parameters())
    learnt = {name: p for name, p in everything.items() if p.requires_grad}
    return learnt or everything


class _Net(nn.Module):
    """Logits of a batch, as a module, so that `functional_call` can use other weights."""

    def __init__(self, model: SpikingModel) -> None:
        super().__init__()
        self.net = model.net
        self._model = model

    def forward(self, x: Tensor, keys: Tensor, lengths: Tensor | None) -> Tensor:
        return self._model.logits(x, keys=keys, lengths=lengths)
