"""Encoders of static data into time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.errors import InputError
from snnrobust.kernels.straight_through import straight_through

#: (x [N, *], steps) -> [N, T, *]
EncoderFunction = Callable[[Tensor, int], Tensor]

ENCODERS = ("repeat", "poisson", "latency")


def encode(
    encoder: str | EncoderFunction, x: Tensor, steps: int, bounds: tuple[float, float], keys: Tensor, draw: int | Tensor
) -> Tensor:
    """Encodes static inputs x [N, *] into sequences [N, T, *].

    "repeat" is direct coding: the same values at each step. "poisson" spikes at each step with probability
    (x - low) / (high - low). "latency" spikes once, at step round((1 - p)(T - 1)) for that p, and not at all for p = 0.
    The last two, and a callable whose result carries no gradient, pass gradients straight through: the sum over time
    of the sequence's gradient reaches the input (the convention of Sharmin et al. 2020, arXiv 2003.10399).

    Args:
        encoder: A name in `ENCODERS`, or a callable (x, steps) -> [N, T, *].
        x: Static inputs.
        steps: Number of time steps T.
        bounds: Least and greatest input value.
        keys: Sample ids [N] that key the random draws.
        draw: Which draw of the random encoding.

    Raises:
        InputError: If a callable returns another shape than [N, T, *], or a non-differentiable one a shape that
            can't be passed straight through.
    """
    repeated = x.unsqueeze(1).expand(len(x), steps, *x.shape[1:])  # [N, T, *]
    if encoder == "repeat":
        return repeated
    if callable(encoder):
        encoded = encoder(x, steps)
        if encoded.shape[:2] != (len(x), steps):
            raise InputError(
                f"expected encoded input [N, T, *] = [{len(x)}, {steps}, *], got {tuple(encoded.shape)}; "
                f"return time as the second axis"
            )
        if not x.requires_grad or encoded.requires_grad:
            return encoded
        if encoded.shape != repeated.shape:
            raise InputError(
                f"expected an encoder with a gradient, or one of shape {tuple(repeated.shape)} for a straight-through "
                f"gradient, got {tuple(encoded.shape)} without one; make the encoder differentiable"
            )
        return straight_through(repeated, encoded)
    low, high = bounds
    rate = ((x.detach() - low) / (high - low)).clamp(0, 1)
    if encoder == "poisson":
        noise = Draws(0, "poisson encoder").on(x).uniform(keys, (steps, *x.shape[1:]), draw)
        spikes = (noise < rate.unsqueeze(1)).to(x)
    else:
        time = torch.round((1 - rate) * (steps - 1)).unsqueeze(1)  # [N, 1, *]
        clock = torch.arange(steps, device=x.device).reshape(1, steps, *[1] * (x.ndim - 1))
        spikes = ((clock == time) & (rate.unsqueeze(1) > 0)).to(x)
    return straight_through(repeated, spikes)
