"""What is looked at before anything long: the loss at the origin, and an operator on a few samples."""

from __future__ import annotations

from dataclasses import replace

import torch

from snnrobust.common.random import Draws
from snnrobust_landscapes.loss.landscape import Landscape, scored
from snnrobust_landscapes.operators.operator import Kind, Operator
from snnrobust_landscapes.operators.smoothed import Smoothed
from snnrobust_landscapes.validity.evidence import once

#: Samples of a trial.
TRIAL = 2


@torch.no_grad()
def require_finite(landscape: Landscape) -> None:
    """Raises an `InputError` unless the loss of every sample is finite; looked at once in a session."""
    model = landscape.model

    def scores() -> None:
        for each in landscape.chunks:
            logits = model.logits(each.x, keys=each.index, lengths=each.lengths)
            scored(model, logits, each, landscape.logit_scale)

    once(landscape, ("finite loss",), scores)


def tried(kind: Kind, landscape: Landscape) -> Operator:
    """The operator of the first `TRIAL` samples, after a product with it.

    Raises:
        InputError: If the net does not allow the operator.
        PluginError: If the surrogate can't be differentiated as it asks.
    """
    few = landscape.take(TRIAL)
    quick = replace(kind, draws=TRIAL) if isinstance(kind, Smoothed) else kind
    operator = quick.on(few, 0.0, Draws(0, "trial"))
    operator.apply(torch.ones(few.blocks, few.size, dtype=torch.float64, device=few.model.device))
    return operator
