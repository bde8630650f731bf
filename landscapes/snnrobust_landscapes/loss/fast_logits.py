"""Logits without a graph, as fast as they can be had to the last bit."""

from __future__ import annotations

import torch
from torch import Tensor

from snnrobust.acceleration.model import ROWS, AcceleratedModel, NotAccelerated, accelerated_model
from snnrobust.common.batching import even_parts
from snnrobust.spike_gradients.swap import Own
from snnrobust.wrapping.model import SpikingModel
from snnrobust_landscapes.loss.landscape import Chunk

#: Bytes of the largest activation of a part. The matrix library asks the system anew for the room of larger ones, page
#: by page (measured: at 12 MiB a convolution took four times as long a sample as at 6 MiB).
LARGEST = 8 * 2**20


class FastLogits:
    """Logits of a model on its accelerated twin, and chunks in parts, wherever that changes no bit of the first chunk.

    A loss is the mean of few samples, and a single spike that falls the other way moves it by about 1e-4: agreement up
    to rounding would not do. Where the net says the same of every sample, as a silent one does, its bits tell nothing:
    then nothing is fast.

    Args:
        model: The model, with a session open and the weights that it came with.
        first: The first chunk.
    """

    def __init__(self, model: SpikingModel, first: Chunk) -> None:
        self._model = model
        self._most: int | None = None
        twin = _twin(model, first)
        if twin is None:
            return
        wanted = model.logits(first.x, keys=first.index, lengths=first.lengths)
        if bool((wanted == wanted[:1]).all()):
            return
        found = twin.logits(first.x, keys=first.index, lengths=first.lengths)
        if not torch.equal(wanted, found):
            return
        self._model = twin
        largest = max((each.held for each in twin.fast.values()), default=0)
        if model.device.type == "cpu" and largest:
            self._most = max(2 * ROWS, LARGEST // largest)
            if not torch.equal(wanted, self(first.x, first)):
                self._most = None

    @property
    def most(self) -> int:
        """Samples whose largest activation is no larger than `LARGEST`; 0 where that is not known."""
        return self._most or 0

    def __call__(self, x: Tensor, chunk: Chunk) -> Tensor:
        """Logits [n, K] of the inputs x [n, *] in place of those of `chunk`."""
        return torch.cat(
            [
                self._model.logits(
                    x[rows],
                    keys=chunk.index[rows],
                    lengths=None if chunk.lengths is None else chunk.lengths[rows],
                )
                for rows in even_parts(len(x), len(x) if self._most is None else self._most)
            ]
        )


def _twin(model: SpikingModel, first: Chunk) -> AcceleratedModel | None:
    if not model.accelerate:
        return None
    try:
        twin = accelerated_model(model, Own())
        twin.check_once(first.x, first.index)
    except NotAccelerated:
        return None
    return twin
