"""Logits without a graph, computed as fast as possible without changing a bit."""

from __future__ import annotations

import torch
from torch import Tensor

from snnrobust.acceleration.model import COMPARED, AcceleratedModel, NotAccelerated, accelerated_model
from snnrobust.common.batching import even_parts
from snnrobust.spike_gradients.swap import Own
from snnrobust.wrapping.model import SpikingModel
from snnrobust_landscapes.loss.landscape import Chunk

#: Bytes of the largest activation of a part. For larger ones the matrix library requests fresh memory from the system
#: at each call (measured: at 12 MiB a convolution took four times as long a sample as at 6 MiB).
LARGEST = 8 * 2**20


class FastLogits:
    """Logits from the accelerated model, with chunks in parts, if that changes no bit of the first chunk's logits.

    A loss is the mean over few samples, and a single spike that flips changes it by about 1e-4: agreement up to
    rounding is not enough. Where the logits of all samples are equal, as those of a silent net, the comparison shows
    nothing, and the model itself is used.

    Args:
        model: The model, with a session open and its own weights in place.
        first: The first chunk.
        weights_move: Whether the weights change between calls.
    """

    def __init__(self, model: SpikingModel, first: Chunk, *, weights_move: bool) -> None:
        self._model: SpikingModel | AcceleratedModel = model
        self._most: int | None = None
        accelerated = _accelerated(model, first, weights_move)
        if accelerated is None:
            return
        expected = model.logits(first.x, keys=first.index, lengths=first.lengths)
        if bool((expected == expected[:1]).all()):
            return
        found = accelerated.logits(first.x, keys=first.index, lengths=first.lengths)
        if not torch.equal(expected, found):
            return
        self._model = accelerated
        largest = max((each.held for each in accelerated.fast.values()), default=0)
        if model.device.type == "cpu" and largest:
            self._most = max(2 * COMPARED, LARGEST // largest)
            if not torch.equal(expected, self(first.x, first)):
                self._most = None

    @property
    def most(self) -> int:
        """Most samples whose largest activation is no larger than `LARGEST`; 0 where that is not known."""
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


def _accelerated(model: SpikingModel, first: Chunk, weights_move: bool) -> AcceleratedModel | None:
    """The accelerated model, the same one in a session; None where there is none, or its outputs differ."""
    if not model.accelerate:
        return None
    try:
        found = accelerated_model(model, Own(), read_once=not weights_move)
        found.compare_once(first.x, first.index)
    except NotAccelerated:
        return None
    return found
