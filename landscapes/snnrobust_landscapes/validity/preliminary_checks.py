"""Checks before anything long: a finite loss at the origin, and a product with an operator on a few samples."""

from __future__ import annotations

from dataclasses import replace

import torch

from snnrobust.common.random import Draws
from snnrobust_landscapes.loss.landscape import Landscape, loss_and_correct
from snnrobust_landscapes.operators.operator import Operator, OperatorSpec
from snnrobust_landscapes.operators.smoothed import Smoothed
from snnrobust_landscapes.validity.evidence import once_per_session

#: Samples of a trial.
TRIAL_SAMPLES = 2


@torch.no_grad()
def require_finite_loss(landscape: Landscape) -> None:
    """Raises an `InputError` unless the loss of every sample is finite; checked once in a session."""
    model = landscape.model

    def check() -> None:
        for each in landscape.chunks:
            logits = model.logits(each.x, keys=each.index, lengths=each.lengths)
            loss_and_correct(model, logits, each, landscape.logit_scale)

    once_per_session(landscape, ("finite loss",), check)


def trial_operator(spec: OperatorSpec, landscape: Landscape) -> Operator:
    """The operator of the first `TRIAL_SAMPLES` samples, after a product with it.

    Raises:
        InputError: If the net does not support the operator.
        PluginError: If the surrogate can't be differentiated as the operator requires.
    """
    few = landscape.take(TRIAL_SAMPLES)
    quick = replace(spec, draws=TRIAL_SAMPLES) if isinstance(spec, Smoothed) else spec
    operator = quick.on(few, 0.0, Draws(0, "trial"))
    operator.apply(torch.ones(few.blocks, few.size, dtype=torch.float64, device=few.model.device))
    return operator
