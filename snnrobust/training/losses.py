"""Losses by name: of rates over time [T, N, K], and of logits [N, K] of nets without time steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor, Tensor], Tensor]

RATE_SCALE = 5.0
#: Target spike counts of the true class and of the others (Bacho & Chu 2023, code).
RIGHT_SPIKES, OTHER_SPIKES = 15.0, 3.0


def rate_cross_entropy(outputs: Tensor, y: Tensor) -> Tensor:
    """Cross entropy of the mean output over time, times 5: rates are at most 1, too small for a plain softmax.

    Args:
        outputs: [T, N, K].
        y: Labels [N].
    """
    return functional.cross_entropy(RATE_SCALE * outputs.mean(0), y)


def rate_mse(outputs: Tensor, y: Tensor) -> Tensor:
    """Mean squared error between the mean output over time and one-hot labels; for outputs [T, N, K], labels [N]."""
    rates = outputs.mean(0)  # [N, K]
    return functional.mse_loss(rates, functional.one_hot(y, rates.shape[1]).to(rates))


def cross_entropy(outputs: Tensor, y: Tensor) -> Tensor:
    """Cross entropy of logits [N, K]; of those of `FirstSpike`, the loss of time-to-first-spike nets.

    Source: Goeltz et al. 2021, arXiv 1912.11443.
    """
    return functional.cross_entropy(outputs, y)


def spike_count(outputs: Tensor, y: Tensor) -> Tensor:
    """Half the squared distance of spike counts [N, K] from 15 for the true class and 3 for others, mean over samples.

    With `SpikeCount` in front, the time of each spike of an output neuron gets the gradient (target - n) / N.

    Source: Bacho & Chu 2023, arXiv 2212.09500, code.
    """
    true = functional.one_hot(y, outputs.shape[1]).bool()
    target = torch.where(true, RIGHT_SPIKES, OTHER_SPIKES).to(outputs)
    return 0.5 * (outputs - target).square().sum(dim=1).mean()


#: Of outputs over time [T, N, K].
RATE_LOSSES: dict[str, Loss] = {"rate_cross_entropy": rate_cross_entropy, "rate_mse": rate_mse}
#: Of logits [N, K].
LOGIT_LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "spike_count": spike_count}
