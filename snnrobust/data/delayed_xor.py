"""Delayed spiking XOR: two pulses far apart in time, and the question whether their rates differ."""

from __future__ import annotations

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.data.dataset import Splits
from snnrobust.data.partition import check_sizes, partition

STEPS, CHANNELS, PULSE = 200, 20, 10
"""Time steps, input channels, and steps of a pulse."""
RATES, NOISE = (0.2, 0.6), 0.01
"""Chance of a spike per step and channel: in a low and a high pulse, and of noise at any time."""
SIZES = (1500, 500, 1000)
SEED = 0


def delayed_xor(sizes: tuple[int, int, int] = SIZES) -> Splits:
    """Binary spike trains x [N, 200, 20]; the label is 1 where exactly one of two pulses has the high rate.

    The first pulse takes the first 10 steps, the second the last 10, in which the answer is to be given; each has rate
    .2 or .6 in all channels. Noise of rate .01 is joined to all steps by OR. All four pairs of rates are equally
    frequent in the whole, up to one sample, and both labels in each split.

    The settings are those of code of the same group as Yin et al. 2024 (arXiv 2403.16674), who do not state their own.
    Drawn from seed 0: a sample of a given id and pair is the same at any size.

    Args:
        sizes: Samples for training, validation and test; by default 1500, 500 and 1000.

    Raises:
        InputError: Not three whole numbers of at least 1.
    """
    sizes = check_sizes(sizes)
    count = sum(sizes)
    pair = torch.arange(count) % 4  # [N]: low-low, low-high, high-low, high-high
    first, second = pair // 2, pair % 2
    x = _spikes(first, second)
    source = (
        f"delayed XOR, synthetic (seed {SEED}): {STEPS} steps, {CHANNELS} channels, pulses of {PULSE} steps at the "
        f"start and the end, rates {RATES[0]} and {RATES[1]}, noise {NOISE}; settings: sibling-code (Yin et al. 2024)"
    )
    return partition("delayed-xor", x, first ^ second, sizes, source)


def _spikes(first: Tensor, second: Tensor) -> Tensor:
    """Spike trains [N, T, C] of pulses with rates RATES[first] and RATES[second]."""
    rates = torch.tensor(RATES)
    chance = torch.full((len(first), STEPS, 1), 0.0)  # [N, T, 1]: of a spike of a pulse
    chance[:, :PULSE, 0] = rates[first][:, None]
    chance[:, -PULSE:, 0] = rates[second][:, None]
    either = 1 - (1 - chance) * (1 - NOISE)  # of a spike of a pulse, of noise, or both
    drawn = Draws(SEED, "delayed-xor").uniform(torch.arange(len(first)), (STEPS, CHANNELS))
    return (drawn < either).float()
