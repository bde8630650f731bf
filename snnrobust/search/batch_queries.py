"""Queries about the samples of one batch, for attacks with their own loop: see `snnrobust.plugin.Queries`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from snnrobust.data.batch import Batch
from snnrobust.data.padding import with_padding
from snnrobust.errors import PluginError
from snnrobust.search.queries import ModelQueries


class BatchQueries:
    """Queries for changed inputs of a batch's samples, in any order or subset; rows are matched by sample id.

    Args:
        queries: The queries.
        batch: The samples. Sequences may be asked about without their padding, which is then added.

    Attributes:
        undefined: Ids of samples with a gradient of NaN or infinity.
    """

    def __init__(self, queries: ModelQueries, batch: Batch) -> None:
        self._queries = queries
        self._batch = batch
        self.undefined: set[int] = set()
        self._order = batch.index.argsort()
        self._sorted = batch.index[self._order].contiguous()

    @property
    def static(self) -> bool:
        """Whether inputs have no time axis of their own."""
        return self._queries.static

    def logits(self, x: Tensor, index: Tensor, query: int | Tensor = 0) -> Tensor:
        """Logits [N, K] without a gradient for inputs x [N, *] of the samples `index` [N]."""
        return self._queries.logits(self._with(x, None, index), query)

    def value(self, x: Tensor, y: Tensor, index: Tensor, query: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        """Objective [N] and logits [N, K] at x, without a gradient."""
        return self._queries.value(self._with(x, y, index), query)

    def gradient(self, x: Tensor, y: Tensor, index: Tensor, query: int | Tensor = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Objective gradient [N, *], objective [N] and logits [N, K] at x; see `ModelQueries.gradient`.

        A gradient of NaN or infinity is returned as zeros: it must not stop the search of other samples. `undefined`
        keeps the ids.
        """
        gradient, objective, logits = self._queries.gradient(self._with(x, y, index), query)
        if self._batch.lengths is not None:
            gradient = gradient[:, : x.shape[1]].contiguous()
        return _defined(gradient, index, self.undefined), objective, logits

    def encoded_gradient(self, x: Tensor, y: Tensor, index: Tensor, query: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        """Static inputs x [N, *] as the encoder makes them sequences, and the objective's gradient, [N, T, *] each."""
        sequence, gradient = self._queries.encoded_gradient(self._with(x, y, index), query)
        return sequence, _defined(gradient, index, self.undefined)

    def as_module(self, index: Tensor) -> nn.Module:
        """A stateless module from inputs scaled to [0, 1] to logits, for third-party attacks on the samples `index`.

        Raises:
            PluginError: If the estimator is a mixture or a relaxation, which need several forward passes.
        """
        spike_gradients = self._queries.execution.spike_gradients
        if len(spike_gradients) > 1 or not spike_gradients[0].exact:
            raise PluginError(
                "expected an estimator of one pass for a third-party attack, got a mixture or a relaxation; "
                "use one of this package's own attacks with it"
            )
        return _UnitModule(self._queries, self._batch.select(self._rows(index)), self.undefined)

    def _with(self, x: Tensor, y: Tensor | None, index: Tensor) -> Batch:
        """The samples `index` with other inputs, and other labels where they are given."""
        samples = self._batch.select(self._rows(index))
        samples = samples.with_inputs(x if samples.lengths is None else with_padding(x, samples.x))
        return samples if y is None else Batch(samples.x, y, samples.index, samples.lengths, samples.targets)

    def _rows(self, index: Tensor) -> Tensor:
        """Positions in the batch of the sample ids `index` [N]."""
        at = torch.searchsorted(self._sorted, index.cpu()).clamp(max=len(self._sorted) - 1)
        rows = self._order[at]
        if not torch.equal(self._batch.index[rows], index.cpu()):
            raise PluginError(
                f"expected ids of samples in this batch, got {index.tolist()}; pass the ids that `perturb` was given"
            )
        return rows


def _defined(gradient: Tensor, index: Tensor, undefined: set[int]) -> Tensor:
    """The gradient [N, *] with zeros for samples where it is NaN or infinite, whose ids `undefined` gets."""
    finite = torch.isfinite(gradient).flatten(1).all(dim=1)
    if finite.all():
        return gradient
    undefined.update(index[~finite.cpu()].tolist())
    return gradient.masked_fill(~finite.reshape(-1, *[1] * (gradient.ndim - 1)), 0.0)


class _UnitModule(nn.Module):
    """Logits of some samples as torchattacks expects a model: a module with a parameter, inputs in [0, 1]."""

    def __init__(self, queries: ModelQueries, samples: Batch, undefined: set[int]) -> None:
        super().__init__()
        self._queries = queries
        self._samples = samples
        self._undefined = undefined
        self.anchor = nn.Parameter(torch.zeros((), device=samples.x.device), requires_grad=False)
        self._asked = 0

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K] for x [N, *] in [0, 1]."""
        queries, (low, high) = self._queries, self._queries.bounds
        inputs = low + x * (high - low)
        samples = self._matching(len(x))
        samples = samples.with_inputs(inputs if samples.lengths is None else with_padding(inputs, samples.x))
        if inputs.requires_grad:
            inputs.register_hook(lambda gradient: _defined(gradient, samples.index, self._undefined))  # type: ignore[no-untyped-call]  # torch has no annotations for it
        queries.execution.prepare(samples)
        with queries.execution.spike_gradients[0]:
            total = queries.forward(samples, self._asked, 0)[0]
            for e in range(1, queries.eot):
                total = total + queries.forward(samples, self._asked, e)[0]
        self._asked += 1
        if total.requires_grad:
            total.register_hook(self._count)  # type: ignore[no-untyped-call]  # torch has no annotations for it
        return total / queries.eot

    def _matching(self, count: int) -> Batch:
        """The samples that inputs belong to; a third-party attack may pass a part of its batch without saying which."""
        own = self._samples
        if count == len(own):
            return own
        index = torch.arange(count)
        if own.lengths is None:
            return Batch(own.x[:0], own.y[:0], index)
        steps = int(own.lengths[0])
        padding = own.x[:, steps:]
        if bool((own.lengths != steps).any()) or bool((padding != padding[:1]).any()):
            raise PluginError(
                f"expected a third-party attack to run all {len(own)} sequences together, got {count}: which of their "
                f"lengths and paddings to take is unknown; use one of this package's own attacks on padded sequences"
            )
        first = torch.zeros(count, dtype=torch.long)  # any: all have the same length and padding
        return Batch(own.x[:1].expand(count, *own.x.shape[1:]), own.y[:0], index, own.lengths[first])

    def _count(self, gradient: Tensor) -> None:
        self._queries.spent.backwards += len(gradient) * self._queries.eot
