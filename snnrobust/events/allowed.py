"""The public check that changed inputs keep to a threat model."""

from __future__ import annotations

from torch import Tensor

from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust.threat_models.verify import verify as verify_examples


def verify(x: Tensor, x0: Tensor, threat: ThreatModel, *, lengths: Tensor | None = None) -> None:
    """Raises if any of the examples `x` is not allowed by `threat` around the originals `x0`.

    Recomputed in numpy from the definition of the threat model; nothing is shared with its projection.

    Args:
        x: Changed inputs: spike trains or event counts [N, T, *], event lists [N, E, 5], or static inputs [N, *].
        x0: Original inputs, of the same shape.
        threat: What may be changed; `SpikingModel.threat_model` makes one that fits a model.
        lengths: Valid steps of padded sequences, [N]; nothing may change behind them.

    Raises:
        ViolationError: Naming the sample and what is wrong with it.

    Example:
        >>> import torch
        >>> flips = ThreatModel("l0", 1, domain="binary")
        >>> verify(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 0.0]]]), flips)
        >>> verify(torch.tensor([[[1.0, 1.0]]]), torch.tensor([[[0.0, 0.0]]]), flips)
        Traceback (most recent call last):
        ...
        snnrobust.errors.ViolationError: expected l0 distance <= 1 from 'these examples', got 2 for sample 0 \
(1 of 1 samples); fix the attack or its threat model
    """
    verify_examples(x, x0, threat, range(len(x0)), "these examples", lengths)
