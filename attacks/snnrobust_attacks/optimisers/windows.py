"""Boxes over all axes of an input except the channels, one for each sample, for the Square attack."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from snnrobust.common.random import Draws

#: Bumps on an axis at the start of an L2 search.
TILES = 5


def fold(x: Tensor) -> Tensor:
    """Inputs as [N, C, *], channels first: one of [N, F] and [N, T, F], the C of [N, C, H, W] and [N, T, C, H, W]."""
    return x.unsqueeze(1) if x.ndim <= 3 else x.movedim(-3, 1)


def unfold(x: Tensor, like: Tensor) -> Tensor:
    """Undoes `fold` for inputs of the shape of `like`."""
    return x.squeeze(1) if like.ndim <= 3 else x.movedim(1, -3)


def sides(folded: Tensor, share: Tensor, least: int = 1) -> list[Tensor]:
    """The sides [N] of a box that covers a share [N] of the axes of [N, C, *].

    All are the same share of their axis, as far as rounding allows: what one loses, the next ones make up for. Each is
    at least 1, and at least `least`, but for that no more than a third of its axis.
    """
    lengths = folded.shape[2:]
    found = []
    for axis, length in enumerate(lengths):
        side = length * share.clamp(0, 1) ** (1 / (len(lengths) - axis))
        side = side.round().clamp(max(1, min(least, length // 3)), length)
        share = share * length / side
        found.append(side.long())
    return found


@dataclass(frozen=True)
class Window:
    """A box for each sample.

    Attributes:
        inside: Whether an entry is in it, [N, 1, *].
        offsets: Per axis, the offset of each position from the box's corner: [N, 1, ..., L, ..., 1].
        sizes: Per axis, the box's side, [N, 1, 1, ...].
    """

    inside: Tensor
    offsets: list[Tensor]
    sizes: list[Tensor]

    @classmethod
    def at(cls, folded: Tensor, sizes: list[Tensor], unit: Tensor) -> Window:
        """The boxes with sides `sizes` [N] whose corners are given by numbers [N, D] in [0, 1)."""
        axes = folded.ndim - 2
        inside = torch.ones((len(folded), *[1] * (axes + 1)), dtype=torch.bool, device=folded.device)
        offsets, broad = [], []
        for axis, (length, size) in enumerate(zip(folded.shape[2:], sizes, strict=True)):
            room = length - size
            corner = (unit[:, axis] * (room + 1)).long().minimum(room)  # [N]
            shape = [1] * (axes + 2)
            shape[axis + 2] = length
            offset = torch.arange(length, device=folded.device).reshape(shape) - corner.reshape(-1, *[1] * (axes + 1))
            wide = size.reshape(-1, *[1] * (axes + 1))
            inside = inside & (offset >= 0) & (offset < wide)
            offsets.append(offset)
            broad.append(wide)
        return cls(inside, offsets, broad)

    def bumps(self, split: Tensor) -> Tensor:
        """Two bumps of opposite sign, side by side along the axis `split` [N]; of length 1, zero outside: [N, 1, *]."""
        shape = bumps(self.offsets, self.sizes, split) * self.inside
        length: Tensor = shape.flatten(1).norm(dim=1).clamp_min(1e-12)
        return shape / length.reshape(-1, *[1] * (shape.ndim - 1))


def bumps(offsets: list[Tensor], sizes: list[Tensor], split: Tensor) -> Tensor:
    """The pyramid of Andriushchenko et al. 2020 (section 4.3) on each half of a box that is split along an axis.

    At Chebyshev distance d from the middle of a half it is the sum of 1 / (i + 1)^2 over i = d ... m, with m half the
    half's longest side; its sign is that of the half.
    """
    ndim = offsets[0].ndim
    far = torch.zeros((), dtype=torch.long, device=split.device)  # d
    most = torch.zeros_like(far)  # m
    sign = torch.ones((), device=split.device)
    for axis, (offset, size) in enumerate(zip(offsets, sizes, strict=True)):
        divided = (split == axis).reshape(-1, *[1] * (ndim - 1))
        half = size // 2
        second = divided & (offset >= half)
        place = torch.where(second, offset - half, offset)
        length = torch.where(second, size - half, torch.where(divided, half, size))
        far = torch.maximum(far, (place - length // 2).abs())
        most = torch.maximum(most, length // 2)
        sign = torch.where(second, -sign, sign)
    table = torch.arange(1, int(most.max()) + 2, device=split.device).double().pow(-2).cumsum(dim=0)
    table = torch.cat([table.new_zeros(1), table])  # the sum of the first i terms
    return sign * (table[most + 1] - table[torch.minimum(far, most + 1)]).float()


def tiles(folded: Tensor, rng: Draws, index: Tensor) -> Tensor:
    """Bumps of random sign per channel and tile on a grid of about 5 tiles an axis, [N, C, *]."""
    axes = folded.ndim - 2
    offsets, sizes, numbers = [], [], []
    for axis, length in enumerate(folded.shape[2:]):
        size = max(1, length // TILES)
        places = torch.arange(length, device=folded.device)
        shape = [1] * (axes + 2)
        shape[axis + 2] = length
        offsets.append((places % size).reshape(shape))
        sizes.append(torch.tensor(size, device=folded.device))
        numbers.append(places // size)
    split = (rng.sub("split").uniform(index, (1,))[:, 0] * axes).long().clamp_max(axes - 1)
    counts = [int(number[-1]) + 1 for number in numbers]
    drawn = rng.sub("sign").uniform(index, (folded.shape[1], *counts)) < 0.5
    signs = torch.where(drawn, -1.0, 1.0).to(folded)
    for axis, number in enumerate(numbers):
        signs = signs.index_select(axis + 2, number)
    return signs * bumps(offsets, sizes, split).to(folded)
