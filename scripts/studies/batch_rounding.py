"""From how many rows on the bits of a layer's output, and of its input gradient, no longer depend on the batch.

    python scripts/studies/batch_rounding.py [THREADS]

Prints a Markdown table: for each kind of layer, over several sizes, the least number of rows from which each row is
that of a larger batch, in the forward pass and in the backward pass. The numbers of
snnrobust/acceleration/batch_rows.py must not be below it. "never": a matrix product over few values, which MKL rounds
by the place of the row.
"""

from __future__ import annotations

import itertools
import platform
import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

ROWS, MOST = 96, 48
FEATURES = (10, 32, 100, 256, 800, 2312)
CHANNELS = (2, 16, 32, 64, 128)
SIDES = (4, 8, 16)


def layers() -> Iterator[tuple[str, Callable[[], nn.Module], tuple[int, ...]]]:
    """Kinds of layer, each in several sizes, with the shape of a sample."""
    for fan_in, fan_out in itertools.product(FEATURES, FEATURES[:5]):
        yield "Linear", partial(nn.Linear, fan_in, fan_out), (fan_in,)
    for (fan_in, fan_out), side in itertools.product(itertools.product(CHANNELS, CHANNELS), SIDES):
        for kernel, stride in ((1, 1), (1, 2), (3, 1), (3, 2), (5, 1)):
            kind = f"Conv2d {kernel} x {kernel}, stride {stride}"
            made = partial(nn.Conv2d, fan_in, fan_out, kernel, stride, padding=kernel // 2, bias=False)
            yield kind, made, (fan_in, side, side)


def least_rows(layer: nn.Module, x: Tensor, weights: Tensor) -> tuple[int, int]:
    """From how many rows on outputs, and input gradients, equal those of all rows x [96, *]; `MOST` + 1: never."""
    whole = passes(layer, x, weights)
    different = [0, 0]
    for rows in range(1, MOST + 1):
        for start in (0, 7, ROWS - rows):
            part = slice(start, start + rows)
            for k, found in enumerate(passes(layer, x[part], weights[part])):
                if not torch.equal(found, whole[k][part]):
                    different[k] = rows
    return different[0] + 1, different[1] + 1


def passes(layer: nn.Module, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Output and input gradient."""
    x = x.clone().requires_grad_()
    out = layer(x)
    (gradient,) = torch.autograd.grad((out * weights).sum(), x)
    return out.detach(), gradient


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    found: dict[str, list[tuple[int, int]]] = {}
    generator = torch.Generator().manual_seed(0)
    for kind, build, shape in layers():
        torch.manual_seed(0)
        layer = build().requires_grad_(False)
        for values in ("spikes", "real"):
            x = torch.rand((ROWS, *shape), generator=generator)
            x = (x < 0.2).float() if values == "spikes" else x
            weights = torch.randn(layer(x).shape, generator=generator)
            found.setdefault(f"{kind}, {values}", []).append(least_rows(layer, x, weights))
    print(f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| layer | forward, of 4 in 5 layers, of all | backward, of 4 in 5, of all |\n| --- | --- | --- |")
    for kind, rows in found.items():
        figures = [_figures(sorted(each)) for each in zip(*rows, strict=True)]
        print(f"| {kind} | {' | '.join(figures)} |", flush=True)


def _figures(ranked: list[int]) -> str:
    return ", ".join("never" if each > MOST else str(each) for each in (ranked[int(0.8 * len(ranked))], ranked[-1]))


if __name__ == "__main__":
    main()
